// Predictor, data term, teacher, projector and the whole energy: Eqs. 5 to 7 and Algorithm 1.

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/serialize.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>
#include <string>

#include "../benchmarks/naive.hpp"
#include "catch.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/projector.hpp"
#include "support.hpp"

using namespace smooseg;

namespace {

const auto kDouble = torch::TensorOptions().dtype(torch::kFloat64);

EnergyOptions options_of(const std::string& file) {
  const auto metadata = io::read_safetensors_metadata(data_path(file));
  return EnergyOptions()
      .smoothness(SmoothnessOptions()
                      .within_threshold(std::stod(metadata.at("within_threshold")))
                      .across_threshold(std::stod(metadata.at("across_threshold"))))
      .temperature(std::stod(metadata.at("temperature")));
}

void copy_into(torch::nn::Module& module, const io::TensorMap& tensors) {
  torch::NoGradGuard no_grad;
  for (auto& p : module.named_parameters()) p.value().copy_(tensors.at(p.key()));
  for (auto& b : module.named_buffers()) b.value().copy_(tensors.at(b.key()));
}

io::TensorMap projector_tensors(const io::TensorMap& g, const std::string& stage) {
  io::TensorMap result;
  for (const char* part : {"weight", "bias"}) {
    result[std::string("linear.") + part] = g.at(stage + ".projection.cluster1.0." + part);
    result[std::string("mlp.0.") + part] = g.at(stage + ".projection.cluster2.0." + part);
    result[std::string("mlp.2.") + part] = g.at(stage + ".projection.cluster2.2." + part);
  }
  return result;
}

io::TensorMap predictor_tensors(const io::TensorMap& g, const std::string& stage) {
  return {{"student", g.at(stage + ".prediction.local_clusters")},
          {"teacher", g.at(stage + ".prediction.global_clusters")}};
}

}  // namespace

TEST_CASE("prototype logits by hand", "[predictor]") {
  const Tensor prototypes = torch::tensor({{2.0, 0.0}, {3.0, 4.0}}, kDouble);
  const Tensor code = torch::tensor({5.0, 0.0, 0.0, -1.0}, kDouble).view({1, 2, 1, 2});  // patches (5,0) and (0,-1)
  const Tensor logits = functional::prototype_logits(prototypes, code);
  CHECK(logits.sizes() == torch::IntArrayRef{1, 2, 1, 2});
  CHECK((logits.flatten() - torch::tensor({1.0, 0.0, 0.6, -0.8}, kDouble)).abs().max().item<double>() < 1e-15);
}

TEST_CASE("data term by hand", "[data_term]") {
  // Patch 0: teacher says class 1, patch 1: class 0; student logits (0, ln 3) and (0, 0).
  const Tensor student = torch::tensor({0.0, 0.0, std::log(3.0), 0.0}, kDouble).view({1, 2, 2});
  const Tensor teacher = torch::tensor({0.1, 0.9, 0.2, 0.3}, kDouble).view({1, 2, 2});
  const double expected = -std::log(0.75) - std::log(0.5);
  CHECK(relative_error(functional::data_term(student, teacher, Reduction::kSum), expected) < 1e-14);
  CHECK(relative_error(functional::data_term(student, teacher), expected / 2) < 1e-14);
  CHECK_ERROR(functional::data_term(student, teacher.narrow(2, 0, 1)),
              "smooseg::functional::data_term: expected student and teacher of one shape, got (1, 2, 2) and (1, 2, 1)");
}

