// Settings without labels: thresholds, the number of classes, and prototypes that nothing is nearest to.

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "smooseg/class_count.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/prototype_restarts.hpp"
#include "smooseg/thresholds.hpp"
#include "support.hpp"

namespace {

using namespace smooseg;

constexpr int64_t kBatch = 6, kChannels = 8, kClasses = 3, kSide = 6, kPatches = kSide * kSide;

/// Patches of three directions with some noise, as shares of 1/2, 1/3 and 1/6 in each image.
struct Scene {
  Tensor labels = (torch::arange(kBatch * kPatches) % 6).clamp_max(3).sub(1).clamp_min(0).view({kBatch, kPatches});
  Tensor features = torch::zeros({kBatch, kChannels, kSide, kSide}, torch::kFloat64);
  Tensor assignments = torch::rand({kBatch, kClasses, kSide, kSide}, torch::kFloat64);
  Tensor pairing = torch::tensor({1, 2, 3, 4, 5, 0});

  Scene() {
    const Tensor noise = torch::randn_like(features).mul_(0.1);
    const Tensor one = torch::one_hot(labels, kChannels).to(torch::kFloat64).transpose(1, 2);
    features = one.reshape(features.sizes()) + 0.3 + noise;
  }
};

/// Mean closeness across pairs of one label, and within images the middle between those of one and of different labels,
/// pair by pair.
Thresholds textbook(const Scene& s) {
  const Tensor flat = s.features.flatten(2), x = flat / flat.norm(2, {1}, /*keepdim=*/true);
  double joined = 0, alike = 0, cut = 0;
  int64_t joined_pairs = 0, alike_pairs = 0, cut_pairs = 0;
  for (int64_t i = 0; i < kBatch; ++i) {
    const int64_t j = s.pairing[i].item<int64_t>();
    const Tensor across = x[i].t().mm(x[j]), within = x[i].t().mm(x[i]);
    const Tensor same = s.labels[i].unsqueeze(1) == s.labels[j].unsqueeze(0);
    const Tensor other = s.labels[i].unsqueeze(1) != s.labels[i].unsqueeze(0);
    joined += across.masked_select(same).sum().item<double>();
    joined_pairs += same.sum().item<int64_t>();
    alike += within.masked_select(~other).sum().item<double>();
    alike_pairs += (~other).sum().item<int64_t>();
    cut += within.masked_select(other).sum().item<double>();
    cut_pairs += other.sum().item<int64_t>();
  }
  const double middle = (alike / static_cast<double>(alike_pairs) + cut / static_cast<double>(cut_pairs)) / 2;
  return {middle, joined / static_cast<double>(joined_pairs)};
}

ThresholdController controller(const ThresholdControllerOptions& options = {kClasses}) {
  return ThresholdController(options, at::make_generator<at::CPUGeneratorImpl>(1));
}

}  // namespace

TEST_CASE("thresholds are what clusters of the features make of their pairs", "[thresholds]") {
  torch::manual_seed(0);
  const Scene s;
  const Thresholds expected = textbook(s);
  REQUIRE(expected.across > expected.within + 0.1);
  ThresholdController chooser = controller();
  const Thresholds t = chooser.update(s.features, s.assignments, s.pairing);
  CHECK(t.within == Approx(expected.within).epsilon(1e-9));
  CHECK(t.across == Approx(expected.across).epsilon(1e-9));
  CHECK(chooser.measurement().classes_in_use == kClasses);
  CHECK(chooser.measurement().cluster_share == Approx(1 / 4. + 1 / 9. + 1 / 36.).epsilon(1e-9));

  EnergyLoss energy;
  energy->set_thresholds(t);
  CHECK(energy->options.smoothness().within_threshold() == t.within);
  CHECK(energy->options.smoothness().across_threshold() == t.across);
  // Half precision as well.
  const Thresholds half = controller().update(s.features.to(torch::kBFloat16), s.assignments, s.pairing);
  CHECK(half.across == Approx(expected.across).epsilon(0.01));
}

TEST_CASE("thresholds leave where they began for what is measured", "[thresholds]") {
  torch::manual_seed(1);
  const Scene s;
  const Thresholds goal = textbook(s), start{0.9, -0.5};
  ThresholdController chooser = controller(ThresholdControllerOptions(kClasses).start(start).interval(2).rate(0.5));
  Thresholds t = chooser.update(s.features, s.assignments, s.pairing);
  CHECK(t.within == start.within);
  CHECK(t.across == start.across);
  CHECK(chooser.update(s.features, s.assignments, s.pairing).across == start.across);  // the interval
  t = chooser.update(s.features, s.assignments, s.pairing);
  CHECK(t.within == Approx((start.within + goal.within) / 2).epsilon(1e-6));
  CHECK(t.across == Approx((start.across + goal.across) / 2).epsilon(1e-6));
  for (int i = 0; i < 40; ++i) t = chooser.update(s.features, s.assignments, s.pairing);
  CHECK(t.within == Approx(goal.within).epsilon(1e-3));
  CHECK(t.across == Approx(goal.across).epsilon(1e-3));
}

