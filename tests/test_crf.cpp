// The dense CRF against the published program's outputs, against textbook forms, and at the limits of its input.

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <sstream>

#include "smooseg/crf/dense_crf.hpp"
#include "smooseg/crf/permutohedral.hpp"
#include "support.hpp"

using Catch::Approx;
using smooseg::Tensor;
using namespace smooseg::crf;
using smooseg::detail::Isa;

namespace {

/// The instruction sets of this machine; says, once a process, which ones remain untested.
const std::vector<Isa>& machine_isas() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> result{Isa::kBaseline};
    for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
      if (isa <= smooseg::detail::machine_isa()) {
        result.push_back(isa);
      } else {
        WARN("skipped, as this machine lacks it: " << (isa == Isa::kAvx2 ? "AVX2" : "AVX-512"));
      }
    }
    return result;
  }();
  return isas;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes()) return INFINITY;
  const double difference = (a - b).abs().max().item<double>();
  return std::isnan(difference) ? INFINITY : difference;
}

/// A picture of soft blobs with some noise, and blurred probabilities.
struct Problem {
  Problem(int64_t height, int64_t width, int64_t classes, uint64_t seed = 1) {
    torch::manual_seed(seed);
    const Tensor coarse = at::rand({1, 3, 3, 3}) * 255;
    image = at::upsample_bilinear2d(coarse, {height, width}, false)[0].permute({1, 2, 0});
    image = (image + 4 * torch::randn(image.sizes())).clamp(0, 255).to(torch::kUInt8).contiguous();
    probabilities = (3 * torch::randn({classes, height, width})).softmax(0);
  }
  Tensor image, probabilities;
};

/// Algorithm 1 in float64 with explicit matrices: kernels K normalised, all pairs (i, i) included.
Eigen::MatrixXd textbook(const Problem& problem, const MeanFieldOptions& options) {
  const int64_t height = problem.image.size(0), width = problem.image.size(1), classes = problem.probabilities.size(0);
  const int64_t n = height * width;
  const Tensor flat =
      problem.probabilities.clamp_min(1e-5).log().view({classes, n}).t().to(torch::kFloat64).contiguous();
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::MatrixXd logits = Eigen::Map<const RowMajor>(flat.data_ptr<double>(), n, classes);
  const auto pixels = problem.image.accessor<uint8_t, 3>();
  const auto lattice_matrix = [&](auto lattice) -> Eigen::MatrixXd {
    return lattice.filter(Eigen::ArrayXXf(Eigen::MatrixXf::Identity(n, n))).matrix().template cast<double>();
  };
  Eigen::MatrixXd kernels = Eigen::MatrixXd::Zero(n, n);
  for (const PairwiseTerm& term : options.terms) {
    Permutohedral<2>::Features at(n, 2);
    Permutohedral<5>::Features look(n, 5);
    for (int64_t i = 0; i < n; ++i) {
      at.row(i) << static_cast<float>(i % width), static_cast<float>(i / width);
      at.row(i) /= static_cast<float>(term.sxy);
      for (int c = 0; c < 3; ++c) {
        look(i, 2 + c) =
            static_cast<float>(pixels[i / width][i % width][c]) / static_cast<float>(term.srgb.value_or(1));
      }
    }
    look.leftCols(2) = at;
    Eigen::MatrixXd k = term.srgb ? lattice_matrix(Permutohedral<5>(look)) : lattice_matrix(Permutohedral<2>(at));
    const Eigen::VectorXd sums = k.rowwise().sum();
    if (options.normalization == Normalization::kSymmetric) {
      const Eigen::VectorXd root = sums.cwiseSqrt().cwiseInverse();
      k = root.asDiagonal() * k * root.asDiagonal();
    } else if (options.normalization == Normalization::kBefore) {
      k = k * sums.cwiseInverse().asDiagonal();
    } else if (options.normalization == Normalization::kAfter) {
      k = sums.cwiseInverse().asDiagonal() * k;
    }
    kernels += term.weight * k;
  }
  Eigen::MatrixXd mu = Eigen::MatrixXd::Ones(classes, classes) - Eigen::MatrixXd::Identity(classes, classes);
  if (options.compatibility.size() > 0) mu = options.compatibility.cast<double>();
  const auto softmax = [](Eigen::MatrixXd x) {
    x.colwise() -= x.rowwise().maxCoeff().eval();
    x = x.array().exp();
    x.array().colwise() /= x.rowwise().sum().array().eval();
    return x;
  };
  Eigen::MatrixXd q = softmax(logits);
  for (int64_t i = 0; i < options.iterations; ++i) q = softmax(logits - kernels * q * mu.transpose());
  return q;
}