TEST_CASE("the teacher follows the student", "[ema][predictor]") {
  PrototypePredictor predictor(PrototypePredictorOptions(3, 4).momentum(0.75));
  CHECK(predictor->teacher.equal(predictor->student));
  {
    torch::NoGradGuard no_grad;
    predictor->student.fill_(4);
    predictor->teacher.fill_(8);
  }
  predictor->update_teacher();
  CHECK(predictor->teacher.eq(7).all().item<bool>());
  CHECK(predictor->student.eq(4).all().item<bool>());
  CHECK_FALSE(predictor->teacher.requires_grad());

  SECTION("a predictor in half precision keeps its teacher in float32, which does not drift") {
    predictor->to(torch::kBFloat16);
    CHECK(predictor->student.scalar_type() == torch::kBFloat16);
    CHECK(predictor->teacher.scalar_type() == torch::kFloat32);
    torch::NoGradGuard no_grad;
    predictor->student.copy_(torch::randn({3, 4}));
    predictor->teacher.copy_(predictor->student);
    for (int i = 0; i < 2000; ++i) predictor->update_teacher();
    CHECK(predictor->teacher.equal(predictor->student.to(torch::kFloat32)));
    predictor->student.mul_(2);
    for (int i = 0; i < 100; ++i) EmaUpdater(0.998).update(predictor->teacher, predictor->student);
    const double kept = std::pow(0.998, 100);
    CHECK(relative_error(predictor->teacher, predictor->student.to(torch::kFloat32) * (1 - kept / 2)) < 1e-5);
    const auto copy = std::dynamic_pointer_cast<PrototypePredictorImpl>(predictor->clone());
    CHECK(copy->teacher.equal(predictor->teacher));
    predictor->to(torch::kFloat64);
    CHECK(predictor->teacher.scalar_type() == torch::kFloat64);
  }
  SECTION("a half precision target rounds once a step") {
    Tensor target = torch::full({5}, 3, torch::kBFloat16);
    for (int i = 0; i < 2000; ++i) EmaUpdater(0.998).update(target, torch::full({5}, 3));
    CHECK(target.eq(3).all().item<bool>());
  }
  SECTION("between modules: parameters are averaged, buffers copied") {
    torch::nn::BatchNorm1d target(2), source(2);
    {
      torch::NoGradGuard no_grad;
      source->weight.fill_(3);
      source->running_mean.fill_(5);
    }
    EmaUpdater(0.5).update(*target, *source);
    CHECK(target->weight.eq(2).all().item<bool>());
    CHECK(target->running_mean.eq(5).all().item<bool>());
  }
  SECTION("what does not fit is refused") {
    CHECK_ERROR(EmaUpdater(1.5), "expected a momentum in [0,1], got 1.5");
    CHECK_ERROR(EmaUpdater(0.5).update(torch::zeros({2}), torch::zeros({3})), "shape (2), got (3)");
    torch::nn::Linear a(2, 3), b(2, 4);
    const Tensor before = a->bias.clone();
    CHECK_ERROR(EmaUpdater(0.5).update(*a, *b), "expected 'weight' of the target's shape (3, 2), got (4, 2)");
    torch::nn::Linear plain(torch::nn::LinearOptions(2, 3).bias(false));
    CHECK_ERROR(EmaUpdater(0.5).update(*a, *plain), "the source module has no 'bias'");
    CHECK(a->bias.equal(before));
  }
}

TEST_CASE("energy of the published program, value and gradient", "[loss][golden]") {
  for (const char* file :
       {"loss_small.safetensors", "loss_cityscapes_shape.safetensors", "loss_potsdam_shape.safetensors"}) {
    const auto g = golden(file);
    for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
      INFO(file << ", evaluation " << static_cast<int>(evaluation));
      auto options = options_of(file);
      options.smoothness().evaluation(evaluation);
      const Tensor& prototypes = g.at("student_prototypes");
      PrototypePredictor predictor(prototypes.size(0), prototypes.size(1));
      predictor->to(torch::kFloat64);
      copy_into(*predictor, {{"student", prototypes}, {"teacher", g.at("teacher_prototypes")}});
      EnergyLoss energy(options);

      const Tensor features = g.at("features").clone().requires_grad_();
      const Tensor code = g.at("code").clone().requires_grad_();
      const PrototypeLogits y = predictor(code);
      CHECK(relative_error(y.student, g.at("student_logits")) < 1e-9);
      CHECK(relative_error(y.teacher, g.at("teacher_logits")) < 1e-9);

      const EnergyTerms e = energy(features.detach(), y, g.at("pairing"));
      CHECK(relative_error(e.within.view(1), g.at("within_loss")) < 1e-9);
      CHECK(relative_error(e.across.view(1), g.at("across_loss")) < 1e-9);
      CHECK(relative_error(e.data.view(1), g.at("data_loss")) < 1e-9);
      CHECK(relative_error(e.total.view(1), g.at("total_loss")) < 1e-9);
      CHECK(relative_error(e.within_penalty_mean.view(1), g.at("within_penalty_mean")) < 1e-9);
      CHECK(relative_error(e.across_penalty_mean.view(1), g.at("across_penalty_mean")) < 1e-9);

      e.total.backward();
      CHECK(relative_error(code.grad(), g.at("grad_code")) < 1e-9);
      CHECK(relative_error(predictor->student.grad(), g.at("grad_student_prototypes")) < 1e-9);
    }
  }
}