TEST_CASE("assignments that collapse push classes apart", "[thresholds]") {
  torch::manual_seed(2);
  const Scene s;
  Tensor one_class = torch::zeros_like(s.assignments);
  one_class.select(1, 1).fill_(1);
  ThresholdController chooser = controller(ThresholdControllerOptions(kClasses).interval(1));
  const Thresholds before = chooser.update(s.features, s.assignments, s.pairing);
  Thresholds t = before;
  for (int i = 0; i < 30; ++i) t = chooser.update(s.features, one_class, s.pairing);
  CHECK(chooser.measurement().classes_in_use == 1);
  CHECK(chooser.measurement().assigned_share == 1);
  CHECK(t.across > (1 + before.across) / 2);
  CHECK(t.across <= 1);
  CHECK(t.within == Approx(before.within).epsilon(1e-6));
  for (int i = 0; i < 40; ++i) t = chooser.update(s.features, s.assignments, s.pairing);
  CHECK(t.across == Approx(before.across).epsilon(1e-3));
}

TEST_CASE("a controller goes on from its state", "[thresholds]") {
  torch::manual_seed(3);
  const auto options = ThresholdControllerOptions(kClasses).interval(2);
  ThresholdController whole = controller(options), first = controller(options);
  const Scene begin;
  for (int i = 0; i < 3; ++i) {
    whole.update(begin.features, begin.assignments, begin.pairing);
    first.update(begin.features, begin.assignments, begin.pairing);
  }
  ThresholdController second(options);
  second.load_state(first.state());
  CHECK(second.thresholds().across == first.thresholds().across);
  for (int i = 0; i < 6; ++i) {
    const Scene s;
    const Thresholds a = whole.update(s.features, s.assignments, s.pairing);
    const Thresholds b = second.update(s.features, s.assignments, s.pairing);
    CHECK(a.within == b.within);
    CHECK(a.across == b.across);
  }
  CHECK(controller().state().empty());
  auto wrong = first.state();
  wrong["sums"] = torch::zeros({2, 2});
  CHECK_ERROR(second.load_state(wrong), "ThresholdController::load_state: expected a tensor 'sums'");
}

TEST_CASE("a controller refuses what does not fit", "[thresholds][bad input]") {
  const Scene s;
  CHECK_ERROR(controller({1}), "ThresholdController: expected num_classes of at least 2, got 1");
  CHECK_ERROR(controller(ThresholdControllerOptions(3).rate(0)), "expected a rate in (0,1], got 0");
  ThresholdController chooser = controller();
  CHECK_ERROR(chooser.update(s.features, s.assignments.slice(1, 0, 2), s.pairing),
              "expected assignments of 3 classes for the patches of (6, 8, 6, 6), got (6, 2, 6, 6)");
  CHECK_ERROR(chooser.update(s.features, s.assignments, s.pairing.slice(0, 0, 2)),
              "ThresholdController::update: expected pairing of shape (6)");
}

namespace {

/// Patches in the directions 0, 90 and 225 degrees, the last one once.
Tensor three_directions() {
  const Tensor degrees = torch::tensor({0., 0., 90., 90., 0., 90., 0., 225.}) * (M_PI / 180);
  return torch::stack({degrees.cos(), degrees.sin()}).view({1, 2, 2, 4}).to(torch::kFloat32);
}

/// Prototypes at 0, 90 and 45 degrees: no patch is nearest to the last one.
PrototypePredictor one_dead() {
  PrototypePredictor predictor(3, 2);
  const torch::NoGradGuard no_grad;
  predictor->student.copy_(torch::tensor({{2., 0.}, {0., 2.}, {3., 3.}}));
  predictor->teacher.copy_(predictor->student);
  return predictor;
}

}  // namespace

TEST_CASE("a dead prototype is put where no other one is near", "[thresholds]") {
  torch::manual_seed(0);
  const Tensor code = three_directions();
  PrototypePredictor predictor = one_dead();
  const Tensor before = predictor->student.detach().clone();
  PrototypeRestarts restarts(PrototypeRestartOptions().interval(3));
  for (int call = 0; call < 2; ++call) restarts.update(predictor, predictor(code), code);
  CHECK_FALSE(restarts.dead().defined());
  CHECK(predictor->student.equal(before));
  restarts.update(predictor, predictor(code), code);
  CHECK(restarts.dead().equal(torch::tensor({false, false, true})));
  CHECK_FALSE(restarts.restarted());
  CHECK(predictor->student.equal(before));  // were it the last step, this would be the model
  restarts.load_state(restarts.state());    // and a training that is resumed goes on
  restarts.update(predictor, predictor(code), code);
  CHECK(restarts.restarted());
  CHECK(restarts.restarts().equal(torch::tensor({0, 0, 1})));
  CHECK(predictor->student.slice(0, 0, 2).equal(before.slice(0, 0, 2)));
  const Tensor expected = code.flatten(2)[0].select(1, 7) * before.norm(2, {1}).mean();
  CHECK(predictor->student[2].allclose(expected));
  CHECK(predictor->teacher.equal(predictor->student));

  for (int call = 0; call < 3; ++call) restarts.update(predictor, predictor(code), code);
  CHECK(restarts.restarted());
  CHECK_FALSE(restarts.dead().any().item<bool>());
  CHECK(restarts.restarts().sum().item<int64_t>() == 1);
}