Tensor tensor_of(const Eigen::MatrixXd& q, const Problem& problem) {
  return torch::from_blob(const_cast<double*>(q.data()), {q.cols(), q.rows()}, torch::kFloat64)
      .view(problem.probabilities.sizes())
      .clone();
}

Tensor run(const MeanFieldOptions& options, const Problem& problem, Isa isa) {
  const Tensor energies = -problem.probabilities.clamp_min(1e-5).log();
  const Tensor result = torch::empty_like(energies);
  const auto height = static_cast<size_t>(energies.size(1)), width = static_cast<size_t>(energies.size(2));
  mean_field(options, {problem.image.data_ptr<uint8_t>(), static_cast<std::ptrdiff_t>(3 * width)}, height, width,
             static_cast<size_t>(energies.size(0)),
             {energies.data_ptr<float>(), energies.stride(0), energies.stride(1)},
             {result.data_ptr<float>(), result.stride(0), result.stride(1)}, isa);
  return result;
}

template <int lanes>
struct ExponentialKernel {
  template <Isa isa>
  SMOOSEG_INLINE static void run(float* values, int count) {
    for (int i = 0; i < count; i += lanes) {
      smooseg::detail::Wide<float, lanes> x;
      smooseg::detail::load(x, values + i);
      smooseg::detail::exponential<lanes>(x);
      smooseg::detail::store(values + i, x);
    }
  }
};

/// Relative error of the lattice's filter against the sum over all pairs: of the mean and at most, over the largest.
template <int d, class Scalar>
std::pair<double, double> filter_error(Isa isa, int points, double spread) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> real(0, 1);
  typename Permutohedral<d, Scalar>::Features features(points, d);
  typename Permutohedral<d, Scalar>::Values values(points, 5);
  for (auto& x : features.reshaped()) x = static_cast<Scalar>(spread * real(random));
  for (auto& x : values.reshaped()) x = static_cast<Scalar>(real(random));
  const auto filtered = Permutohedral<d, Scalar>(features, isa).filter(values).template cast<double>().eval();
  Eigen::ArrayXXd exact = Eigen::ArrayXXd::Zero(points, 5);
  for (int i = 0; i < points; ++i) {
    for (int j = 0; j < points; ++j) {
      const double square = (features.row(i) - features.row(j)).template cast<double>().square().sum();
      exact.row(i) += std::exp(-square / 2) * values.row(j).template cast<double>();
    }
  }
  const Eigen::ArrayXXd error = (filtered - exact).abs();
  return {error.mean() / exact.mean(), error.maxCoeff() / exact.maxCoeff()};
}

}  // namespace

TEST_CASE("the vectorised exponential is within 2 units in the last place", "[crf]") {
  std::vector<float> arguments;
  for (float x = -61; x <= 88; x += 0.0137f) arguments.push_back(x);
  for (const float x : {0.f, -0.f, -60.f, -1e-30f, -1e30f, -std::numeric_limits<float>::infinity()})
    arguments.push_back(x);
  arguments.resize(arguments.size() / 16 * 16);
  for (const Isa isa : machine_isas()) {
    std::vector<float> values = arguments;
    smooseg::detail::run_kernel<ExponentialKernel<16>>(isa, values.data(), static_cast<int>(values.size()));
    for (size_t i = 0; i < values.size(); ++i) {
      INFO(arguments[i]);
      const float expected = arguments[i] < -60 ? 0 : std::exp(arguments[i]);
      const float unit = std::nextafter(expected, INFINITY) - expected;
      REQUIRE(std::abs(values[i] - expected) <= (expected > 0 ? 2 * unit : 0));
    }
  }
}

