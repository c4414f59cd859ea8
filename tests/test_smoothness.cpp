// Closeness, penalty, pairing and the smoothness term: Eqs. 2 to 4.

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "../benchmarks/naive.hpp"
#include "../benchmarks/peak_memory.hpp"
#include "catch.hpp"
#include "smooseg/closeness.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/pairing.hpp"
#include "smooseg/penalty.hpp"
#include "smooseg/smoothness.hpp"
#include "support.hpp"

using namespace smooseg;

namespace {

const auto kDouble = torch::TensorOptions().dtype(torch::kFloat64);

/// The cosine once more, but given pair by pair.
struct PairwiseCosine {
  Tensor pairwise(const Tensor& x, const Tensor& y) const {
    return functional::closeness(x, y, ClosenessOptions().centering(Centering::kNone));
  }
};

/// Another inner product than the paper's: x . y without normalisation.
struct DotCloseness {
  Tensor embed(const Tensor& x) const { return x; }
};

/// Eq. 4 with plain loops over images and pairs, in float64: {within, across}.
std::array<double, 2> double_loop(const Tensor& x, const Tensor& a, const Tensor& pairing, const SmoothnessOptions& o) {
  const Tensor xs = x.detach().to(torch::kFloat64).flatten(2), as = a.detach().to(torch::kFloat64).flatten(2);
  const int64_t batch = xs.size(0), n = xs.size(2);
  const auto cosine = [](const Tensor& u, const Tensor& v) {
    const double norms = u.norm().item<double>() * v.norm().item<double>();
    return norms > 0 ? u.dot(v).item<double>() / norms : 0.0;
  };
  std::array<double, 2> energy{};
  for (int part = 0; part < 2; ++part) {
    std::vector<double> w, delta;
    double all = 0;
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t j = part == 0 ? i : pairing[i].item<int64_t>();
      for (int64_t p = 0; p < n; ++p) {
        for (int64_t q = 0; q < n; ++q) {
          w.push_back(cosine(xs[i].select(1, p), xs[j].select(1, q)));
          delta.push_back(1 - cosine(as[i].select(1, p), as[j].select(1, q)));
          all += w.back();
        }
      }
    }
    const double mean = all / static_cast<double>(w.size());
    const double threshold = part == 0 ? o.within_threshold() : o.across_threshold();
    for (std::size_t row = 0; row < w.size(); row += static_cast<std::size_t>(n)) {
      double row_mean = 0;
      for (std::size_t q = row; q < row + static_cast<std::size_t>(n); ++q) row_mean += w[q] / static_cast<double>(n);
      for (std::size_t q = row; q < row + static_cast<std::size_t>(n); ++q) {
        double centered = w[q];
        if (o.centering() != Centering::kNone) centered -= row_mean;
        if (o.centering() == Centering::kRowKeepMean) centered += mean;
        energy[static_cast<std::size_t>(part)] += (centered - threshold) * delta[q];
      }
    }
    if (o.reduction() == Reduction::kMean) energy[static_cast<std::size_t>(part)] /= static_cast<double>(w.size());
  }
  return energy;
}

double threshold(const std::string& file, const char* key) {
  return std::stod(io::read_safetensors_metadata(data_path(file)).at(key));
}

Tensor pairing_of(std::vector<int64_t> partners) {
  return torch::tensor(partners, torch::kInt64);
}

/// Policies that return what they are told.
struct Returning {
  Tensor result;
  Tensor embed(const Tensor&) const { return result; }
};
struct ReturningPairs {
  Tensor result;
  Tensor pairwise(const Tensor&, const Tensor&) const { return result; }
};

}  // namespace

TEST_CASE("closeness by hand", "[closeness]") {
  // Two patches (3,4) and (0,2) against (1,0) and (0,0): cosines 0.6, 0 and 0, 0.
  const Tensor x = torch::tensor({3.0, 0.0, 4.0, 2.0}, kDouble).view({1, 2, 2});
  const Tensor y = torch::tensor({1.0, 0.0, 0.0, 0.0}, kDouble).view({1, 2, 1, 2});
  const auto closeness = [&](Centering centering) {
    return functional::closeness(x, y, ClosenessOptions().centering(centering)).flatten();
  };
  CHECK(relative_error(closeness(Centering::kNone), torch::tensor({0.6, 0.0, 0.0, 0.0}, kDouble)) < 1e-15);
  CHECK(relative_error(closeness(Centering::kRow), torch::tensor({0.3, -0.3, 0.0, 0.0}, kDouble)) < 1e-15);
  CHECK(relative_error(closeness(Centering::kRowKeepMean), torch::tensor({0.45, -0.15, 0.15, 0.15}, kDouble)) < 1e-15);
  CHECK(functional::closeness(x, y).sizes() == torch::IntArrayRef{1, 2, 2});
}

