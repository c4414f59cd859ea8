// The library on a device that is not the CPU: CUDA where there is any, else the pretend one of the tests.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <torch/cuda.h>
#include <torch/optim/adam.h>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "golden_transformers.hpp"
#include "pretend_device.hpp"
#include "smooseg/backbone/convnext.hpp"
#include "smooseg/backbone/resnet.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/baselines/kmeans.hpp"
#include "smooseg/baselines/linear_probe.hpp"
#include "smooseg/baselines/stego.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/metrics/confusion.hpp"
#include "smooseg/projector.hpp"
#include "smooseg/prototype_restarts.hpp"
#include "smooseg/segmenter.hpp"
#include "smooseg/thresholds.hpp"
#include "support.hpp"

using namespace smooseg;

namespace {

using Results = std::vector<Tensor>;

/// The device to test. LibTorch's autograd serves the pretend one only where there is no CUDA.
torch::Device other_device() {
  if (torch::cuda::device_count() == 0) return pretend_device();
  at::globalContext().setAllowTF32CuDNN(false);  // convolutions with ten bits would differ from the CPU's
  return {torch::kCUDA, 0};
}

/// Checks that f(device) gives on the device what it gives on the CPU.
void check_like_cpu(double tolerance, const std::function<Results(torch::Device)>& f) {
  const torch::Device device = other_device();
  const Results expected = f(torch::kCPU), got = f(device);
  INFO("on " << device);
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO("result " << i);
    CHECK(got[i].device() == device);
    CHECK(relative_error(got[i], expected[i]) < tolerance);
  }
}

/// Values and gradients of the energy of a golden file's inputs.
Results energy_of(const io::TensorMap& golden_values, const EnergyOptions& options, torch::Device device) {
  const auto on_device = [&](const char* name) { return golden_values.at(name).detach().to(device); };
  const Tensor features = on_device("features").requires_grad_(), code = on_device("code").requires_grad_();
  const Tensor student = on_device("student_prototypes").requires_grad_();
  const PrototypeLogits logits{functional::prototype_logits(student, code.detach()),
                               functional::prototype_logits(on_device("teacher_prototypes"), code)};
  EnergyLoss energy(options);
  const EnergyTerms e = energy(features, logits, golden_values.at("pairing"));
  e.total.backward();
  return {e.total,     e.within,       e.across,       e.data, e.within_penalty_mean, e.across_penalty_mean,
          code.grad(), student.grad(), features.grad()};
}

EnergyOptions golden_options(const std::string& file) {
  const auto metadata = io::read_safetensors_metadata(data_path(file));
  const auto number = [&](const char* name) { return std::stod(metadata.at(name)); };
  return EnergyOptions()
      .smoothness(
          SmoothnessOptions().within_threshold(number("within_threshold")).across_threshold(number("across_threshold")))
      .temperature(number("temperature"));
}

template <class Backbone>
Results features_of(Backbone backbone, const Tensor& images, torch::Device device) {
  backbone->to(device);
  const Tensor there = images.to(device), first = backbone->features(there);
  const DeviceUse before = device_use();
  const Tensor again = backbone->features(there);
  const DeviceUse use = device_use() - before;
  INFO(use.text());
  CHECK((use.waits.empty() && use.blocking_to_host == 0 && use.blocking_to_device == 0));
  return {first, again};
}

at::Generator cpu_generator(uint64_t seed) {
  return at::make_generator<at::CPUGeneratorImpl>(seed);
}

/// A head that learns from made-up features.
struct Head {
  explicit Head(torch::Device device) {
    projector->to(device);
    predictor->to(device);
    std::vector<Tensor> parameters = projector->parameters();
    parameters.push_back(predictor->student);
    adam = std::make_unique<torch::optim::Adam>(parameters, torch::optim::AdamOptions(1e-3));
  }

  EnergyTerms step(const Tensor& features, EnergyLoss<>& energy, at::Generator& draws,
                   ThresholdController* controller = nullptr) {
    const ProjectorOutput projected = projector(features, draws);
    const Tensor pairing = functional::random_pairing(features.size(0), draws);
    const PrototypeLogits logits = predictor(projected.code);
    if (controller != nullptr) energy->set_thresholds(controller->update(features, logits.teacher, pairing));
    const EnergyTerms e = energy(projected.features, logits, pairing);
    adam->zero_grad();
    e.total.backward();
    adam->step();
    predictor->update_teacher();
    restarts.update(predictor, logits, projected.code, draws);
    return e;
  }

