// Modules exported from Python, made here by LibTorch's own torch::jit; and features that come from elsewhere.

#include <ATen/Functions.h>
#include <torch/csrc/jit/api/module.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "smooseg/backbone/exported.hpp"
#include "smooseg/backbone/precomputed.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/segmenter.hpp"
#include "support.hpp"

using namespace smooseg;
using backbone::Exported;
using backbone::ExportedOptions;
using backbone::Precomputed;

namespace {

using Metadata = std::map<std::string, std::string>;

constexpr auto kMap = "def forward(self, x):\n    return torch.conv2d(x, self.weight, stride=[4, 4])\n";
constexpr auto kTokens =
    "def forward(self, x):\n"
    "    t = torch.conv2d(x, self.weight, stride=[4, 4]).flatten(2).transpose(1, 2)\n"
    "    return torch.cat([torch.ones_like(t[:, :2]) * 9.0, t], 1)\n";

Tensor weight() {
  torch::manual_seed(11);
  return torch::randn({5, 3, 4, 4});
}

/// A TorchScript file with this method, a weight (5,3,4,4) and, under "smooseg.NAME", these metadata.
std::string save_module(const std::filesystem::path& path, const std::string& method, const Metadata& metadata = {}) {
  torch::jit::Module module("net");
  module.register_parameter("weight", weight(), /*is_buffer=*/false);
  module.define(method);
  std::unordered_map<std::string, std::string> files;
  for (const auto& [name, value] : metadata) files["smooseg." + name] = value;
  module.save(path.string(), files);
  return path.string();
}

Tensor expected_map(const Tensor& images) {
  return at::conv2d(images, weight().to(images.scalar_type()), {}, 4);
}

}  // namespace

TEST_CASE("a TorchScript module that gives a map", "[exported]") {
  const TempDir dir;
  const std::string path = save_module(dir.path / "map.pt", kMap);
  Exported net(path);
  CHECK(net->patch_size() == 4);  // found from the map
  CHECK(net->channels() == 5);
  CHECK(net->image_size() == 0);
  CHECK(net->path() == path);
  CHECK(net->mean() == backbone::kImageNetMean);
  CHECK(net->std() == backbone::kImageNetStd);
  const Tensor images = torch::randn({2, 3, 20, 12});
  const Tensor features = net->features(images);
  CHECK(relative_error(features, expected_map(images)) < 1e-6);
  CHECK_FALSE(features.requires_grad());
  CHECK(features.is_contiguous());
  CHECK(net->features(images.to(torch::kFloat64)).scalar_type() == torch::kFloat64);
  // The module's parameters stay its own.
  CHECK(net->parameters().empty());
  CHECK(io::tensors_of(*net).empty());

  std::filesystem::remove(path);  // the file is needed no more
  const auto copy = std::dynamic_pointer_cast<backbone::ExportedImpl>(net->clone());
  copy->to(torch::kFloat64);
  CHECK(relative_error(copy->features(images.to(torch::kFloat64)), expected_map(images.to(torch::kFloat64))) < 1e-14);
  CHECK(net->features(images).equal(features));
  net->to(torch::kCPU, torch::kFloat64);
  CHECK(net->features(images).scalar_type() == torch::kFloat32);

  CHECK_ERROR(net->features(torch::zeros({1, 3, 6, 8})), "multiples of the patch size 4, got 6 x 8");
  CHECK_ERROR(net->features(torch::zeros({1, 4, 8, 8})), "Exported::features: expected images of shape (B,3,H,W)");
}

TEST_CASE("a TorchScript module that gives tokens", "[exported]") {
  const TempDir dir;
  const std::string path = save_module(
      dir.path / "tokens.pt", kTokens,
      {{"patch_size", "4"}, {"channels", "5"}, {"skip_tokens", "2"}, {"mean", "0.5 0.25 1e-1"}, {"std", "1 2 3"}});
  Exported net(path);
  CHECK(net->mean() == std::array<double, 3>{0.5, 0.25, 0.1});
  CHECK(net->std() == std::array<double, 3>{1, 2, 3});
  const Tensor images = torch::randn({3, 3, 8, 20});
  CHECK(relative_error(net->features(images), expected_map(images)) < 1e-6);

  SECTION("what the options say goes before what the file says") {
    const std::string bare = save_module(dir.path / "bare.pt", kTokens, {{"patch_size", "2"}});
    const auto options = ExportedOptions().patch_size(4).skip_tokens(2).mean(std::array<double, 3>{0, 0, 0});
    Exported other(bare, options);
    CHECK(other->features(images).equal(net->features(images)));
    CHECK(other->mean() == std::array<double, 3>{0, 0, 0});
    CHECK_ERROR(Exported(bare, ExportedOptions().patch_size(4)), "with patches of 4 pixels and 0 tokens before theirs");
    CHECK_ERROR(Exported(bare), "(1, 12544, C), with patches of 2 pixels");
    CHECK_ERROR(Exported(bare, ExportedOptions().std(std::array<double, 3>{1, 0, 1})), "deviations above 0, got 0");
  }
}