TEST_CASE("closeness and penalty refuse what does not fit", "[closeness]") {
  const Tensor x = torch::rand({2, 3, 4});
  CHECK_ERROR(
      functional::closeness(x, torch::rand({2, 4, 4})),
      "smooseg::functional::closeness: expected x and y of equal batch and channels, got (2, 3, 4) and (2, 4, 4)");
  CHECK_ERROR(functional::closeness(x, torch::rand({1, 3, 4})), "got (2, 3, 4) and (1, 3, 4)");
  CHECK_ERROR(functional::closeness(x[0], x[0]),
              "expected x of shape (B,C,...) with no dimension of size 0, got (3, 4)");
  CHECK_ERROR(functional::closeness(x, x.to(torch::kInt64)), "expected y of a floating dtype, got Long");
  CHECK_ERROR(functional::closeness(x, x.to(torch::kFloat64)), "of one dtype, got Float and Double");
  CHECK_ERROR(functional::closeness(Tensor(), x), "x is undefined");
  CHECK_ERROR(functional::label_penalty(x, torch::rand({2, 3, 0})), "expected b of shape (B,K,...)");
  CHECK_ERROR(functional::label_penalty(x, torch::rand({2, 2, 4})), "smooseg::functional::label_penalty");
}

TEST_CASE("penalty by hand", "[penalty]") {
  const Tensor a = torch::tensor({1.0, 0.6, 0.0, 0.8}, kDouble).view({1, 2, 2});
  const Tensor expected = torch::tensor({0.0, 0.4, 0.4, 0.0}, kDouble).view({1, 2, 2});
  CHECK((functional::label_penalty(a, a) - expected).abs().max().item<double>() < 1e-15);
  const Tensor wide = torch::rand({2, 5, 3, 4});
  CHECK(functional::label_penalty(wide, torch::rand({2, 5, 7})).sizes() == torch::IntArrayRef{2, 12, 7});
}

TEST_CASE("closeness and penalty of the published program", "[closeness][penalty][golden]") {
  for (const char* file : {"loss_small", "loss_cityscapes_shape", "loss_potsdam_shape"}) {
    INFO(file);
    const auto g = golden(std::string(file) + ".safetensors");
    const Tensor x = g.at("features").narrow(0, 0, 1);
    const Tensor w = functional::closeness(x, x, ClosenessOptions().centering(Centering::kRow))[0];
    CHECK(relative_error(w, g.at("closeness_within_0_row_centred")) < 1e-9);
    const Tensor a = at::softmax(g.at("teacher_logits") / 0.1, 1);
    const Tensor delta = functional::label_penalty(a.narrow(0, 0, 1), a.index_select(0, g.at("pairing")[0].view(1)))[0];
    CHECK(relative_error(delta, g.at("penalty_across_0")) < 1e-9);
  }
}

TEST_CASE("a pairing is a uniform derangement", "[pairing]") {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
  std::array<int, 9> count{};
  for (int draw = 0; draw < 1800; ++draw) {
    const Tensor pairing = functional::random_pairing(4, generator);
    REQUIRE(std::get<0>(pairing.sort()).equal(torch::arange(4)));
    REQUIRE_FALSE(pairing.eq(torch::arange(4)).any().item<bool>());
    // The 9 derangements of 4, told apart by the first partner and what follows it.
    const auto first = pairing[0].item<int64_t>(), next = pairing[1].item<int64_t>(),
               third = pairing[2].item<int64_t>();
    const std::array<int64_t, 3> key{first, next, third};
    static std::vector<std::array<int64_t, 3>> known;
    auto found = std::find(known.begin(), known.end(), key);
    if (found == known.end()) found = known.insert(known.end(), key);
    REQUIRE(known.size() <= 9);
    ++count[static_cast<std::size_t>(found - known.begin())];
  }
  for (const int c : count) CHECK((c > 140 && c < 260));  // 200 expected, deviation 13

  auto again = at::make_generator<at::CPUGeneratorImpl>(3), same = at::make_generator<at::CPUGeneratorImpl>(3);
  CHECK(functional::random_pairing(32, again).equal(functional::random_pairing(32, same)));
  CHECK(functional::random_pairing(2).equal(pairing_of({1, 0})));
  CHECK(functional::random_pairing(1).equal(pairing_of({0})));
  CHECK_ERROR(functional::random_pairing(0), "expected a batch of at least 1, got 0");
}