TEST_CASE("the lattice filters like the sum over all pairs", "[crf]") {
  // The lattice's kernel is no Gaussian: within 3 % on the mean where points are dense in 2 dimensions. In 5, vertices
  // without points pass nothing on, which costs more the sparser points are.
  for (const Isa isa : machine_isas()) {
    const auto dense2 = filter_error<2, float>(isa, 1500, 6);
    CHECK(dense2.first < 0.03);
    CHECK(dense2.second < 0.08);
    const auto dense5 = filter_error<5, float>(isa, 1500, 2.5);
    CHECK(dense5.first < 0.1);
    CHECK(dense5.second < 0.15);
    CHECK(filter_error<5, float>(isa, 1000, 6).first < 0.55);
    CHECK(filter_error<3, double>(isa, 1000, 4).first < 0.05);
  }
  // What it gives is linear, and its matrix as good as symmetric.
  Permutohedral<5>::Features features = (3 * Eigen::ArrayXXf::Random(60, 5)).eval();
  const Permutohedral<5> lattice(features);
  const Eigen::MatrixXf k = lattice.filter(Eigen::ArrayXXf(Eigen::MatrixXf::Identity(60, 60))).matrix();
  CHECK((lattice.row_sums() - k.rowwise().sum().array()).abs().maxCoeff() < 1e-4 * k.maxCoeff());
  CHECK(k.minCoeff() >= 0);
  CHECK((k - k.transpose()).cwiseAbs().maxCoeff() < 0.2 * k.maxCoeff());
  // More channels than one row holds.
  const Permutohedral<5>::Values many = Eigen::ArrayXXf::Random(60, 45);
  CHECK((lattice.filter(many).matrix() - k * many.matrix()).cwiseAbs().maxCoeff() < 1e-4 * k.maxCoeff());
}

TEST_CASE("the lattice takes any finite coordinates, and says what it does not take", "[crf]") {
  using Lattice = Permutohedral<5>;
  // Points too far apart to meet: each gets back its own share, whatever the keys' width.
  for (const float spacing : {8.f, 1e3f, 1e5f}) {
    Lattice::Features features(12, 5);
    for (int i = 0; i < 12; ++i) features.row(i).setConstant(spacing * static_cast<float>(i % 4 == 3 ? -i : i));
    for (int i = 0; i < 12; ++i) features(i, i % 5) += 7 * spacing;
    const Eigen::MatrixXf k = Lattice(features).filter(Eigen::ArrayXXf(Eigen::MatrixXf::Identity(12, 12))).matrix();
    CHECK((k - Eigen::MatrixXf(k.diagonal().asDiagonal())).cwiseAbs().maxCoeff() == 0);
    CHECK(k.diagonal().minCoeff() > 0);
  }
  Lattice::Features features = Lattice::Features::Zero(3, 5);
  CHECK(Lattice(features).vertices() == 6);
  CHECK(Lattice(features)
            .filter(Lattice::Values::Ones(3, 1))
            .isApproxToConstant(Lattice(features).filter(Lattice::Values::Ones(3, 1))(0, 0)));
  CHECK_ERROR(Lattice(features).filter(Lattice::Values::Ones(4, 1)),
              "Permutohedral::filter: expected values of 3 points, got 4");
  CHECK_ERROR(Lattice(Lattice::Features(0, 5)), "Permutohedral: expected at least one point, got none");
  for (const float bad : {NAN, INFINITY, 1e7f}) {
    features(1, 4) = bad;
    CHECK_ERROR(Lattice(features), "Permutohedral: expected finite features of at most 4194304 standard deviations");
  }
}

