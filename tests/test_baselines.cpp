// STEGO's loss against the published program's values, and the linear probe. k-means is tested with the textons.

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <vector>

#include "smooseg/baselines/linear_probe.hpp"
#include "smooseg/baselines/stego.hpp"
#include "smooseg/projector.hpp"
#include "support.hpp"

using Catch::Approx;
using smooseg::Tensor;
using namespace smooseg::baselines;

namespace {

const auto kFloat64Options = torch::dtype(torch::kFloat64);

Tensor with_gradient(const Tensor& tensor) {
  return tensor.clone().requires_grad_(true);
}

}  // namespace

TEST_CASE("STEGO's correspondence is that of the published program", "[stego]") {
  const auto data = golden("stego_correspondence.safetensors");
  const Tensor a = with_gradient(data.at("c1")), b = with_gradient(data.at("c2"));
  const Tensor loss = stego_correspondence(data.at("f1"), data.at("f2"), a, b, 0.18);
  CHECK(relative_error(loss, data.at("loss_mean").squeeze()) < 1e-9);
  loss.backward();
  CHECK(relative_error(a.grad(), data.at("grad_c1")) < 1e-9);
  CHECK(relative_error(b.grad(), data.at("grad_c2")) < 1e-9);

  // In float32 too, and under autocast, which must not narrow it.
  const auto narrow = [&](const char* name) { return data.at(name).to(torch::kFloat32); };
  const AutocastOnCpu autocast(true);
  const Tensor single = stego_correspondence(narrow("f1"), narrow("f2"), narrow("c1"), narrow("c2"), 0.18);
  CHECK(single.scalar_type() == torch::kFloat32);
  CHECK(relative_error(single, data.at("loss_mean").squeeze()) < 1e-5);
}

TEST_CASE("STEGO's correspondence, by hand", "[stego]") {
  // One image of two patches: F = [[1, 0], [0, 1]], its rows' means 1/2, the mean of all 1/2, so that Fc = F.
  const Tensor features = torch::eye(2, kFloat64Options).unsqueeze(0);
  // S = [[1, 0.6], [0.6, 1]], or with the second code turned round [[1, -0.6], [-0.6, 1]], where the clamp shows.
  const Tensor near = torch::tensor({{1.0, 0.6}, {0.0, 0.8}}, kFloat64Options).unsqueeze(0);
  const Tensor far = torch::tensor({{1.0, -0.6}, {0.0, 0.8}}, kFloat64Options).unsqueeze(0);
  const auto loss = [&](const Tensor& code) {
    return stego_correspondence(features, features, code, code, 0.25).item<double>();
  };
  CHECK(loss(near) == Approx(-(2 * 0.75 - 2 * 0.25 * 0.6) / 4));
  CHECK(loss(far) == Approx(-(2 * 0.75) / 4));
}

TEST_CASE("STEGO's objective weights three kinds of pairs", "[stego]") {
  torch::manual_seed(1);
  const StegoMaps images{torch::rand({3, 5, 2, 4}, kFloat64Options), torch::randn({3, 4, 2, 4}, kFloat64Options)};
  const StegoMaps neighbors{torch::rand({3, 5, 2, 4}, kFloat64Options), torch::randn({3, 4, 2, 4}, kFloat64Options)};
  const Tensor pairing = torch::tensor({2, 0, 1}, torch::kInt64);
  const auto options = StegoOptions().self_weight(2).neighbor_weight(3).random_weight(5);
  const StegoTerms terms = stego_loss(images, neighbors, pairing, options);
  const auto against = [&](const Tensor& features, const Tensor& code, double shift) {
    return stego_correspondence(images.features, features, images.code, code, shift);
  };
  CHECK(relative_error(terms.self, against(images.features, images.code, 0.46)) < 1e-12);
  CHECK(relative_error(terms.neighbor, against(neighbors.features, neighbors.code, 0.18)) < 1e-12);
  CHECK(relative_error(terms.random, against(images.features.index({pairing}), images.code.index({pairing}), 0.31)) <
        1e-12);
  CHECK(relative_error(terms.total, 2 * terms.self + 3 * terms.neighbor + 5 * terms.random) < 1e-12);
}

TEST_CASE("nearest neighbours and a sample of patches", "[stego]") {
  // Directions at 0, 10, 25, 90 and 100 degrees, of any length.
  const Tensor angles = torch::tensor({0.0, 10.0, 25.0, 90.0, 100.0}, kFloat64Options).deg2rad();
  const Tensor pooled =
      torch::stack({angles.cos(), angles.sin()}, 1) * torch::tensor({{3.0}, {1.0}, {2.0}, {9.0}, {4.0}});
  const Tensor expected = torch::tensor({{1, 2}, {0, 2}, {1, 0}, {4, 2}, {3, 2}}, torch::kInt64);
  CHECK(nearest_neighbors(pooled, 2).equal(expected));

  const Tensor features = torch::arange(2 * 3 * 4 * 5, kFloat64Options).view({2, 3, 4, 5});
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(4);
  const Tensor some = random_patches(features, 50, generator);
  REQUIRE(some.sizes() == torch::IntArrayRef{2, 3, 1, 50});
  // Whole patches: the channels of one are 20 apart; and of 20 patches most are drawn.
  CHECK((some.select(1, 2) - some.select(1, 0)).eq(40).all().item<bool>());
  CHECK(some.select(1, 0).ge(0).logical_and(some.select(1, 0) < 80).all().item<bool>());
  CHECK(std::get<0>(at::_unique(some[0][0])).numel() > 12);
  CHECK(random_patches(features, 50, at::make_generator<at::CPUGeneratorImpl>(4)).equal(some));
}