TEST_CASE("gradients reach what they should and nothing else", "[loss]") {
  torch::manual_seed(1);
  PrototypePredictor predictor(PrototypePredictorOptions(4, 6));
  EnergyLoss energy;
  const Tensor x = torch::rand({3, 8, 4, 4}), pairing = functional::random_pairing(3);
  Tensor code = torch::randn({3, 6, 4, 4}).requires_grad_();

  SECTION("smoothness: the code alone") {
    const EnergyTerms e = energy(x, predictor(code), pairing);
    (e.within + e.across).backward();
    CHECK(code.grad().abs().sum().item<double>() > 0);
    CHECK_FALSE(predictor->student.grad().defined());
    CHECK_FALSE(predictor->teacher.grad().defined());
  }
  SECTION("data term: the student's prototypes alone") {
    energy(x, predictor(code), pairing).data.backward();
    CHECK_FALSE(code.grad().defined());
    CHECK(predictor->student.grad().abs().sum().item<double>() > 0);
    CHECK_FALSE(predictor->teacher.grad().defined());
  }
}

TEST_CASE("the data term by hand, and its gradient", "[loss]") {
  // Two patches; the teacher says class 1 (of a tie the first) and class 2.
  const Tensor teacher = torch::tensor({0.1, 0.3, 0.5, 0.2, 0.5, 0.9}, kDouble).view({1, 3, 2});
  const Tensor student = torch::tensor({1.0, 0.0, 2.0, 0.0, 3.0, 1.0}, kDouble).view({1, 3, 2}).requires_grad_();
  const double first = std::log(std::exp(1) + std::exp(2) + std::exp(3)) - 2, second = std::log(2 + std::exp(1)) - 1;
  const Tensor mean = functional::data_term(student, teacher);
  CHECK(relative_error(mean, (first + second) / 2) < 1e-14);
  CHECK(relative_error(functional::data_term(student, teacher, Reduction::kSum), first + second) < 1e-14);
  mean.backward();
  const Tensor one_hot = torch::tensor({0.0, 0.0, 1.0, 0.0, 0.0, 1.0}, kDouble).view({1, 3, 2});
  CHECK(relative_error(student.grad(), (at::softmax(student, 1) - one_hot) / 2) < 1e-14);
  CHECK_ERROR(torch::autograd::grad({functional::data_term(student, teacher)}, {student}, {}, true, true),
              "smooseg::functional::data_term: second derivatives (create_graph) are not supported");
}

TEST_CASE("predictor and energy against the textbook form on random shapes", "[loss][predictor]") {
  torch::manual_seed(21);
  const auto draw = [](int64_t low, int64_t high) { return torch::randint(low, high + 1, {1}).item<int64_t>(); };
  for (int trial = 0; trial < 12; ++trial) {
    const int64_t b = draw(2, 5), c = draw(1, 30), d = draw(1, 40), k = draw(2, 40), h = draw(1, 15), w = draw(1, 20);
    INFO("B " << b << ", C " << c << ", D " << d << ", K " << k << ", " << h << " x " << w << ", trial " << trial);
    PrototypePredictor predictor(k, d);
    predictor->to(torch::kFloat64);
    EnergyLoss energy(EnergyOptions::cocostuff());
    const Tensor features = torch::randn({b, c, h, w}, kDouble), pairing = functional::random_pairing(b);
    Tensor code = torch::randn({b, d, h, w}, kDouble);
    if (trial % 2 == 1) code = code.to(torch::MemoryFormat::ChannelsLast);
    const auto evaluate = [&](const auto& value) {
      predictor->zero_grad();
      const Tensor leaf = code.detach().clone().requires_grad_();
      const Tensor total = value(leaf);
      total.backward();
      return std::array<Tensor, 3>{total.detach(), leaf.grad().clone(), predictor->student.grad().clone()};
    };
    const auto ours = evaluate([&](const Tensor& z) { return energy(features, predictor(z), pairing).total; });
    const auto expected = evaluate([&](const Tensor& z) {
      return naive::energy(features, naive::predictor(predictor, z), pairing, energy->options);
    });
    for (std::size_t i = 0; i < 3; ++i) {
      INFO("output " << i);
      CHECK((ours[i] - expected[i]).norm().item<double>() <= 1e-11 * std::max(1e-3, expected[i].norm().item<double>()));
    }
  }
}