TEST_CASE("marginals equal the published program's", "[crf]") {
  for (const char* name : {"crf_odd_k3.safetensors", "crf_rgb_k5.safetensors", "crf_rgb_k27.safetensors"}) {
    INFO(name);
    const auto expected = golden(name);
    const Tensor image = expected.at("image_rgb"), probabilities = expected.at("probabilities");
    for (const int64_t iterations : {1, 10}) {
      const Tensor marginals = expected.at(iterations == 1 ? "marginals_1" : "marginals_10");
      DenseCrf crf(DenseCrfOptions().iterations(iterations));
      CHECK(largest_difference(crf(image, probabilities), marginals) < 1e-4);
      CHECK(largest_difference(crf.from_energies(image, expected.at("unary")), marginals) < 1e-4);
      MeanFieldOptions options;
      options.iterations = iterations;
      Problem problem(1, 1, 1);
      problem.image = image;
      problem.probabilities = probabilities;
      for (const Isa isa : machine_isas()) CHECK(largest_difference(run(options, problem, isa), marginals) < 1e-4);
    }
    const Tensor labels = DenseCrf().labels_from_energies(image, expected.at("unary"));
    CHECK(labels.eq(expected.at("labels_10")).to(torch::kFloat64).mean().item<double>() >= 0.999);
  }
}

TEST_CASE("mean field is Algorithm 1 with the lattice's kernels", "[crf]") {
  const auto compare = [](const Problem& problem, const MeanFieldOptions& options) {
    const Tensor expected = tensor_of(textbook(problem, options), problem);
    for (const Isa isa : machine_isas()) {
      CHECK(largest_difference(run(options, problem, isa).to(torch::kFloat64), expected) < 2e-4);
    }
  };
  MeanFieldOptions options;
  options.iterations = 3;
  SECTION("each normalisation") {
    options.normalization =
        GENERATE(Normalization::kSymmetric, Normalization::kBefore, Normalization::kAfter, Normalization::kNone);
    options.terms = {PairwiseTerm::gaussian(1.5, 0.3), PairwiseTerm::bilateral(5, 20, 0.2)};
    compare(Problem(11, 13, 4), options);
  }
  SECTION("any number of terms") {
    options.terms.clear();
    compare(Problem(9, 8, 3), options);
    options.terms = {PairwiseTerm::gaussian(0.7, 1), PairwiseTerm::bilateral(4, 30, 1), PairwiseTerm::gaussian(6, 2),
                     PairwiseTerm::bilateral(9, 8, -0.5)};
    compare(Problem(9, 8, 3), options);
  }
  SECTION("any number of classes, in rows of each width") {
    for (const int64_t classes : {1, 2, 4, 5, 8, 12, 16, 17, 32, 33, 70}) {
      INFO(classes);
      compare(Problem(7, 10, classes), options);
    }
  }
  SECTION("a compatibility of one's own, of few classes and of many") {
    for (const int64_t classes : {3, 40}) {
      options.compatibility = Eigen::MatrixXf::Random(classes, classes);
      compare(Problem(8, 9, classes), options);
    }
  }
  SECTION("sizes that leave blocks unfilled, wide and tall") {
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {1, 150}, {150, 1}, {2, 64}, {17, 9}}) {
      INFO(height << " x " << width);
      compare(Problem(height, width, 3), options);
    }
  }
  SECTION("no iteration leaves the probabilities") {
    options.iterations = 0;
    const Problem problem(5, 6, 4);
    CHECK(largest_difference(run(options, problem, Isa::kBaseline), problem.probabilities) < 1e-4);
  }
}