TEST_CASE("smoothness of the published program, value and gradient", "[smoothness][golden]") {
  for (const char* file :
       {"loss_small.safetensors", "loss_cityscapes_shape.safetensors", "loss_potsdam_shape.safetensors"}) {
    const auto g = golden(file);
    const auto options = SmoothnessOptions()
                             .within_threshold(threshold(file, "within_threshold"))
                             .across_threshold(threshold(file, "across_threshold"));
    for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
      INFO(file << ", evaluation " << static_cast<int>(evaluation));
      const Tensor a = at::softmax(g.at("teacher_logits") / 0.1, 1);
      SmoothnessLoss loss(SmoothnessOptions(options).evaluation(evaluation));
      const SmoothnessTerms t = loss(g.at("features"), a, g.at("pairing"));
      CHECK(relative_error(t.within.view(1), g.at("within_loss")) < 1e-9);
      CHECK(relative_error(t.across.view(1), g.at("across_loss")) < 1e-9);
      CHECK(relative_error(t.within_penalty_mean.view(1), g.at("within_penalty_mean")) < 1e-9);
      CHECK(relative_error(t.across_penalty_mean.view(1), g.at("across_penalty_mean")) < 1e-9);

      SmoothnessLoss paper(
          SmoothnessOptions(options).evaluation(evaluation).centering(Centering::kRow).reduction(Reduction::kSum));
      const SmoothnessTerms s = paper(g.at("features"), a, g.at("pairing"));
      CHECK(relative_error(s.within.view(1), g.at("paper_within_sum")) < 1e-9);
      CHECK(relative_error(s.across.view(1), g.at("paper_across_sum")) < 1e-9);
    }
  }
}

TEST_CASE("smoothness equals the double loop in every form", "[smoothness]") {
  torch::manual_seed(5);
  Tensor x = torch::randn({3, 5, 3, 4}, kDouble);
  const Tensor a = at::softmax(torch::randn({3, 4, 3, 4}, kDouble), 1);
  x.select(0, 1).select(1, 2).zero_();           // a row of patches without features is close to nothing
  const Tensor pairing = pairing_of({2, 2, 0});  // an image may have any partner
  for (const auto centering : {Centering::kNone, Centering::kRow, Centering::kRowKeepMean}) {
    for (const auto reduction : {Reduction::kMean, Reduction::kSum}) {
      const auto options = SmoothnessOptions().centering(centering).reduction(reduction).within_threshold(0.13);
      const auto expected = double_loop(x, a, pairing, options);
      for (const auto evaluation : {Evaluation::kAuto, Evaluation::kPairwise}) {
        INFO(static_cast<int>(centering) << static_cast<int>(reduction) << static_cast<int>(evaluation));
        SmoothnessLoss loss(SmoothnessOptions(options).evaluation(evaluation));
        const SmoothnessTerms t = loss(x, a, pairing);
        CHECK(relative_error(t.within, expected[0]) < 1e-11);
        CHECK(relative_error(t.across, expected[1]) < 1e-11);
        CHECK(relative_error(t.total(), expected[0] + expected[1]) < 1e-11);
      }
    }
  }
}

