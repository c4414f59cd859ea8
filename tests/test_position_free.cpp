// Closeness without positions.

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "catch.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/position_free.hpp"
#include "support.hpp"

using namespace smooseg;

namespace {

const auto kWide = torch::TensorOptions().dtype(torch::kFloat64);

/// (C,R) with orthonormal_columns columns.
Tensor orthonormal_columns(int64_t channels, int64_t directions) {
  return std::get<0>(at::linalg_qr(torch::randn({channels, directions}, kWide)));
}

/// Eq. 4 of all pairs of patches in plain loops, of features that are projected one by one; all of it differentiable.
Tensor loops_without(const Tensor& x, const Tensor& a, const Tensor& pairing, const Tensor& basis,
                     const SmoothnessOptions& options) {
  const auto rest = [&](const Tensor& v) {
    Tensor left = v;
    for (int64_t r = 0; r < basis.size(1); ++r) left = left - basis.select(1, r) * basis.select(1, r).dot(v);
    return left;
  };
  const auto cosine = [](const Tensor& u, const Tensor& v) { return u.dot(v) / (u.norm() * v.norm()); };
  const int64_t batch = x.size(0), n = x.size(2);
  Tensor total = torch::zeros({}, kWide);
  for (const bool is_within : {true, false}) {
    std::vector<Tensor> w, delta;
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t j = is_within ? i : pairing[i].item<int64_t>();
      for (int64_t p = 0; p < n; ++p) {
        for (int64_t q = 0; q < n; ++q) {
          w.push_back(cosine(rest(x[i].select(1, p)), rest(x[j].select(1, q))));
          delta.push_back(1 - cosine(a[i].select(1, p), a[j].select(1, q)));
        }
      }
    }
    const Tensor all = torch::stack(w).view({batch, n, n});
    const Tensor centered = all - all.mean(2, /*keepdim=*/true) + all.mean();
    const double threshold = is_within ? options.within_threshold() : options.across_threshold();
    total = total + ((centered - threshold) * torch::stack(delta).view({batch, n, n})).mean();
  }
  return total;
}

}  // namespace

TEST_CASE("position_basis finds planted positions, and closeness without them is that of the contents",
          "[position_free]") {
  torch::manual_seed(1);
  constexpr int64_t kChannels = 12, kSide = 5, kDirections = 2;
  const Tensor all = orthonormal_columns(kChannels, kChannels), places = all.narrow(1, 0, kDirections);
  const Tensor others = all.narrow(1, kDirections, kChannels - kDirections);
  const auto of_places = [&](double scale) {
    return places.matmul(scale * torch::randn({kDirections, kSide * kSide}, kWide));
  };
  // A blank picture: one content everywhere, and the places. All its vectors have one length, as normalisation would
  // mix contents and places.
  Tensor angles = torch::linspace(0, 6, kSide * kSide, kWide);
  const Tensor blank = others.select(1, 0).unsqueeze(1) + places.matmul(torch::stack({angles.cos(), angles.sin()}));
  const Tensor basis = functional::position_basis(blank.view({1, kChannels, kSide, kSide}), kDirections);
  CHECK(basis.sizes() == torch::IntArrayRef({kChannels, kDirections}));
  CHECK(relative_error(basis.matmul(basis.t()), places.matmul(places.t())) < 1e-12);
  CHECK(basis.t().matmul(basis).allclose(torch::eye(kDirections, kWide)));

  const Tensor contents = torch::matmul(others, torch::randn({2, kChannels - kDirections, kSide * kSide}, kWide));
  const Tensor x = contents + of_places(3);  // the same places in both pictures
  CHECK(relative_error(functional::without_directions(x, basis), contents) < 1e-12);
  CHECK(relative_error(PositionFree{basis}.embed(x), CosineCloseness{}.embed(contents)) < 1e-12);
  CHECK(relative_error(CosineCloseness{}.embed(x), CosineCloseness{}.embed(contents)) > 0.1);

  const Tensor single = functional::position_basis(blank.view({1, kChannels, kSide, kSide}).to(torch::kFloat32), 1);
  CHECK(single.scalar_type() == torch::kFloat32);
  CHECK(functional::position_basis(blank.unsqueeze(0).to(torch::kBFloat16), 1).scalar_type() == torch::kFloat32);
}