TEST_CASE("a module for pictures of one size", "[exported][segmenter]") {
  const TempDir dir;
  Exported net(save_module(dir.path / "fixed.pt", kMap, {{"image_size", "32"}, {"patch_size", "4"}}));
  CHECK(net->image_size() == 32);
  CHECK_ERROR(net->features(torch::zeros({1, 3, 32, 36})), "expected images of 32 x 32 pixels, which ");
  // In tiles of that size a segmenter labels pictures of any size that is not smaller.
  torch::manual_seed(2);
  Segmenter segmenter(net.ptr(), Projector(5, 6), PrototypePredictor(3, 6), SegmenterOptions().tile(32).overlap(8));
  CHECK(segmenter->labels(torch::randn({2, 3, 38, 71})).sizes() == torch::IntArrayRef{2, 38, 71});
  const auto copy = std::dynamic_pointer_cast<SegmenterImpl>(segmenter->clone());
  const Tensor image = torch::randn({1, 3, 40, 50});
  CHECK(copy->labels(image).equal(segmenter->labels(image)));
}

TEST_CASE("wrong modules", "[exported][bad input]") {
  const TempDir dir;
  int count = 0;
  const auto check = [&](const std::string& method, const Metadata& metadata, const std::string& text) {
    const std::string path = save_module(dir.path / (std::to_string(count++) + ".pt"), method, metadata);
    const std::string error = error_of([&] { Exported{path}; });
    INFO(error);
    CHECK(error.rfind(path + ": ", 0) == 0);
    CHECK(error.find(text) != std::string::npos);
  };
  const auto gives = [](const std::string& value) { return "def forward(self, x):\n    return " + value + "\n"; };
  check("def go(self, x):\n    return x\n", {}, "the module has no method forward");
  check("def forward(self):\n    return 1\n", {}, "fails on images of (1, 3, 224, 224): ");
  check(gives("(x, x)"), {}, "it gives a Tuple, expected a tensor");
  check(gives("[x]"), {}, "expected a tensor");
  check(gives("x.shape[0]"), {}, "it gives a Int, expected a tensor");
  check(gives("x.sum()"), {}, "expected the patch size, which tokens do not tell");
  check(gives("x[:, :, :100, :100]"), {},
        "whose side divides that of the picture, for one of 224 x 224 pixels, got (1, 3, 100, 100)");
  check(gives("x[:, :, :, :112]"), {}, "expected a square map");
  check(gives("x.permute(0, 2, 3, 1)"), {{"patch_size", "1"}}, "got (1, 224, 224, 3)");
  check(gives("x.long()"), {}, "got (1, 3, 224, 224), Long");
  check(gives("x[:, :0]"), {}, "got (1, 0, 224, 224)");
  check(gives("x.view(7, 7)"), {}, "fails on images of (1, 3, 224, 224): RuntimeError: shape '[7, 7]' is invalid");
  check(gives("x / 0"), {}, "are not finite");
  check(kMap, {{"patch_size", "8"}}, "expected a floating map of shape (1, C, 28, 28) or tokens");
  check(kMap, {{"channels", "6"}}, "expected 6 channels, as its metadata say, got 5");
  check(kMap, {{"patch_size", "four"}},
        "'smooseg.patch_size' of its metadata to be a whole number of at least 1, found 'four'");
  check(kMap, {{"patch_size", "4 4"}}, "found '4 4'");
  check(kMap, {{"patch_size", "-4"}}, "found '-4'");
  check(kMap, {{"patch_size", "99999999999999999999"}}, "to be a whole number");
  check(kMap, {{"mean", "0 0"}}, "'smooseg.mean' of its metadata to be three numbers, found '0 0'");
  check(kMap, {{"std", "1 0 1"}}, "three numbers above 0, found '1 0 1'");
  check(kMap, {{"image_size", "30"}, {"patch_size", "4"}}, "a multiple of the patch size, got 30 and 4");

  // What is only noticed later.
  Exported odd(save_module(dir.path / "odd.pt",
                           "def forward(self, x):\n"
                           "    m = torch.conv2d(x, self.weight, stride=[4, 4])\n"
                           "    if x.shape[3] < 16:\n"
                           "        return m[:, :4]\n"
                           "    return m[:1]\n"));
  CHECK_ERROR(odd->features(torch::zeros({1, 3, 8, 8})), "expected 5 channels, as for the first picture, got 4");
  CHECK_ERROR(odd->features(torch::zeros({2, 3, 16, 16})), "expected a floating map of shape (2, C, 4, 4)");
}