  static constexpr int64_t kBatch = 4, kChannels = 12, kClasses = 3;
  Projector projector{ProjectorOptions(kChannels, 6)};
  PrototypePredictor predictor{kClasses, 6};
  PrototypeRestarts restarts{PrototypeRestartOptions().interval(2).least_share(0)};  // which looks, and finds none dead
  std::unique_ptr<torch::optim::Adam> adam;
};

}  // namespace

TEST_CASE("the pretend device keeps its memory to itself, and counts", "[device]") {
  const torch::Device device = pretend_device();
  torch::manual_seed(0);
  const Tensor a = torch::randn({3, 4}), b = torch::randn({4, 3}), there = a.to(device);
  CHECK(there.device() == device);
  CHECK(there.mm(b.to(device)).cpu().equal(a.mm(b)));
  there.t().narrow(0, 1, 2).add_(1);  // through views, in place
  CHECK(there.cpu().equal(a + torch::tensor({0.0F, 1.0F, 1.0F, 0.0F})));
  CHECK_ERROR(there + a, "Expected all tensors to be on the same device");

  const DeviceUse before = device_use();
  const Tensor host = torch::empty({3, 4});
  host.copy_(there, /*non_blocking=*/true);
  CHECK_FALSE(host.isfinite().any().item<bool>());  // not arrived
  smooseg::detail::HostCopy copy;
  copy.start(there);
  CHECK(copy.get().equal(there.cpu()));
  CHECK((there.sum().item<float>() != 0 && there.gt(0).nonzero().size(0) > 0));
  const Tensor back = smooseg::detail::to_device(a, device);
  const DeviceUse use = device_use() - before;
  CHECK(use.deferred_to_host == 2);
  CHECK(use.blocking_to_host == 1);
  CHECK(use.deferred_to_device == 1);
  CHECK(use.blocking_to_device == 0);
  CHECK(use.waits == std::map<std::string, int64_t>{{"_local_scalar_dense", 1}, {"nonzero", 1}});
}

TEST_CASE("the energy on other devices: goldens, in any setting", "[device][loss][golden]") {
  for (const char* file :
       {"loss_small.safetensors", "loss_cityscapes_shape.safetensors", "loss_potsdam_shape.safetensors"}) {
    const io::TensorMap g = golden(file);
    const Results published = energy_of(g, golden_options(file), other_device());
    CHECK(relative_error(published[0].view(1), g.at("total_loss")) < 1e-9);
    CHECK(relative_error(published[6], g.at("grad_code")) < 1e-9);
    CHECK(relative_error(published[7], g.at("grad_student_prototypes")) < 1e-9);
    for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
      for (const auto centering : {Centering::kNone, Centering::kRow, Centering::kRowKeepMean}) {
        for (const auto reduction : {Reduction::kMean, Reduction::kSum}) {
          INFO(file << ", evaluation " << static_cast<int>(evaluation) << ", centering " << static_cast<int>(centering)
                    << ", reduction " << static_cast<int>(reduction));
          EnergyOptions options = golden_options(file);
          options.smoothness().evaluation(evaluation).centering(centering).reduction(reduction);
          check_like_cpu(1e-9, [&](torch::Device device) { return energy_of(g, options, device); });
        }
      }
    }
  }
  const io::TensorMap stego = golden("stego_correspondence.safetensors");
  check_like_cpu(1e-9, [&](torch::Device device) -> Results {
    const auto on_device = [&](const char* name) { return stego.at(name).detach().to(device); };
    const Tensor a = on_device("c1").requires_grad_(), b = on_device("c2").requires_grad_();
    const Tensor loss = baselines::stego_correspondence(on_device("f1"), on_device("f2"), a, b, 0.18);
    loss.backward();
    return {loss, a.grad(), b.grad()};
  });
}