TEST_CASE("factorised and pairwise agree on many shapes, in value and both gradients", "[smoothness]") {
  torch::manual_seed(11);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const std::vector<std::array<int64_t, 5>> shapes{{1, 1, 1, 1, 1},   {2, 3, 2, 1, 1},  {2, 7, 1, 1, 9},
                                                   {5, 16, 40, 3, 2}, {3, 8, 27, 7, 9}, {4, 12, 5, 17, 1}};
  for (const auto& [b, c, k, h, w] : shapes) {
    for (const auto centering : {Centering::kNone, Centering::kRow, Centering::kRowKeepMean}) {
      INFO(b << " " << c << " " << k << " " << h << " " << w << " " << static_cast<int>(centering));
      const Tensor pairing = functional::random_pairing(b, generator);
      const Tensor values = torch::randn({b, c, h, w}, kDouble), logits = torch::randn({b, k, h, w}, kDouble);
      const auto evaluate = [&](Evaluation evaluation, int64_t block_bytes) {
        // Channels-last and a transposed view: memory layout must not matter.
        const Tensor x = values.to(torch::MemoryFormat::ChannelsLast).requires_grad_();
        const Tensor leaf = logits.transpose(2, 3).contiguous().requires_grad_();
        SmoothnessLoss loss(SmoothnessOptions().centering(centering).evaluation(evaluation).block_bytes(block_bytes));
        const SmoothnessTerms t = loss(x, at::softmax(leaf.transpose(2, 3), 1), pairing);
        // Different weights on the four outputs, so that each one's gradient counts.
        const Tensor value = t.within + 2 * t.across + 3 * t.within_penalty_mean + 5 * t.across_penalty_mean;
        value.backward();
        return std::array<Tensor, 3>{value.detach(), x.grad(), leaf.grad()};
      };
      const auto factorized = evaluate(Evaluation::kFactorized, 1 << 20);
      for (const int64_t block_bytes : {1, 1 << 24}) {
        const auto pairwise = evaluate(Evaluation::kPairwise, block_bytes);
        for (std::size_t i = 0; i < 3; ++i) CHECK((factorized[i] - pairwise[i]).abs().max().item<double>() < 1e-11);
      }
    }
  }
}

TEST_CASE("gradients of the smoothness term agree with finite differences", "[smoothness]") {
  torch::manual_seed(2);
  const Tensor x = torch::randn({2, 3, 2, 2}, kDouble), a = torch::rand({2, 3, 2, 2}, kDouble) + 0.1;
  const Tensor pairing = pairing_of({1, 0});
  for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
    SmoothnessLoss loss(SmoothnessOptions().evaluation(evaluation));
    const auto value = [&](const Tensor& xs, const Tensor& as) { return loss(xs, as, pairing).total(); };
    for (const bool of_features : {true, false}) {
      const Tensor leaf = (of_features ? x : a).clone().requires_grad_();
      (of_features ? value(leaf, a) : value(x, leaf)).backward();
      Tensor numeric = torch::zeros_like(leaf);
      for (int64_t e = 0; e < leaf.numel(); ++e) {
        constexpr double kStep = 1e-6;
        const auto moved = [&](double step) {
          Tensor copy = leaf.detach().clone();
          copy.view(-1)[e] += step;
          return (of_features ? value(copy, a) : value(x, copy)).item<double>();
        };
        numeric.view(-1)[e] = (moved(kStep) - moved(-kStep)) / (2 * kStep);
      }
      CHECK(relative_error(leaf.grad(), numeric) < 1e-7);
    }
  }
}