TEST_CASE("autocast leaves the losses in float32", "[loss][predictor]") {
  torch::manual_seed(22);
  PrototypePredictor predictor(5, 8);
  EnergyLoss energy;
  const Tensor features = torch::randn({2, 12, 6, 6}).to(torch::kBFloat16), pairing = functional::random_pairing(2);
  const Tensor code = torch::randn({2, 8, 6, 6}).to(torch::kBFloat16).requires_grad_();
  const auto run = [&](bool autocast) {
    const AutocastOnCpu guard(autocast);
    code.mutable_grad().reset();
    const PrototypeLogits y = predictor(code);
    CHECK(y.teacher.scalar_type() == torch::kFloat32);
    const Tensor total = energy(features, y, pairing).total;
    CHECK(total.scalar_type() == torch::kFloat32);
    total.backward();
    CHECK(code.grad().scalar_type() == torch::kBFloat16);
    return total.detach();
  };
  CHECK(run(true).equal(run(false)));
}

TEST_CASE("soft assignments", "[predictor]") {
  torch::manual_seed(23);
  const Tensor logits = torch::randn({2, 7, 3, 5}, kDouble), weights = torch::randn({2, 7, 3, 5}, kDouble);
  const auto gradient = [&](const auto& assign) {
    const Tensor leaf = logits.detach().clone().requires_grad_();
    (assign(leaf) * weights).sum().backward();
    return leaf.grad();
  };
  const auto ours = [](const Tensor& t) { return functional::soft_assignments(t, 0.3); };
  const auto textbook = [](const Tensor& t) { return at::softmax(t / 0.3, 1); };
  CHECK(relative_error(ours(logits), textbook(logits)) < 1e-14);
  CHECK(relative_error(gradient(ours), gradient(textbook)) < 1e-13);
  CHECK(functional::soft_assignments(logits.to(torch::kBFloat16)).scalar_type() == torch::kFloat32);
  // Far apart: nothing overflows.
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    const Tensor far = functional::soft_assignments((logits * 1e6).to(dtype).repeat({1, 1, 2, 4}), 0.01);
    CHECK(far.equal(far.round()));
    CHECK(far.sum(1).eq(1).all().item<bool>());
  }
  CHECK_ERROR(functional::soft_assignments(logits, 0),
              "smooseg::functional::soft_assignments: expected temperature > 0");
  CHECK_ERROR(functional::soft_assignments(logits[0][0]), "expected logits of shape (B,K,...)");
}

TEST_CASE("presets", "[loss]") {
  const auto check = [](const EnergyOptions& o, double within, double across, Centering centering,
                        Reduction reduction) {
    CHECK(o.smoothness().within_threshold() == within);
    CHECK(o.smoothness().across_threshold() == across);
    CHECK(o.smoothness().centering() == centering);
    CHECK(o.smoothness().reduction() == reduction);
    CHECK(o.temperature() == 0.1);
  };
  check(EnergyOptions::paper(), -0.02, 0.5, Centering::kRow, Reduction::kSum);
  check(EnergyOptions::cityscapes(), -0.02, 0.5, Centering::kRowKeepMean, Reduction::kMean);
  check(EnergyOptions::cocostuff(), -0.02, 0.48, Centering::kRowKeepMean, Reduction::kMean);
  check(EnergyOptions::potsdam(), 0.1, 0.5, Centering::kRowKeepMean, Reduction::kMean);

  // The paper's form sums every part: pairs in the smoothness term, patches in the data term.
  torch::manual_seed(3);
  PrototypePredictor predictor(3, 4);
  const Tensor x = torch::rand({2, 5, 3, 3}), pairing = functional::random_pairing(2);
  const PrototypeLogits y = predictor(torch::randn({2, 4, 3, 3}));
  auto means = EnergyOptions::paper();
  means.smoothness().reduction(Reduction::kMean);
  const EnergyTerms sum = EnergyLoss(EnergyOptions::paper())(x, y, pairing), mean = EnergyLoss(means)(x, y, pairing);
  CHECK(relative_error(sum.within, 2 * 81 * mean.within) < 1e-5);
  CHECK(relative_error(sum.data, 2 * 9 * mean.data) < 1e-5);
}