TEST_CASE("bandwidths at their limits", "[crf]") {
  const Problem problem(20, 30, 3);
  const auto marginals = [&](const PairwiseTerm& term, const Problem& p) {
    MeanFieldOptions options;
    options.terms = {term};
    return run(options, p, smooseg::detail::machine_isa());
  };
  // Too narrow for two pixels to meet: the kernel is the identity, Q = softmax(log p + w Q).
  Tensor expected = problem.probabilities;
  for (int i = 0; i < 10; ++i) expected = (problem.probabilities.clamp_min(1e-5).log() + 2 * expected).softmax(0);
  for (const double narrow : {0.1, 1e-3, 1e-9, 1e-300}) {
    CHECK(largest_difference(marginals(PairwiseTerm::gaussian(narrow, 2), problem), expected) < 1e-4);
    CHECK(largest_difference(marginals(PairwiseTerm::bilateral(narrow, 3, 2), problem), expected) < 1e-4);
  }
  // The same of a long strip, whose coordinates are large and need keys of more than 64 bits.
  Problem strip(1, 30000, 3);
  strip.image = torch::randint(256, strip.image.sizes(), torch::kUInt8);
  expected = strip.probabilities;
  for (int i = 0; i < 10; ++i) expected = (strip.probabilities.clamp_min(1e-5).log() + 2 * expected).softmax(0);
  CHECK(largest_difference(marginals(PairwiseTerm::bilateral(1e-6, 1e-6, 2), strip), expected) < 1e-4);
  CHECK(largest_difference(marginals(PairwiseTerm::gaussian(1e-6, 2), strip), expected) < 1e-4);
  // So wide that all pixels are one: each gets the mean of all.
  expected = problem.probabilities;
  for (int i = 0; i < 10; ++i) {
    expected = (problem.probabilities.clamp_min(1e-5).log() + 2 * expected.mean({1, 2}, true)).softmax(0);
  }
  CHECK(largest_difference(marginals(PairwiseTerm::gaussian(1e30, 2), problem), expected) < 1e-3);
  CHECK(largest_difference(marginals(PairwiseTerm::bilateral(1e30, 1e30, 2), problem), expected) < 1e-3);
}

TEST_CASE("each option of the CRF has its effect", "[crf]") {
  const Problem problem(24, 32, 4);
  const Tensor base = DenseCrf()(problem.image, problem.probabilities);
  const auto differs = [&](const DenseCrfOptions& options) {
    return largest_difference(DenseCrf(options)(problem.image, problem.probabilities), base);
  };
  CHECK(differs(DenseCrfOptions()) == 0);
  CHECK(differs(DenseCrfOptions().iterations(2)) > 1e-3);
  CHECK(differs(DenseCrfOptions().terms({PairwiseTerm::gaussian(1, 3)})) > 1e-3);
  CHECK(differs(DenseCrfOptions().normalization(Normalization::kNone)) > 1e-3);
  CHECK(differs(DenseCrfOptions().compatibility(torch::ones({4, 4}) - torch::eye(4))) < 2e-4);  // Potts
  CHECK(differs(DenseCrfOptions().compatibility(2 * (torch::ones({4, 4}) - torch::eye(4)))) > 1e-3);
  CHECK(differs(DenseCrfOptions().tile(24).overlap(4)) > 1e-4);
  const Tensor impossible = torch::tensor({1.f, 0.f}).view({2, 1, 1}).expand({2, 3, 3});
  const auto rest = [&](double least) {
    DenseCrf crf(DenseCrfOptions().min_probability(least).iterations(0));
    return crf(torch::zeros({3, 3, 3}, torch::kUInt8), impossible)[1][0][0].item<double>();
  };
  CHECK(rest(1e-5) == Approx(1e-5).epsilon(0.01));
  CHECK(rest(0.1) == Approx(0.1 / 1.1));

  std::ostringstream text;
  DenseCrf().pretty_print(text);
  CHECK(text.str() ==
        "smooseg::crf::DenseCrf(iterations=10, gaussian(sxy=1, weight=3), bilateral(sxy=67, srgb=3, weight=4))");
}