TEST_CASE("policies of one's own", "[smoothness]") {
  torch::manual_seed(4);
  const Tensor x = torch::randn({2, 4, 3, 3}, kDouble), pairing = pairing_of({1, 0});
  const Tensor a = at::softmax(torch::randn({2, 3, 3, 3}, kDouble), 1).requires_grad_();

  SmoothnessLoss<> cosine{SmoothnessOptions()};
  SmoothnessLoss<PairwiseCosine> pairwise{SmoothnessOptions()};
  CHECK(relative_error(pairwise(x, a, pairing).total(), cosine(x, a, pairing).total()) < 1e-12);

  SmoothnessLoss<DotCloseness> dot{SmoothnessOptions()};
  SmoothnessLoss<DotCloseness> dot_pairwise{SmoothnessOptions().evaluation(Evaluation::kPairwise)};
  CHECK(relative_error(dot(x, a, pairing).total(), dot_pairwise(x, a, pairing).total()) < 1e-12);

  // Gaussians of features, and of features and places, by their definitions.
  const auto options = SmoothnessOptions().centering(Centering::kNone).within_threshold(0);
  const GaussianCloseness gaussian{1.5};
  const BilateralCloseness bilateral{2.5, 1.25};
  const Tensor place = at::stack({torch::arange(9).div(3, "floor"), torch::arange(9).remainder(3)}, 1).to(kDouble);
  const auto squares = [](const Tensor& t) { return (t.unsqueeze(0) - t.unsqueeze(1)).square().sum(-1); };
  const auto check = [&](auto loss, double bandwidth, double weight_of_places) {
    const Tensor leaf = x.detach().clone().requires_grad_();
    const auto t = loss(leaf, a, pairing);
    Tensor expected = torch::zeros({}, kDouble);
    for (int64_t i = 0; i < 2; ++i) {
      const Tensor distances = squares(leaf[i].flatten(1).t()) / (bandwidth * bandwidth);
      const Tensor w = (-0.5 * (distances + weight_of_places * squares(place))).exp();
      expected = expected + (w * functional::label_penalty(a.narrow(0, i, 1), a.narrow(0, i, 1))[0]).sum() / (2 * 81);
    }
    CHECK(relative_error(t.within, expected) < 1e-12);
    const auto gradients = torch::autograd::grad({expected}, {leaf, a});
    const auto got = torch::autograd::grad({t.within}, {leaf, a});
    CHECK(relative_error(got[0], gradients[0]) < 1e-11);
    CHECK(relative_error(got[1], gradients[1]) < 1e-11);
  };
  check(SmoothnessLoss<GaussianCloseness>(options, gaussian), 1.5, 0);
  check(SmoothnessLoss<BilateralCloseness>(options, bilateral), 2.5, 1 / (1.25 * 1.25));

  // A pairwise policy cannot learn, and says so; without gradients to record it is evaluated.
  const ReturningPairs learning{torch::full({1, 1, 1}, 2, kDouble).requires_grad_()};
  const auto evaluate = [&] {
    return functional::smoothness(x.narrow(2, 0, 1).narrow(3, 0, 1), a.narrow(2, 0, 1).narrow(3, 0, 1), pairing, {},
                                  learning);
  };
  CHECK_ERROR(evaluate(), "a policy evaluated pairwise cannot learn");
  {
    const torch::NoGradGuard no_grad;
    CHECK(evaluate().within.isfinite().item<bool>());
  }

  // What a policy returns is checked, never broadcast.
  const auto refuses = [&](auto closeness, const char* text) {
    CHECK_ERROR(functional::smoothness(x, a, pairing, {}, closeness), text);
  };
  refuses(Returning{torch::rand({2, 4, 1}, kDouble)},
          "expected a policy's `embed` to return sizes [2, -1, 9] (-1: any) of Double, got (2, 4, 1) of Double");
  refuses(Returning{torch::rand({2, 4, 9})}, "of Double, got (2, 4, 9) of Float");
  refuses(Returning{Tensor()}, "got undefined");
  refuses(ReturningPairs{torch::rand({9, 9}, kDouble)}, "`pairwise` to return sizes [1, 9, 9]");
  refuses(ReturningPairs{torch::rand({1, 9, 1}, kDouble)}, "got (1, 9, 1)");

  CHECK_ERROR(SmoothnessLoss<GaussianCloseness>(SmoothnessOptions().evaluation(Evaluation::kFactorized)),
              "factorised evaluation needs policies that are inner products");
}