TEST_CASE("predictor and energy refuse what does not fit", "[predictor][loss]") {
  CHECK_ERROR(PrototypePredictor(1, 4), "smooseg::PrototypePredictor: expected at least 2 classes, got 1");
  CHECK_ERROR(PrototypePredictor(3, 0), "expected embed_dim of at least 1, got 0");
  CHECK_ERROR(PrototypePredictor(PrototypePredictorOptions(3, 4).momentum(-1)), "expected a momentum in [0,1], got -1");
  PrototypePredictor predictor(3, 4);
  CHECK_ERROR(predictor(torch::rand({2, 5, 2, 2})),
              "prototypes of shape (K,D) and a code of shape (B,D,...), got (3, 4)");
  CHECK_ERROR(EnergyLoss(EnergyOptions().temperature(0)), "smooseg::EnergyLoss: expected temperature > 0, got 0");
  EnergyLoss energy;
  CHECK_ERROR(energy(torch::rand({1, 4, 2, 2}), PrototypeLogits(), torch::zeros({1}, torch::kInt64)),
              "logits.teacher is undefined");
}

TEST_CASE("options that are changed hold from the next call on", "[loss]") {
  torch::manual_seed(11);
  const Tensor x = torch::randn({2, 3, 4, 4}), pairing = torch::tensor({1, 0}, torch::kInt64);
  const PrototypeLogits logits{torch::randn({2, 5, 4, 4}), torch::randn({2, 5, 4, 4})};
  EnergyLoss energy;
  energy->options.temperature(0.3);
  energy->options.smoothness().within_threshold(0.2).across_threshold(0.7);
  EnergyLoss expected(
      EnergyOptions().temperature(0.3).smoothness(SmoothnessOptions().within_threshold(0.2).across_threshold(0.7)));
  CHECK(energy(x, logits, pairing).total.equal(expected(x, logits, pairing).total));
  CHECK_FALSE(energy(x, logits, pairing).total.equal(EnergyLoss()(x, logits, pairing).total));

  SECTION("a closeness of one's own") {
    EnergyLoss gaussian(energy->options, GaussianCloseness{2});
    const EnergyTerms e = gaussian(x, logits, pairing);
    const Tensor a = functional::soft_assignments(logits.teacher, 0.3);
    const auto s = functional::smoothness(x, a, pairing, energy->options.smoothness(), GaussianCloseness{2});
    CHECK(e.total.equal(s.total() + functional::data_term(logits.student, logits.teacher)));
    CHECK_FALSE(e.within.equal(energy(x, logits, pairing).within));
  }
  SECTION("what is not finite is an error where that is asked for") {
    Tensor bad = x.clone();
    bad[1][2][0][0] = NAN;
    CHECK(energy(bad, logits, pairing).total.isnan().item<bool>());
    energy->options.check_finite(true);
    CHECK(energy(x, logits, pairing).total.isfinite().item<bool>());
    CHECK_ERROR(energy(bad, logits, pairing), "smooseg::EnergyLoss: the energy is not finite; the features are not");
    const PrototypeLogits infinite{logits.student / 0, logits.teacher};
    CHECK_ERROR(energy(x, infinite, pairing), "the student's logits are not");
  }
}