TEST_CASE("a projector learns by STEGO's loss what belongs together", "[stego]") {
  torch::manual_seed(0);
  // Two kinds of patches, alternating, with noise.
  const Tensor kinds = torch::randn({2, 12}), which = torch::arange(40).remainder(2);
  const Tensor features =
      (kinds.index_select(0, which).t().unsqueeze(0) + 0.3 * torch::randn({4, 12, 40})).unsqueeze(2);
  smooseg::Projector projector(12, 6);
  projector->eval();
  torch::optim::Adam adam(projector->parameters(), torch::optim::AdamOptions(5e-3));
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    const StegoMaps maps{features, projector(features).code};
    const Tensor loss = stego_loss(maps, maps, smooseg::functional::random_pairing(4)).total;
    (step == 0 ? first : last) = loss.item<double>();
    adam.zero_grad();
    loss.backward();
    adam.step();
  }
  CHECK(last < first);
  const Tensor code = projector->code(features)[0].flatten(1).t();  // (40,6)
  const Tensor unit = code / code.norm(2, {1}, /*keepdim=*/true), similarity = unit.mm(unit.t());
  const Tensor same = which.unsqueeze(0).eq(which.unsqueeze(1));
  CHECK(similarity.masked_select(same).mean().item<double>() >
        similarity.masked_select(same.logical_not()).mean().item<double>() + 0.5);
}

TEST_CASE("a linear probe finds classes that a line separates", "[linear probe]") {
  torch::manual_seed(0);
  const Tensor features = torch::randn({4, 3, 5, 6});
  const Tensor classes = (features.select(1, 0) > features.select(1, 2)).to(torch::kInt64);  // (4,5,6)
  Tensor labels = classes.clone();
  labels.select(2, 0).fill_(-1);  // which does not count
  LinearProbe probe(LinearProbeOptions(3, 2).learning_rate(5e-2));
  const double first = probe.update(features, labels);
  CHECK(first == Approx(std::log(2.0)));
  double last = first;
  for (int step = 0; step < 300; ++step) last = probe.update(features, labels);
  CHECK(last < 0.15);
  const Tensor found = probe.logits(features).argmax(1);
  CHECK(found.eq(classes).to(torch::kFloat32).mean().item<double>() > 0.97);

  // The first step by hand: Adam moves each parameter by its rate against the sign of the gradient.
  LinearProbe other(LinearProbeOptions(3, 2));
  other.update(features, labels);
  CHECK(relative_error(other.weight.abs(), 5e-3) < 1e-3);
  // Nothing labelled, nothing learned.
  const Tensor before = other.weight.detach().clone();
  CHECK(other.update(features, torch::full_like(labels, -1)) == 0);
  CHECK(other.weight.equal(before));
  // Label maps larger than the features are what logits are upsampled to.
  CHECK(other.update(features, labels.repeat_interleave(4, 1).repeat_interleave(4, 2)) > 0);
}

TEST_CASE("bad input of baselines", "[stego][linear probe][bad input]") {
  const Tensor x = torch::rand({2, 5, 3, 4}), z = torch::rand({2, 6, 3, 4});
  CHECK_ERROR(
      stego_correspondence(x, x, z, torch::rand({2, 7, 3, 4}), 0),
      "stego_correspondence: expected code_a and code_b of equal batch and channels, got (2, 6, 3, 4) and (2, 7, "
      "3, 4)");
  CHECK_ERROR(
      stego_correspondence(x, x, torch::rand({2, 6, 3, 5}), z, 0),
      "expected features_a (B,C,...) and code_a (B,D,...) of the same patches, got (2, 5, 3, 4) and (2, 6, 3, 5)");
  CHECK_ERROR(stego_loss({x, z}, {x, z}, torch::tensor({0, 2}, torch::kInt64)), "stego_loss: expected pairing to hold");
  CHECK_ERROR(nearest_neighbors(torch::rand({4, 3}), 4),
              "expected a count of 1 to 3, one less than the 4 images, got 4");
  CHECK_ERROR(nearest_neighbors(x, 1), "expected pooled of shape (N,C)");
  CHECK_ERROR(random_patches(x, 0), "random_patches: expected a count of at least 1, got 0");
  CHECK_ERROR(LinearProbe(LinearProbeOptions(5, 1)),
              "expected in_channels of at least 1 and num_classes of at least 2");
  LinearProbe probe(LinearProbeOptions(5, 3));
  CHECK_ERROR(probe.logits(z), "LinearProbe::logits: expected features of 5 channels, got (2, 6, 3, 4)");
  CHECK_ERROR(probe.update(x, torch::zeros({2, 3}, torch::kInt64)), "expected labels of shape (2,H,W) and dtype Long");
  CHECK_ERROR(probe.update(x, torch::full({2, 3, 4}, 3, torch::kInt64)),
              "expected labels of 0 to 2, or -1 where a pixel does not count, got 3 to 3");
}