TEST_CASE("training steps on other devices are the CPU's, and wait for nothing", "[device][loss][projector]") {
  for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
    for (const bool paired_there : {false, true}) {
      INFO("evaluation " << static_cast<int>(evaluation) << ", pairing on the device: " << paired_there);
      check_like_cpu(1e-4, [&](torch::Device device) -> Results {
        torch::manual_seed(7);
        Head head(device);
        const Tensor features = torch::rand({Head::kBatch, Head::kChannels, 5, 4}).to(device);
        EnergyOptions options;
        options.smoothness().evaluation(evaluation);
        EnergyLoss energy(options);
        ThresholdController controller(ThresholdControllerOptions(Head::kClasses).interval(2), cpu_generator(1));
        at::Generator draws = cpu_generator(2);
        head.step(features, energy, draws, &controller);  // whose thresholds are waited for
        const DeviceUse before = device_use();
        EnergyTerms e;
        for (int step = 0; step < 5; ++step) e = head.step(features, energy, draws, &controller);
        if (paired_there)
          e = energy(features, head.predictor(head.projector->code(features)),
                     torch::arange(Head::kBatch, features.options().dtype(torch::kInt64)));
        const DeviceUse use = device_use() - before;
        if (device == pretend_device()) {
          INFO(use.text());
          CHECK(use.blocking_to_host == 0);
          CHECK(use.blocking_to_device == 0);
          CHECK(use.deferred_to_host == 2);  // the controller's measurements
          CHECK(use.waits.empty());
        }
        return {e.total, e.within, head.projector->linear->weight, head.predictor->student, head.predictor->teacher};
      });
    }
  }
}

TEST_CASE("tensors of two devices are refused by name", "[device][bad input]") {
  const torch::Device device = pretend_device();
  const Tensor features = torch::rand({2, 4, 3, 3}), there = features.to(device), pairing = torch::tensor({1, 0});
  const std::string both = "on one device, got " + device.str() + " and cpu";
  CHECK_ERROR(functional::smoothness(there, features, pairing),
              "smooseg::functional::smoothness: expected features and assignments " + both);
  CHECK_ERROR(functional::smoothness(features, features, pairing.to(device)),
              "expected pairing on the CPU or on the features' device cpu, got " + device.str());
  CHECK_ERROR(functional::data_term(there, features), "expected student and teacher " + both);
  CHECK_ERROR(functional::closeness(there, features), "expected x and y " + both);
  CHECK_ERROR(Projector(4, 2)(there), "smooseg::Projector: expected features and parameters " + both);
  CHECK_ERROR(functional::prototype_logits(torch::rand({3, 4}).to(device), features),
              "expected prototypes and code " + both);
  CHECK_ERROR(metrics::ConfusionMatrix(2, 2).update(pairing.to(device), pairing),
              "ConfusionMatrix::update: expected predictions and labels " + both);
  CHECK_ERROR(EmaUpdater(0.5).update(there, features), "smooseg::EmaUpdater: expected target and source " + both);
}

TEST_CASE("backbones on other devices", "[device][backbone]") {
  const auto images = [](int64_t height, int64_t width) {
    return torch::linspace(-1, 1, 2 * 3 * height * width).reshape({2, 3, height, width});
  };
  for (const auto& [file, options] : std::vector<std::pair<std::string, backbone::VisionTransformerOptions>>{
           {"dino_vit_p8", dino_p8()}, {"dinov2_vit_p14_reg4", dinov2_registers()}, {"dinov3_vit_p16", dinov3()}}) {
    INFO(file);
    check_like_cpu(1e-4, [&, &file = file, &options = options](torch::Device device) {
      backbone::VisionTransformer vit(options);
      io::load(*vit, data_path(file + ".pth"));
      const int64_t patch = options.patch_size();
      return features_of(vit, images(5 * patch, 4 * patch), device);
    });
  }
  check_like_cpu(1e-4, [&](torch::Device device) {
    backbone::ConvNeXt net(backbone::ConvNeXtOptions({1, 1, 2, 1}, {16, 32, 48, 64}));
    io::load(*net, data_path("dinov3_convnext.pth"));
    return features_of(net, images(64, 96), device);
  });
  check_like_cpu(1e-4, [&](torch::Device device) {
    torch::manual_seed(5);
    backbone::ResNet net(backbone::ResNetOptions().blocks({1, 1, 2, 1}).width(4));
    return features_of(net, images(64, 96), device);
  });
  check_like_cpu(1e-4, [&](torch::Device device) {
    backbone::Texture texture(backbone::TextureOptions().textons(6));
    texture->to(device);
    torch::manual_seed(6);
    const Tensor picture = torch::rand({1, 3, 32, 32});
    texture->fit([&](int64_t i) { return picture.roll(3 * i, 3).to(device); }, 3, cpu_generator(3));
    return features_of(texture, images(32, 40), device);
  });
}