TEST_CASE("factorised, pairwise and textbook form agree on random shapes and layouts", "[smoothness]") {
  torch::manual_seed(12);
  const auto draw = [](int64_t low, int64_t high) { return torch::randint(low, high + 1, {1}).item<int64_t>(); };
  const auto options = SmoothnessOptions().within_threshold(0.11).across_threshold(0.3);
  for (int trial = 0; trial < 24; ++trial) {
    const int64_t b = draw(2, 5), c = draw(1, 48), k = draw(1, 40), h = draw(1, 20), w = draw(1, 300 / h);
    INFO("B " << b << ", C " << c << ", K " << k << ", " << h << " x " << w << ", trial " << trial);
    Tensor x = torch::randn({b, c, h, w}), a = at::softmax(3 * torch::randn({b, k, h, w}), 1);
    x.flatten(2).select(2, draw(0, h * w - 1)).zero_();
    const Tensor pairing = functional::random_pairing(b);
    switch (trial % 4) {
      case 1:
        x = x.to(torch::MemoryFormat::ChannelsLast);
        break;
      case 2:
        x = torch::randn({b, c, h, 2 * w}).slice(3, 0, 2 * w, 2), a = a.transpose(2, 3).contiguous().transpose(2, 3);
        break;
      case 3:
        x = x.to(torch::kBFloat16);
        break;
      default:
        break;
    }
    const Tensor wide = x.to(torch::kFloat64);
    const auto evaluate = [&](const Tensor& features, const auto& loss) {
      const bool is_half = features.scalar_type() == torch::kBFloat16;
      const Tensor leaf = features.detach().clone().requires_grad_();
      const Tensor assignments =
          a.to(is_half ? torch::kFloat32 : features.scalar_type()).detach().clone().requires_grad_();
      const Tensor value = loss(leaf, assignments);
      value.backward();
      // To a vector of zeros the gradient is that of x / eps, large beyond all others.
      const Tensor of_features = leaf.grad() * features.abs().sum(1, true).ne(0);
      return std::array<Tensor, 3>{value.detach(), of_features, assignments.grad()};
    };
    const auto ours = [&](Evaluation evaluation, int64_t block_bytes) {
      return [&options, &pairing, evaluation, block_bytes](const Tensor& u, const Tensor& v) {
        SmoothnessLoss loss(SmoothnessOptions(options).evaluation(evaluation).block_bytes(block_bytes));
        return loss(u, v, pairing).total();
      };
    };
    const auto exact =
        evaluate(wide, [&](const Tensor& u, const Tensor& v) { return naive::smoothness(u, v, pairing, options); });
    const auto close = [](const Tensor& got, const Tensor& expected, double tolerance) {
      // Where all cancels, as with one class, against the size of what cancelled.
      const double scale = std::max(1e-3, expected.norm().item<double>());
      return (got.to(torch::kFloat64) - expected).norm().item<double>() <= tolerance * scale;
    };
    for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
      const auto in_double = evaluate(wide, ours(evaluation, 1 << 20));
      const auto got = evaluate(x, ours(evaluation, 1 << 13));  // small blocks, so that there are several
      for (std::size_t i = 0; i < 3; ++i) {
        INFO("evaluation " << static_cast<int>(evaluation) << ", output " << i);
        CHECK(got[i].scalar_type() == (i == 1 ? x.scalar_type() : torch::kFloat32));
        CHECK(close(in_double[i], exact[i], 1e-11));
        const bool rounded = i == 1 && x.scalar_type() == torch::kBFloat16;  // the gradient to half precision features
        CHECK(close(got[i], exact[i], rounded ? 4e-3 : i == 0 ? 5e-6 : 1e-5));
      }
    }
  }
}

TEST_CASE("float32 is exact to its rounding at the size that is trained with", "[smoothness]") {
  torch::manual_seed(13);
  const Tensor x = torch::randn({4, 384, 28, 28}), logits = 5 * torch::randn({4, 27, 28, 28});
  const Tensor pairing = functional::random_pairing(4);
  const auto evaluate = [&](torch::ScalarType dtype, Evaluation evaluation) {
    SmoothnessLoss loss(SmoothnessOptions().evaluation(evaluation));
    const Tensor a = at::softmax(logits.to(torch::kFloat64), 1).to(dtype).requires_grad_();
    const Tensor value = loss(x.to(dtype), a, pairing).total();
    value.backward();
    return std::array<Tensor, 2>{value.detach(), a.grad()};
  };
  const auto exact = evaluate(torch::kFloat64, Evaluation::kPairwise);
  const auto ours = evaluate(torch::kFloat32, Evaluation::kFactorized);
  CHECK(relative_error(ours[0], exact[0]) < 1e-6);
  CHECK((ours[1] - exact[1]).norm().item<double>() < 5e-6 * exact[1].norm().item<double>());
}