TEST_CASE("results do not depend on threads, and batches are their pictures", "[crf]") {
  const Problem a(40, 50, 3, 1), b(40, 50, 3, 2), c(40, 50, 3, 3);
  const Tensor images = torch::stack({a.image, b.image, c.image});
  const Tensor probabilities = torch::stack({a.probabilities, b.probabilities, c.probabilities});
  for (const int64_t tile : {1024, 30}) {
    const auto options = DenseCrfOptions().tile(tile).overlap(10);
    const Tensor one = DenseCrf(options)(images, probabilities);
    for (const int64_t threads : {2, 3, 16}) {
      auto more = options;
      CHECK(DenseCrf(more.threads(threads))(images, probabilities).equal(one));
    }
    CHECK(DenseCrf(options)(b.image, b.probabilities).equal(one[1]));
    const Tensor energies = -probabilities.clamp_min(1e-5).log();
    CHECK(DenseCrf(options).labels_from_energies(images, energies).equal(one.argmax(1)));
    CHECK(DenseCrf(options).labels_from_energies(c.image, energies[2]).equal(one[2].argmax(0)));
  }
}

TEST_CASE("tiles give what the whole picture gives", "[crf]") {
  const Problem problem(150, 200, 3);
  const auto options = DenseCrfOptions().terms({PairwiseTerm::gaussian(1, 3), PairwiseTerm::bilateral(8, 10, 4)});
  auto tiled = options, touching = options;
  const Tensor whole = DenseCrf(options)(problem.image, problem.probabilities);
  const Tensor parts = DenseCrf(tiled.tile(110).overlap(50))(problem.image, problem.probabilities);
  const auto equal_labels = [&](const Tensor& q) {
    return q.argmax(0).eq(whole.argmax(0)).to(torch::kFloat64).mean().item<double>();
  };
  CHECK(equal_labels(parts) > 0.99);
  CHECK(largest_difference(parts, whole) > 0);
  // Without an overlap seams show.
  CHECK(equal_labels(DenseCrf(touching.tile(110).overlap(0))(problem.image, problem.probabilities)) <
        equal_labels(parts));
}

TEST_CASE("dtypes, layouts and single pixels", "[crf]") {
  const Problem problem(12, 14, 5);
  const Tensor expected = DenseCrf()(problem.image, problem.probabilities);
  CHECK(largest_difference(expected.sum(0), torch::ones({12, 14})) < 1e-5);
  const Tensor half = DenseCrf()(problem.image, problem.probabilities.to(torch::kBFloat16));
  CHECK(half.scalar_type() == torch::kBFloat16);
  CHECK(largest_difference(half.to(torch::kFloat32), expected) < 0.1);
  const Tensor wide = DenseCrf()(problem.image, problem.probabilities.to(torch::kFloat64));
  CHECK(wide.scalar_type() == torch::kFloat64);
  CHECK(largest_difference(wide, expected.to(torch::kFloat64)) < 1e-5);
  // Not contiguous, and with a gradient to be ignored.
  const Tensor strided = problem.probabilities.permute({1, 2, 0}).contiguous().permute({2, 0, 1}).requires_grad_();
  const Tensor image = problem.image.permute({2, 0, 1}).contiguous().permute({1, 2, 0});
  CHECK(DenseCrf()(image, strided).equal(expected));
  CHECK_FALSE(DenseCrf()(image, strided).requires_grad());

  CHECK(DenseCrf()(problem.image, torch::ones({1, 12, 14})).equal(torch::ones({1, 12, 14})));
  const Tensor pixel = torch::tensor({0.9f, 0.1f}).view({2, 1, 1});
  const Tensor q = DenseCrf()(torch::zeros({1, 1, 3}, torch::kUInt8), pixel);
  // A pixel alone pays itself: Q = softmax(log p + 7 Q).
  Tensor alone = pixel;
  for (int i = 0; i < 10; ++i) alone = (pixel.log() + 7 * alone).softmax(0);
  CHECK(largest_difference(q, alone) < 1e-5);
}