TEST_CASE("modules clone, move, save and print", "[loss][predictor][projector]") {
  torch::manual_seed(9);
  PrototypePredictor predictor(PrototypePredictorOptions(3, 4).momentum(0.5));
  Projector projector(5, 4);
  {
    torch::NoGradGuard no_grad;
    predictor->teacher.add_(1);
  }
  const auto clone = std::dynamic_pointer_cast<PrototypePredictorImpl>(predictor->clone());
  CHECK(clone->student.equal(predictor->student));
  CHECK(clone->teacher.equal(predictor->teacher));
  CHECK(clone->student.data_ptr() != predictor->student.data_ptr());
  clone->update_teacher();
  CHECK_FALSE(clone->teacher.equal(predictor->teacher));
  CHECK(std::dynamic_pointer_cast<ProjectorImpl>(projector->clone())->linear->weight.equal(projector->linear->weight));
  CHECK(std::dynamic_pointer_cast<EnergyLossImpl<>>(EnergyLoss(EnergyOptions::cocostuff())->clone())
            ->options.smoothness()
            .across_threshold() == 0.48);

  predictor->to(torch::kFloat64);
  CHECK(predictor->student.scalar_type() == torch::kFloat64);
  CHECK(predictor->teacher.scalar_type() == torch::kFloat64);
  CHECK(predictor(torch::rand({1, 4, 2, 2}, kDouble)).teacher.scalar_type() == torch::kFloat64);

  std::stringstream file;
  torch::save(predictor, file);
  PrototypePredictor loaded(3, 4);
  loaded->to(torch::kFloat64);
  torch::load(loaded, file);
  CHECK(loaded->student.equal(predictor->student));
  CHECK(loaded->teacher.equal(predictor->teacher));

  const auto printed = [](const auto& module) {
    std::ostringstream out;
    out << module;
    return out.str();
  };
  CHECK(printed(predictor) == "smooseg::PrototypePredictor(num_classes=3, embed_dim=4, momentum=0.5)");
  CHECK(printed(projector).find("smooseg::Projector(in_channels=5, embed_dim=4, dropout=0.2)") == 0);
  CHECK(printed(EnergyLoss()).find("smooseg::EnergyLoss(temperature=0.1)") == 0);
}

TEST_CASE("60 steps of the published program's training", "[loss][projector][predictor][golden]") {
  const std::string file = "train_trajectory.safetensors";
  const auto g = golden(file);
  const auto metadata = io::read_safetensors_metadata(data_path(file));
  const Tensor& pool = g.at("feature_pool");

  Projector projector(ProjectorOptions(24, 8).dropout(std::stod(metadata.at("dropout"))));
  PrototypePredictor predictor(PrototypePredictorOptions(5, 8).momentum(std::stod(metadata.at("alpha"))));
  projector->to(torch::kFloat64);
  predictor->to(torch::kFloat64);
  copy_into(*projector, projector_tensors(g, "init"));
  copy_into(*predictor, predictor_tensors(g, "init"));
  EnergyLoss energy(options_of(file));
  torch::optim::Adam projector_adam(projector->parameters(), std::stod(metadata.at("lr_projector")));
  torch::optim::Adam predictor_adam(predictor->parameters(), std::stod(metadata.at("lr_predictor")));

  Tensor losses = torch::zeros_like(g.at("losses"));
  for (int64_t step = 0; step < losses.size(0); ++step) {
    const ProjectorOutput o = projector(pool.index_select(0, g.at("batch_indices")[step]));
    const EnergyTerms e = energy(o.features, predictor(o.code), g.at("pairings")[step]);
    losses[step].copy_(torch::stack({e.within + e.across, e.data, e.within_penalty_mean, e.across_penalty_mean}));
    projector_adam.zero_grad();
    predictor_adam.zero_grad();
    e.total.backward();
    predictor->update_teacher();
    projector_adam.step();
    predictor_adam.step();
  }
  CHECK(relative_error(losses.detach(), g.at("losses")) < 1e-8);
  for (const auto& p : projector->named_parameters()) {
    INFO(p.key());
    CHECK(relative_error(p.value(), projector_tensors(g, "final").at(p.key())) < 1e-7);
  }
  CHECK(relative_error(predictor->student, g.at("final.prediction.local_clusters")) < 1e-7);
  CHECK(relative_error(predictor->teacher, g.at("final.prediction.global_clusters")) < 1e-7);
  const Tensor batch = pool.narrow(0, 0, g.at("final.labels").size(0));
  CHECK(predictor(projector(batch).code).teacher.argmax(1).equal(g.at("final.labels")));
}