TEST_CASE("half precision is summed in float32, also under autocast", "[smoothness]") {
  torch::manual_seed(6);
  const Tensor x = torch::randn({2, 8, 20, 20}), a = at::softmax(3 * torch::randn({2, 5, 20, 20}), 1);
  const Tensor pairing = pairing_of({1, 0});
  for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
    SmoothnessLoss loss(SmoothnessOptions().evaluation(evaluation));
    for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
      const Tensor xh = x.to(dtype), ah = a.to(dtype);
      const SmoothnessTerms expected = loss(xh.to(torch::kFloat64), ah.to(torch::kFloat64), pairing);
      for (const bool autocast : {false, true}) {
        const AutocastOnCpu guard(autocast);
        const SmoothnessTerms got = loss(xh, ah, pairing);
        CHECK(got.within.scalar_type() == torch::kFloat32);
        CHECK(relative_error(got.within, expected.within) < 1e-5);
        CHECK(relative_error(got.across, expected.across) < 1e-6);
      }
    }
  }
}

TEST_CASE("the smoothness term takes little memory beyond its input", "[smoothness]") {
  // The textbook form holds several of 4 x 1600 x 1600 floats, 41 MB each.
  torch::manual_seed(14);
  const Tensor x = torch::randn({4, 96, 40, 40}), pairing = functional::random_pairing(4);
  const Tensor a = at::softmax(torch::randn({4, 27, 40, 40}), 1).requires_grad_();
  const auto peak = [&](const Tensor& features, Evaluation evaluation) {
    SmoothnessLoss loss(SmoothnessOptions().evaluation(evaluation).block_bytes(1 << 20));
    a.mutable_grad().reset();
    const PeakMemory memory;
    loss(features, a, pairing).total().backward();
    return static_cast<double>(memory.bytes()) / 1e6;
  };
  const double of_assignments = 4 * 27 * 1600 * 4 / 1e6, of_features = 4 * 96 * 1600 * 4 / 1e6;
  CHECK(peak(x, Evaluation::kFactorized) < 3 * of_assignments);
  CHECK(peak(x, Evaluation::kFactorized) > of_assignments);  // the gradient: so the count counts
  CHECK(peak(x.to(torch::kBFloat16), Evaluation::kFactorized) < 3 * of_assignments + 3);  // converted in parts
  CHECK(peak(x.clone().requires_grad_(), Evaluation::kFactorized) < 4 * of_assignments + 2 * of_features);
  CHECK(peak(x, Evaluation::kPairwise) < of_features + 12);  // a dozen blocks
}

TEST_CASE("65536 patches, more pairs than fit an int32", "[smoothness]") {
  torch::manual_seed(16);
  const Tensor x = torch::randn({1, 6, 256, 256}), pairing = pairing_of({0});
  const Tensor a = at::softmax(torch::randn({1, 3, 256, 256}), 1);
  SmoothnessLoss loss;
  const auto gradient = [&](torch::ScalarType dtype) {
    const Tensor leaf = a.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true).requires_grad_();
    const Tensor value = loss(x.to(dtype), leaf, pairing).total();
    value.backward();
    return std::array<Tensor, 2>{value.detach(), leaf.grad()};
  };
  const auto got = gradient(torch::kFloat32), exact = gradient(torch::kFloat64);
  CHECK(relative_error(got[0], exact[0]) < 1e-6);
  CHECK((got[1] - exact[1]).norm().item<double>() < 5e-6 * exact[1].norm().item<double>());
}

TEST_CASE("what cannot be differentiated twice says so", "[smoothness]") {
  const Tensor x = torch::rand({2, 3, 4}), a = torch::rand({2, 3, 4}).requires_grad_();
  for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
    SmoothnessLoss loss(SmoothnessOptions().evaluation(evaluation));
    const Tensor value = loss(x, a, pairing_of({1, 0})).total();
    CHECK_ERROR(torch::autograd::grad({value}, {a}, {}, true, /*create_graph=*/true),
                "smooseg::SmoothnessLoss: second derivatives (create_graph) are not supported");
  }
}