TEST_CASE("the CRF says what is wrong with its input", "[crf][bad input]") {
  const Problem problem(6, 7, 3);
  const DenseCrf crf;
  const Tensor& image = problem.image;
  Tensor p = problem.probabilities.clone();
  p[1][2][3] = NAN;
  CHECK_ERROR(crf(image, p), "smooseg::crf::DenseCrf: expected probabilities, got NaN");
  p[1][2][3] = -0.25;
  CHECK_ERROR(crf(image, p), "expected probabilities of at least 0, got -0.25");
  CHECK_ERROR(crf(image, problem.probabilities * 1.5),
              "expected probabilities whose sum over the classes is 1, got a sum 0.5");
  CHECK_ERROR(crf(image, problem.probabilities.log_softmax(0)), "expected probabilities of at least 0, got -");
  CHECK_ERROR(crf(image, torch::full({3, 6, 7}, INFINITY)), "whose sum over the classes is 1");
  CHECK_ERROR(crf(image, problem.probabilities.narrow(1, 0, 5)),
              "expected probabilities of shape (K,H,W), or (B,K,H,W) for a batch, of the image's size (6, 7, 3), got "
              "(3, 5, 7)");
  CHECK_ERROR(crf(image, problem.probabilities.unsqueeze(0)), "got (1, 3, 6, 7)");
  CHECK_ERROR(crf(torch::stack({image, image}), problem.probabilities.unsqueeze(0)), "got (1, 3, 6, 7)");
  CHECK_ERROR(crf(image.to(torch::kFloat32), problem.probabilities),
              "expected an image of shape (H,W,3) or (B,H,W,3), uint8, got (6, 7, 3), Float");
  CHECK_ERROR(crf(image.permute({2, 0, 1}), problem.probabilities), "got (3, 6, 7), Byte");
  CHECK_ERROR(crf(torch::zeros({0, 7, 3}, torch::kUInt8), torch::zeros({3, 0, 7})), "got (0, 7, 3)");
  CHECK_ERROR(crf(image, torch::zeros({3, 6, 7}, torch::kInt64)), "expected probabilities of a floating dtype");
  CHECK_ERROR(crf(Tensor(), problem.probabilities), "image is undefined");
  CHECK_ERROR(crf.from_energies(image, p.log()), "from_energies: expected finite energies, got NaN or infinity");
  CHECK_ERROR(crf.labels_from_energies(image, -problem.probabilities.mul(0).log()),
              "labels_from_energies: expected finite energies");

  const auto with = [](const PairwiseTerm& term) { return DenseCrf(DenseCrfOptions().terms({term})); };
  CHECK_ERROR(with(PairwiseTerm::gaussian(0, 3)), "mean_field: expected a positive bandwidth sxy, got 0");
  CHECK_ERROR(with(PairwiseTerm::gaussian(NAN, 3)), "expected a positive bandwidth sxy, got nan");
  CHECK_ERROR(with(PairwiseTerm::bilateral(67, 0, 4)), "expected a positive bandwidth srgb, got 0");
  CHECK_ERROR(with(PairwiseTerm::bilateral(67, INFINITY, 4)), "expected a positive bandwidth srgb, got inf");
  CHECK_ERROR(with(PairwiseTerm::gaussian(1, NAN)), "expected a finite weight, got nan");
  CHECK_ERROR(DenseCrf(DenseCrfOptions().iterations(-1)), "expected at least 0 iterations, got -1");
  CHECK_ERROR(DenseCrf(DenseCrfOptions().min_probability(0)), "expected min_probability between 0 and 1, got 0");
  CHECK_ERROR(DenseCrf(DenseCrfOptions().tile(64).overlap(32)),
              "expected a tile of more than twice the overlap, got 64 and 32");
  CHECK_ERROR(DenseCrf(DenseCrfOptions().threads(0)), "expected at least 1 thread, got 0");
  CHECK_ERROR(DenseCrf(DenseCrfOptions().compatibility(torch::ones({2, 3}))),
              "expected a compatibility of shape (K,K), got (2, 3)");
  CHECK_ERROR(DenseCrf(DenseCrfOptions().compatibility(torch::full({2, 2}, NAN))), "expected a finite compatibility");
  CHECK_ERROR(DenseCrf(DenseCrfOptions().compatibility(torch::ones({2, 2})))(image, problem.probabilities),
              "expected probabilities of 2 classes, as the compatibility has, got (3, 6, 7)");
}