TEST_CASE("files that hold no module", "[exported][bad input]") {
  const TempDir dir;
  const std::string not_script = ": expected a TorchScript module, as torch.jit.save writes it";
  CHECK_ERROR(Exported((dir.path / "none.pt").string()),
              "none.pt: expected the file of an exported module, found nothing");
  CHECK_ERROR(Exported(dir.path.string()),
              dir.path.string() + ": expected the file of an exported module, found a folder");
  CHECK_ERROR(Exported(write_content(dir.path / "text.pt", "def forward")), "text.pt" + not_script);
  CHECK_ERROR(Exported(write_content(dir.path / "empty.pt", "")), "empty.pt" + not_script);
  CHECK_ERROR(Exported(data_path("dino_vit_p8.pth")), "dino_vit_p8.pth" + not_script);
  CHECK_ERROR(Exported(data_path("dino_vit_p8.safetensors")), "dino_vit_p8.safetensors" + not_script);
  const std::string whole = content_of(save_module(dir.path / "whole.pt", kMap));
  for (const std::size_t size : {whole.size() / 4, whole.size() / 2, whole.size() - 1}) {
    CHECK_ERROR(Exported(write_content(dir.path / "cut.pt", whole.substr(0, size))), "cut.pt" + not_script);
  }
#if SMOOSEG_HAS_AOTI_PACKAGES
  const std::string no_package = ": expected a package of AOTInductor";
#else
  const std::string no_package = ": packages of AOTInductor (.pt2) need LibTorch 2.6 or newer, this is ";
#endif
  CHECK_ERROR(Exported(write_content(dir.path / "script.pt2", whole)), "script.pt2" + no_package);
  CHECK_ERROR(Exported(write_content(dir.path / "text.pt2", "text")), "text.pt2" + no_package);
}

TEST_CASE("features that come from elsewhere", "[precomputed][segmenter]") {
  Precomputed none(7);
  CHECK(none->channels() == 7);
  CHECK(none->input_channels() == 7);
  const Tensor maps = torch::randn({2, 7, 3, 5}, torch::kFloat64);
  CHECK(none->features(maps).equal(maps));
  CHECK_ERROR(none->features(torch::zeros({1, 3, 4, 4})),
              "Precomputed::features: expected images of shape (B,7,H,W), got (1, 3, 4, 4)");
  CHECK_ERROR(Precomputed(0), "expected at least one channel, got 0");

  // A segmenter takes them for pictures, and gives labels in the pictures' size.
  torch::manual_seed(4);
  Segmenter segmenter(none.ptr(), Projector(7, 6), PrototypePredictor(3, 6));
  segmenter->to(torch::kFloat64);
  segmenter->eval();
  const Tensor code = segmenter->projector(maps).code.detach();
  CHECK(segmenter->code(maps).equal(code));
  const Tensor upsampled = at::upsample_bilinear2d(code, {30, 45}, /*align_corners=*/false);
  const Tensor expected = functional::prototype_logits(segmenter->predictor->teacher, upsampled).argmax(1);
  CHECK(segmenter->labels(maps, 30, 45).equal(expected));
  const auto copy = std::dynamic_pointer_cast<SegmenterImpl>(segmenter->clone());
  CHECK(copy->labels(maps, 30, 45).equal(expected));
  CHECK_ERROR(segmenter->labels(torch::zeros({1, 3, 4, 4}, torch::kFloat64)), "expected images of shape (B,7,H,W)");
}