TEST_CASE("distribution of the penalty", "[penalty]") {
  torch::manual_seed(15);
  const Tensor a = at::softmax(2 * torch::randn({3, 4, 5, 6}), 1);
  const Tensor delta = functional::label_penalty(a, a).flatten().to(torch::kFloat64);
  const auto all = functional::penalty_histogram(a, PenaltyHistogramOptions().bins(20));
  CHECK(all.edges.equal(torch::linspace(0, 1, 21, kDouble)));
  CHECK(all.counts.sum().item<int64_t>() == 3 * 30 * 30);
  // Rounding may move what lies on an edge, such as the penalty 0 of a patch with itself, which stays in the first bin.
  CHECK((all.counts - at::histc(delta.clamp(0, 1), 20, 0, 1).to(torch::kInt64)).abs().sum().item<int64_t>() <= 2);
  const auto blocks = functional::penalty_histogram(a, PenaltyHistogramOptions().bins(20).block_bytes(1));
  CHECK((blocks.counts - all.counts).abs().sum().item<int64_t>() <= 2);

  const auto sampled = [&](uint64_t seed, int64_t samples, int64_t block_bytes) {
    return functional::penalty_histogram(a,
                                         PenaltyHistogramOptions().bins(20).samples(samples).block_bytes(block_bytes),
                                         at::make_generator<at::CPUGeneratorImpl>(seed))
        .counts;
  };
  const Tensor many = sampled(1, 200000, 1 << 20);
  CHECK(many.sum().item<int64_t>() == 200000);
  CHECK((many / 200000.0 - all.counts / 2700.0).abs().max().item<double>() < 0.01);
  CHECK(sampled(1, 1000, 1 << 10).sum().item<int64_t>() == 1000);
  CHECK(sampled(1, 1000, 1 << 20).equal(sampled(1, 1000, 1 << 20)));
  CHECK_FALSE(sampled(1, 1000, 1 << 20).equal(sampled(2, 1000, 1 << 20)));

  // One-hot assignments: equal or disjoint labels, so all pairs lie in the first or the last bin.
  const Tensor hot = at::one_hot(torch::tensor({0, 1, 1, 2})).t().unsqueeze(0).to(torch::kFloat32);
  const auto two = functional::penalty_histogram(hot, PenaltyHistogramOptions().bins(3));
  CHECK(two.counts.equal(torch::tensor({6, 0, 10}, torch::kInt64)));

  CHECK_ERROR(functional::penalty_histogram(a - 1), "assignments that are finite and not negative");
  CHECK_ERROR(functional::penalty_histogram(a / 0), "assignments that are finite and not negative");
  CHECK_ERROR(functional::penalty_histogram(a, PenaltyHistogramOptions().bins(0)), "expected bins >= 1");
  CHECK_ERROR(functional::penalty_histogram(a[0][0]), "expected assignments of shape (B,K,...)");
}

TEST_CASE("features without gradient stay without", "[smoothness]") {
  const Tensor x = torch::rand({2, 3, 4}), a = torch::rand({2, 3, 4}).requires_grad_();
  for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
    SmoothnessLoss loss(SmoothnessOptions().evaluation(evaluation));
    loss(x, a, pairing_of({1, 0})).total().backward();
    CHECK_FALSE(x.grad().defined());
    CHECK(a.grad().abs().sum().item<double>() > 0);
  }
}

TEST_CASE("the smoothness term refuses what does not fit", "[smoothness]") {
  SmoothnessLoss loss;
  const Tensor x = torch::rand({2, 3, 4, 4}), a = torch::rand({2, 5, 4, 4}), pairing = pairing_of({1, 0});
  CHECK_ERROR(loss(x, torch::rand({2, 5, 4, 3}), pairing),
              "smooseg::functional::smoothness: expected features and assignments of the same patches, that is, equal "
              "dimensions after the second, got (2, 3, 4, 4) and (2, 5, 4, 3)");
  CHECK_ERROR(loss(x, a.flatten(2), pairing), "got (2, 3, 4, 4) and (2, 5, 16); flatten(2) joins (h,w) to one");
  CHECK_ERROR(loss(x, a.narrow(0, 0, 1), pairing), "got (2, 3, 4, 4) and (1, 5, 4, 4)");
  CHECK_ERROR(loss(x, a, pairing_of({0, 1, 0})), "expected pairing of shape (2) and dtype Long, got (3) and Long");
  CHECK_ERROR(loss(x, a, torch::rand({2})), "got (2) and Float");
  CHECK_ERROR(loss(x, a, pairing_of({1, 2})), "indices of the batch, 0 to 1, got 1 to 2");
  CHECK_ERROR(loss(x, a, Tensor()), "pairing is undefined");
  CHECK_ERROR(loss(x, a.to(torch::kInt64), pairing), "expected assignments of a floating dtype, got Long");
  CHECK_ERROR(SmoothnessLoss(SmoothnessOptions().block_bytes(0)), "expected block_bytes > 0, got 0");
}