TEST_CASE("dead prototypes are found without being moved, and noted in a state", "[thresholds]") {
  const Tensor code = three_directions();
  PrototypePredictor predictor = one_dead();
  const Tensor before = predictor->student.detach().clone();
  PrototypeRestarts whole(PrototypeRestartOptions().interval(10).restart(false)), second(whole.options);
  for (int call = 0; call < 12; ++call) whole.update(predictor, predictor(code), code);
  CHECK(whole.dead().equal(torch::tensor({false, false, true})));
  CHECK_FALSE(whole.restarts().defined());
  CHECK(predictor->student.equal(before));

  second.load_state(whole.state());
  CHECK(second.dead().equal(whole.dead()));
  for (int call = 0; call < 7; ++call) second.update(predictor, predictor(code.neg()), code.neg());
  CHECK(second.dead().equal(whole.dead()));
  second.update(predictor, predictor(code.neg()), code.neg());  // the twentieth of all
  CHECK_FALSE(second.dead().equal(whole.dead()));

  CHECK_ERROR(whole.update(predictor, predictor(code), code.slice(3, 0, 3)), "for the same patches");
  const std::map<std::string, Tensor> wrong{{"counts", torch::zeros({3})}};
  CHECK_ERROR(whole.load_state(wrong), "int64");
  CHECK_ERROR(PrototypeRestarts(PrototypeRestartOptions().interval(0)), "interval");
  CHECK_ERROR(PrototypeRestarts(PrototypeRestartOptions().least_share(2)), "least_share");
}

TEST_CASE("what joining classes costs is the energy of their pairs", "[thresholds]") {
  torch::manual_seed(0);
  const int64_t kSizes[] = {3, 5, 2};
  std::vector<Tensor> members;
  std::vector<Tensor> sums;
  for (const int64_t size : kSizes) {
    const Tensor x = torch::randn({size, 4}, torch::kFloat64);
    members.push_back(x / x.norm(2, {1}, /*keepdim=*/true));
    sums.push_back(members.back().sum(0));
  }
  const auto closeness = [&](std::size_t a, std::size_t b) {
    return members[a].mm(members[b].t()).mean().item<double>();
  };
  double cheapest = INFINITY;
  for (const auto& [a, b] : {std::pair<std::size_t, std::size_t>(0, 1), {0, 2}, {1, 2}}) {
    const double threshold = (closeness(a, a) + closeness(b, b)) / 2;
    const auto n = static_cast<double>(kSizes[a]), m = static_cast<double>(kSizes[b]);
    cheapest = std::min(cheapest, n * m * (threshold - closeness(a, b)) / (n + m));
  }
  const auto costs = functional::joining_costs(torch::stack(sums), torch::tensor({3, 5, 2}));
  REQUIRE(costs.size() == 2);
  CHECK(costs[1] == Approx(std::sqrt(cheapest)).epsilon(1e-12));
  CHECK_ERROR(functional::joining_costs(torch::stack(sums), torch::tensor({3, 5})), "(K,C) and sizes (K)");

  CHECK(functional::knee_of({10, 8, 6, 4, 1.9, 1.8, 1.7, 1.6}) == 5);
  CHECK_ERROR(functional::knee_of({3, 2, 1}), "at least 4");
}

TEST_CASE("the number of classes is that of the directions of patches", "[thresholds]") {
  torch::manual_seed(0);
  constexpr int64_t kDirections = 6, kDims = 12;
  const Tensor labels = torch::arange(4 * 300) % kDirections;
  const Tensor patches = torch::one_hot(labels, kDims).to(torch::kFloat32) + 0.1 * torch::randn({4 * 300, kDims});
  const Tensor features = patches.view({4, 300, kDims}).transpose(1, 2);
  const auto count = [&] {
    return functional::class_count(features, ClassCountOptions().num_clusters(24).repeats(3),
                                   at::make_generator<at::CPUGeneratorImpl>(1));
  };
  const ClassCount result = count();
  CHECK(result.num_classes == kDirections);
  CHECK(result.costs.size() == 23);
  CHECK(result.costs == count().costs);
  CHECK_ERROR(functional::class_count(features, ClassCountOptions().num_clusters(4)), "at least 5 clusters");
}