TEST_CASE("PositionFree in the smoothness term and the energy: values and gradients of the double loop",
          "[position_free]") {
  torch::manual_seed(2);
  const Tensor x = torch::randn({3, 6, 7}, kWide).requires_grad_();
  const Tensor a = torch::rand({3, 4, 7}, kWide).requires_grad_();
  const Tensor pairing = torch::tensor({2, 0, 1}), basis = orthonormal_columns(6, 2);
  const SmoothnessOptions options = SmoothnessOptions().within_threshold(0.1).across_threshold(0.3);
  const Tensor expected = loops_without(x, a, pairing, basis, options);
  const auto gradients = torch::autograd::grad({expected}, {x, a});
  for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
    CAPTURE(static_cast<int>(evaluation));
    SmoothnessLoss loss(SmoothnessOptions(options).evaluation(evaluation), PositionFree{basis});
    const Tensor got = loss(x, a, pairing).total();
    CHECK(relative_error(got, expected) < 1e-12);
    const auto found = torch::autograd::grad({got}, {x, a});
    CHECK(relative_error(found[0], gradients[0]) < 1e-12);
    CHECK(relative_error(found[1], gradients[1]) < 1e-12);
  }

  // The whole energy, in float32 and in parts of half precision.
  PrototypePredictor predictor(4, 5);
  const Tensor maps = x.detach().view({3, 6, 1, 7}).to(torch::kFloat32);
  const PrototypeLogits logits = predictor(torch::randn({3, 5, 1, 7}));
  EnergyLoss energy(EnergyOptions(), PositionFree{basis});
  EnergyLoss plain;
  const Tensor rest = functional::without_directions(maps, basis);
  CHECK(relative_error(energy(maps, logits, pairing).total, plain(rest, logits, pairing).total) < 1e-6);
  const Tensor half = maps.to(torch::kBFloat16);
  const Tensor rest_of_half = functional::without_directions(half.to(torch::kFloat32), basis);
  CHECK(relative_error(energy(half, logits, pairing).total, plain(rest_of_half, logits, pairing).total) < 1e-6);
}

TEST_CASE("what has no such positions, and wrong shapes", "[position_free][bad input]") {
  torch::manual_seed(3);
  const Tensor blank = torch::randn({1, 6, 2, 4}, kWide);
  const std::string function = "smooseg::functional::position_basis: ";
  CHECK_ERROR(functional::position_basis(blank, 0), function + "expected 1 to 6 directions, and fewer than the 8");
  CHECK_ERROR(functional::position_basis(blank, 7), function + "expected 1 to 6 directions, and fewer than the 8");
  CHECK_ERROR(functional::position_basis(blank.narrow(2, 0, 1), 4), "fewer than the 4 patches, got 4");
  CHECK_ERROR(functional::position_basis(torch::cat({blank, blank}), 1), "of one blank picture, (1,C,...), got (2, 6");
  CHECK_ERROR(functional::position_basis(torch::full_like(blank, NAN), 1), "are not finite");
  // Patches that differ in length, or by rounding, but not in direction.
  const Tensor one = torch::rand({1, 6, 1, 1}) + 1, scales = torch::rand({1, 1, 2, 4}) + 1;
  CHECK_ERROR(functional::position_basis(one * scales, 1), function + "expected at most 0 directions");
  const Tensor two = torch::cat({blank.narrow(3, 0, 1), blank.narrow(3, 1, 1)}, 3).narrow(2, 0, 1).repeat({1, 1, 2, 2});
  CHECK_ERROR(functional::position_basis(two, 2), function + "expected at most 1 directions");

  const Tensor x = torch::randn({2, 6, 3});
  CHECK_ERROR(PositionFree{}.embed(x), "smooseg::functional::without_directions: basis is undefined");
  CHECK_ERROR(PositionFree{torch::eye(5)}.embed(x), "for the C = 6 channels of x, got (5, 5)");
  CHECK_ERROR(functional::without_directions(x, torch::zeros({6, 0})), "expected a basis of shape (C,R)");
}
