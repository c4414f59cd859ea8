// `--debias`: positions left out of closeness.

#include <torch/csrc/jit/api/module.h>

#include <filesystem>
#include <string>

#include "app/program.hpp"
#include "model/model.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;
namespace io = smooseg::io;

namespace {

constexpr auto kPositionBasis = "closeness.position_basis";

/// A TorchScript module of 12 channels for patches of 8 pixels: random filters, and a wave along each axis, as wide as
/// the picture, in the first two channels. On a blank picture only these differ.
std::string save_places(const fs::path& path) {
  torch::manual_seed(1);
  torch::jit::Module module("net");
  module.register_parameter("weight", torch::randn({12, 3, 8, 8}), /*is_buffer=*/false);
  module.register_parameter("one", torch::ones({1, 12, 1, 1}), /*is_buffer=*/true);
  module.define(R"(
def forward(self, x):
    y = torch.conv2d(x, self.weight, stride=[8, 8]) + self.one
    rows = torch.sin(torch.arange(y.size(2)) * 6.0 / y.size(2)).view(1, 1, -1, 1).expand(y.size(0), 1, -1, y.size(3))
    columns = torch.sin(torch.arange(y.size(3)) * 6.0 / y.size(3)).view(1, 1, 1, -1).expand(y.size(0), 1, y.size(2), -1)
    places = torch.cat([rows, columns, torch.zeros_like(y[:, 2:])], dim=1)
    return y + 0.5 * places
)");
  module.save(path.string(), {{"smooseg.patch_size", "8"}});
  return path.string();
}

Words with_places(const fs::path& out, const std::string& module) {
  return train_arguments(out) + Words{"--backbone", "exported", "--weights", module};
}

}  // namespace

TEST_CASE("training without positions, from the blank picture to scores", "[debias]") {
  const TempDir dir;
  const std::string module = save_places(dir.path / "net.pt");
  const Words two{"--debias", "2"}, weights{"--weights", module};
  const fs::path out = dir.path / "out", model = out / "best.safetensors";
  check_runs(with_places(out, module) + two);
  CHECK(settings_of(model).at("debias") == "2");

  // The basis spans the channels of the waves.
  const Tensor basis = io::read_safetensors(model.string()).at(kPositionBasis);
  REQUIRE(basis.sizes() == torch::IntArrayRef({12, 2}));
  CHECK(relative_error(basis.t().matmul(basis), torch::eye(2)) < 1e-5);
  const LoadedModel loaded = load_model(model, torch::kCPU, {}, module);
  CHECK(loaded.model.position_basis.equal(basis));

  // Another closeness, another model; a run that goes on ends as one that never stopped.
  check_runs(with_places(dir.path / "plain", module));
  const auto plain = io::read_safetensors((dir.path / "plain" / "best.safetensors").string());
  CHECK(plain.count(kPositionBasis) == 0);
  CHECK_FALSE(
      plain.at("projector.linear.weight").equal(io::read_safetensors(model.string()).at("projector.linear.weight")));
  check_runs(with_places(dir.path / "parts", module) + two + Words{"--iterations", "2"});
  check_fails(with_places(dir.path / "parts", module) + Words{"--debias", "1", "--resume"},
              "cannot resume with other settings: --debias was 2, got 1");
  check_runs(with_places(dir.path / "parts", module) + two + Words{"--resume"});
  check_same_tensors(dir.path / "parts" / "last.safetensors", out / "last.safetensors");

  check_runs(Words{"evaluate", "--model", model.string(), "--data", scenes().string(), "--resolution", "64"} + weights);
  check_runs(Words{"segment", "--model", model.string(), "--out", (dir.path / "labels").string(),
                   first_file(scenes() / "images" / "test").string()} +
             weights);
  check_runs(Words{"convert", model.string(), (dir.path / "small.safetensors").string()} + weights);
  check_same_tensors(dir.path / "small.safetensors", model);

  auto [tensors, metadata] = io::read_safetensors_content(model.string());
  metadata.erase("checksum");
  tensors.erase(kPositionBasis);
  io::write_safetensors((dir.path / "damaged.safetensors").string(), tensors, metadata);
  check_fails(
      Words{"evaluate", "--model", (dir.path / "damaged.safetensors").string(), "--data", scenes().string()} + weights,
      "damaged.safetensors: damaged: has no 'closeness.position_basis' of shape [12, 2]");
}

TEST_CASE("wrong numbers of directions", "[debias][bad input]") {
  const TempDir dir;
  const std::string module = save_places(dir.path / "net.pt");
  const fs::path out = dir.path / "out";
  check_fails(with_places(out, module) + Words{"--debias", "13"},
              "--debias: smooseg::functional::position_basis: "
              "expected 1 to 12 directions");
  check_fails(with_places(out, module) + Words{"--debias", "9"}, "do not differ in more, got 9");
  check_fails(with_places(out, module) + Words{"--debias", "-1"}, "--debias", 2);
  check_fails(
      train_arguments(out) + Words{"--backbone", "features", "--features-dir", scenes().string(), "--debias", "1"},
      "--debias: of features of files there are none of a blank picture");
}
