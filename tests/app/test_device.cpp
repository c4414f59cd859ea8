// The program on a device that is not the CPU.

#include <torch/cuda.h>

#include <string>

#include "model/model.hpp"
#include "pretend_device.hpp"
#include "program.hpp"

namespace smooseg::app {
namespace {

Words on_pretend_device(Words arguments) {
  return arguments + Words{"--device", pretend_device().str()};
}

/// Whether there is CUDA, beside which LibTorch's autograd does not serve the pretend device; says so.
bool is_beside_cuda() {
  if (torch::cuda::device_count() == 0) return false;
  WARN("not tested: the pretend device, which cannot learn beside CUDA");
  return true;
}

/// What a training asks of the device.
DeviceUse use_of_training(const std::filesystem::path& out, const Words& more) {
  const DeviceUse before = device_use();
  check_runs(on_pretend_device(train_arguments(out)) + Words{"--overwrite"} + more);
  return device_use() - before;
}

}  // namespace

TEST_CASE("training and evaluation on another device give the CPU's model and scores", "[device][train]") {
  if (is_beside_cuda()) return;
  const TempDir dir;
  const auto model = [&](const char* name) { return (dir.path / name / "best.safetensors").string(); };
  const Words settings{"--iterations", "12", "--select", "labels", "--validation-split", "test"};
  check_runs(train_arguments(dir.path / "cpu") + settings);
  check_runs(on_pretend_device(train_arguments(dir.path / "device") + settings));
  const auto expected = io::read_safetensors(model("cpu")), got = io::read_safetensors(model("device"));
  REQUIRE(got.size() == expected.size());
  for (const auto& [name, tensor] : expected) {
    INFO(name);
    CHECK(relative_error(got.at(name), tensor) < 1e-4);
  }

  const auto scores = [&](const char* name, const Words& more) {
    check_runs(
        Words{"evaluate", "--model", model(name), "--data", scenes().string(), "--resolution", "64", "--kmeans"} +
        more);
    return nlohmann::json::parse(content_of(dir.path / name / "evaluation" / "scores.json"));
  };
  const auto of_cpu = scores("cpu", {"--device", "cpu"}), of_device = scores("device", on_pretend_device({}));
  for (const char* score : {"accuracy", "miou"}) {
    CHECK(of_device.at(score).get<double>() == Catch::Approx(of_cpu.at(score).get<double>()).margin(0.01));
    CHECK(of_device.at("kmeans").at(score).get<double>() ==
          Catch::Approx(of_cpu.at("kmeans").at(score).get<double>()).margin(0.01));
  }
}

TEST_CASE("between lines of the log no step copies to the host or waits for the device", "[device][train]") {
  if (is_beside_cuda()) return;
  const TempDir dir;
  const auto check_steps_are_free = [&](const Words& settings) {
    INFO(settings[1] << " " << settings[3]);
    // Long enough that the checkpoint holds as many tensors as that of the longer run.
    const DeviceUse few = use_of_training(dir.path / "out", settings + Words{"--iterations", "12"});
    const DeviceUse use = use_of_training(dir.path / "out", settings + Words{"--iterations", "40"}) - few;
    INFO(use.text());
    CHECK(use.blocking_to_host == 0);
    CHECK(use.blocking_to_device == 0);
    CHECK(use.deferred_to_device > 0);  // crops and masks, which no step waits for
    CHECK(use.waits.empty());
    CHECK(use.deferred_to_host == (settings[3] == "auto" ? 2 : 0));  // measured at steps 21, 31
  };
  for (const char* memory : {"1", "0"}) {  // features kept on the device, or computed in each step
    for (const char* thresholds : {"preset", "auto"}) {
      check_steps_are_free({"--cache-memory", memory, "--thresholds", thresholds, "--log-every", "1000"});
    }
  }
  check_steps_are_free({"--cache-memory", "1", "--thresholds", "preset", "--log-every", "1000", "--without", "data"});
}

TEST_CASE("a loss that is not finite stops the training on another device too", "[device][train][bad input]") {
  if (is_beside_cuda()) return;
  const TempDir dir;
  const Words absurd{"--projector-rate", "1e37", "--log-every", "3"};
  check_fails(on_pretend_device(train_arguments(dir.path / "out") + absurd),
              "training stopped at step 2: the loss (total ");
  CHECK_FALSE(std::filesystem::exists(dir.path / "out" / "last.safetensors"));
}

}  // namespace smooseg::app