TEST_CASE("clusters, probes and labels on other devices", "[device][kmeans][linear probe][segmenter]") {
  torch::manual_seed(9);
  const Tensor features = torch::randn({3, 6, 5, 4}), labels = torch::randint(-1, 4, {3, 10, 8}, torch::kInt64);
  check_like_cpu(1e-4, [&](torch::Device device) -> Results {
    baselines::KMeans kmeans(baselines::KMeansOptions(4), cpu_generator(4));
    kmeans.fit(features.to(device));
    baselines::LinearProbe probe(baselines::LinearProbeOptions(6, 4), device);
    for (int step = 0; step < 3; ++step) probe.update(features.to(device), labels.to(device));
    return {kmeans.centers(), kmeans.assign(features.to(device)).to(torch::kFloat32), probe.weight};
  });
  for (const bool flip : {false, true}) {
    check_like_cpu(1e-4, [&](torch::Device device) -> Results {
      torch::manual_seed(8);
      const auto vit = std::make_shared<backbone::VisionTransformerImpl>(dino_p8());
      Segmenter segmenter(vit, Projector(48, 6), PrototypePredictor(4, 6),
                          SegmenterOptions().flip(flip).tile(48).overlap(8));
      segmenter->eval();
      segmenter->to(device);
      const Tensor pictures = torch::rand({2, 3, 60, 75}).to(device);
      return {segmenter->code(pictures), segmenter->logits(pictures),
              segmenter->labels(pictures, 30, 40).to(torch::kFloat32)};
    });
  }
}

TEST_CASE("confusion is counted on its device, and read once", "[device][metrics]") {
  using metrics::ConfusionMatrix;
  for (const auto& [file, classes] : {std::pair{"metrics_k3.safetensors", 3}, {"metrics_k27.safetensors", 27}}) {
    const io::TensorMap g = golden(file);
    ConfusionMatrix expected(classes, classes);
    expected.update(g.at("predictions"), g.at("labels"));
    const torch::Device device = other_device();
    INFO(file << " on " << device);
    const Tensor predictions = g.at("predictions").to(device), labels = g.at("labels").to(device);
    ConfusionMatrix whole(classes, classes), first(classes, classes);
    const DeviceUse before = device_use();
    first.update(predictions[0].to(torch::kUInt8), labels[0].to(torch::kInt8));
    const ConfusionMatrix copy = first;
    whole.update(predictions.slice(0, 1), labels.slice(0, 1));
    whole += first;
    const DeviceUse use = device_use() - before;
    INFO(use.text());
    CHECK((use.waits.empty() && use.blocking_to_host == 0));
    CHECK(whole.counts() == expected.counts());
    CHECK(copy.counts() == first.counts());
    CHECK(whole.scores().miou == expected.scores().miou);

    whole += expected;  // counted on the CPU
    CHECK(whole.counts() == 2 * expected.counts());
    const ConfusionMatrix good = whole;
    whole.update(labels.clamp_min(0) + classes, labels);
    CHECK_ERROR(whole.counts(), "ConfusionMatrix: expected predictions of 0 to " + std::to_string(classes - 1) +
                                    " where the label counts, got others at ");
    CHECK(good.counts() == 2 * expected.counts());
  }
}

TEST_CASE("copies on their way to and from CUDA", "[device][cuda]") {
  if (torch::cuda::device_count() == 0) {
    WARN("not tested: CUDA, of which there is no device here");
    return;
  }
  const torch::Device cuda(torch::kCUDA, 0);
  const Tensor a = torch::rand({5, 3});
  CHECK(smooseg::detail::pinned_for(cuda, a).is_pinned());
  CHECK(smooseg::detail::to_device(a, cuda).cpu().equal(a));
  smooseg::detail::HostCopy copy;
  copy.start(a.to(cuda));
  CHECK(copy.get().is_pinned());
  CHECK(copy.get().equal(a));
}
