// ResNet against torchvision's, and the registry of backbones.

#include <ATen/Functions.h>

#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <variant>

#include "smooseg/backbone/registry.hpp"
#include "smooseg/io/load.hpp"
#include "support.hpp"

using smooseg::Tensor;
using namespace smooseg::backbone;
namespace io = smooseg::io;

namespace {

/// A tensor of golden ResNet-50's weights, by the formula in the metadata of resnet50.safetensors.
Tensor formula_weight(const std::string& name, torch::IntArrayRef shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  const Tensor w = torch::sin(0.37 * torch::arange(count, torch::kFloat64) + 0.11 * static_cast<double>(name.size()));
  const auto ends = [&](const std::string& end) {
    return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
  };
  Tensor values;
  if (ends("running_var")) {
    values = 1 + 0.2 * w * w;
  } else if (ends("running_mean") || ends("bias")) {
    values = 0.1 * w;
  } else if (shape.size() == 1) {
    values = 1 + 0.1 * w;
  } else {
    values = w * std::sqrt(2.0 / static_cast<double>(count / shape[0]));
  }
  return values.reshape(shape).to(torch::kFloat32);
}

/// The state dict of torchvision's ResNet-50 by the formula, with `prefix` before the names.
io::TensorMap resnet50_tensors(const std::string& prefix = "") {
  io::TensorMap tensors;
  const auto resnet = ResNet(ResNetOptions::resnet50());
  const auto add = [&](const std::string& name, torch::IntArrayRef shape) {
    tensors[prefix + name] = formula_weight(name, shape);
    const std::string variance = "running_var";
    if (name.size() < variance.size() || name.substr(name.size() - variance.size()) != variance) return;
    const std::string norm = name.substr(0, name.size() - variance.size());
    tensors[prefix + norm + "num_batches_tracked"] = torch::zeros({}, torch::kInt64);
  };
  for (const auto& [name, tensor] : io::tensors_of(*resnet)) add(name, tensor.sizes());
  return tensors;
}

/// A small one, for what the size does not matter for.
ResNet small_resnet() {
  torch::manual_seed(5);
  ResNet resnet(ResNetOptions().blocks({1, 1, 2, 1}).width(4));
  for (auto& item : resnet->named_buffers()) item.value().uniform_(0.5, 1.5);
  return resnet;
}

}  // namespace

TEST_CASE("ResNet-50 gives what torchvision's gives", "[backbone]") {
  const io::TensorMap expected = golden("resnet50.safetensors");
  ResNet resnet(ResNetOptions::resnet50());
  io::TensorMap tensors = resnet50_tensors();
  tensors["fc.weight"] = formula_weight("fc.weight", {1000, 2048});
  tensors["fc.bias"] = formula_weight("fc.bias", {1000});
  const io::LoadReport report = io::load_tensors(*resnet, tensors);
  CHECK(report.naming == "torchvision");
  CHECK(report.loaded.size() == 5 * 53);
  for (const std::string size : {"64x64", "96x160"}) {
    INFO(size);
    const Tensor features = resnet->features(expected.at(size + ".input"));
    CHECK_FALSE(features.requires_grad());
    CHECK(features.is_contiguous());
    CHECK(relative_error(features, expected.at(size + ".features")) < 1e-5);
  }
  CHECK(resnet->channels() == 2048);
  CHECK(resnet->patch_size() == 32);

  SECTION("from a checkpoint of MoCo v2, whose encoder_q is the one to use") {
    io::TensorMap checkpoint = resnet50_tensors("state_dict.module.encoder_q.");
    for (const auto& [name, tensor] : resnet50_tensors("state_dict.module.encoder_k.")) {
      checkpoint[name] = torch::zeros_like(tensor);
    }
    for (const char* encoder : {"encoder_q", "encoder_k"}) {
      for (const char* layer : {"0", "2"}) {
        checkpoint["state_dict.module." + std::string(encoder) + ".fc." + layer + ".weight"] = torch::zeros({2, 2});
      }
    }
    checkpoint["state_dict.module.queue"] = torch::zeros({128, 8});
    checkpoint["state_dict.module.queue_ptr"] = torch::zeros({1}, torch::kInt64);
    ResNet other(ResNetOptions::resnet50());
    CHECK(io::load_tensors(*other, checkpoint).prefix == "state_dict.module.encoder_q.");
    const Tensor images = expected.at("64x64.input");
    CHECK(torch::equal(other->features(images), resnet->features(images)));
  }
  SECTION("what is in no ResNet is an error still") {
    tensors["layer5.0.conv1.weight"] = torch::zeros({1});
    CHECK_ERROR(io::load_tensors(*resnet, tensors), "1 unexpected (layer5.0.conv1.weight)");
    tensors.erase("layer5.0.conv1.weight");
    tensors.erase("layer3.2.bn2.running_mean");
    CHECK_ERROR(io::load_tensors(*resnet, tensors), "1 missing (layer3.2.bn2.running_mean)");
  }
}

TEST_CASE("ResNet equals convolution, batch norm and ReLU one after the other", "[backbone]") {
  ResNet resnet = small_resnet();
  resnet->to(torch::kFloat64);
  const io::TensorMap state = io::tensors_of(*resnet);
  const auto convolved = [&](const Tensor& x, const std::string& conv, const std::string& norm, int64_t stride) {
    const Tensor& w = state.at(conv + ".weight");
    return at::batch_norm(at::conv2d(x, w, {}, stride, w.size(2) / 2), state.at(norm + ".weight"),
                          state.at(norm + ".bias"), state.at(norm + ".running_mean"), state.at(norm + ".running_var"),
                          /*training=*/false, 0.1, 1e-5, /*cudnn_enabled=*/false);
  };
  const Tensor images = torch::linspace(-1, 1, 2 * 3 * 64 * 96, torch::kFloat64).reshape({2, 3, 64, 96});
  Tensor x = at::max_pool2d(convolved(images, "conv1", "bn1", 2).relu(), 3, 2, 1);
  for (const std::string block : {"layer1.0.", "layer2.0.", "layer3.0.", "layer3.1.", "layer4.0."}) {
    const int64_t stride = block == "layer1.0." || block == "layer3.1." ? 1 : 2;
    Tensor y = convolved(x, block + "conv1", block + "bn1", 1).relu();
    y = convolved(y, block + "conv2", block + "bn2", stride).relu();
    y = convolved(y, block + "conv3", block + "bn3", 1);
    const bool projects = state.count(block + "downsample.0.weight") > 0;
    CHECK(projects == (block != "layer3.1."));
    x = (y + (projects ? convolved(x, block + "downsample.0", block + "downsample.1", stride) : x)).relu();
  }
  CHECK(x.sizes() == torch::IntArrayRef({2, 128, 2, 3}));
  CHECK(relative_error(resnet->features(images), x) < 1e-13);
}

TEST_CASE("ResNet clones, learns when asked to, and says what is wrong", "[backbone]") {
  ResNet resnet = small_resnet();
  const Tensor images = torch::linspace(-1, 1, 3 * 32 * 64).reshape({1, 3, 32, 64});
  const Tensor features = resnet->features(images);
  CHECK(features.sizes() == torch::IntArrayRef({1, 128, 1, 2}));

  const auto copy = std::dynamic_pointer_cast<ResNetImpl>(resnet->clone());
  REQUIRE(copy);
  for (Tensor& buffer : resnet->buffers()) buffer.zero_();
  CHECK(torch::equal(copy->features(images), features));
  copy->train();
  CHECK(torch::equal(copy->features(images), features));

  for (Tensor& parameter : copy->parameters()) parameter.set_requires_grad(true);
  copy->features(images).sum().backward();
  for (const auto& item : copy->named_parameters()) {
    INFO(item.key());
    CHECK(item.value().grad().defined());
  }
  std::ostringstream printed;
  copy->pretty_print(printed);
  CHECK(printed.str() == "smooseg::backbone::ResNet(blocks=[1, 1, 2, 1], width=4)");

  CHECK_ERROR(resnet->features(torch::zeros({1, 3, 32, 40})),
              "ResNet::features: expected a height and width that are multiples of the patch size 32, got 32 x 40");
  CHECK_ERROR(ResNet(ResNetOptions().blocks({1, 1, 1})), "ResNet: expected blocks of 4 stages, got 3");
  CHECK_ERROR(ResNet(ResNetOptions().blocks({1, 1, 0, 1})), "expected positive numbers of blocks, got [1, 1, 0, 1]");
  CHECK_ERROR(ResNet(ResNetOptions().width(0)), "expected a positive width, got 0");
}

TEST_CASE("a backbone that comes with weights has nothing to learn", "[backbone]") {
  ResNet resnet = small_resnet();
  Backbone& backbone = *resnet;
  const auto images = [](const std::vector<int64_t>&) -> ImageStream { throw std::logic_error("opened"); };
  CHECK(backbone.fit(images, 3, std::nullopt) == 0);
}

TEST_CASE("backbones are made by name", "[backbone]") {
  std::set<std::string> names, files;
  for (const RegistryEntry& entry : registry()) {
    INFO(entry.name);
    CHECK(names.insert(entry.name).second);
    const bool is_convnext = std::holds_alternative<ConvNeXtOptions>(entry.options);
    const bool is_large = is_convnext ? entry.channels > 768 : entry.has_keys() && entry.channels > 384;
    if (!is_large) {  // which take a second and more to make
      const std::shared_ptr<Backbone> backbone = make(entry.name);
      CHECK(backbone->patch_size() == entry.patch_size);
      CHECK(backbone->channels() == entry.channels);
      CHECK(entry.weights.file.empty() == backbone->parameters().empty());
    }
    CHECK(entry.weights.licence.empty() == entry.weights.file.empty());
    if (entry.weights.file.empty()) continue;
    CHECK(files.insert(entry.weights.file).second);
    const std::string &path = entry.weights.path, &sha256 = entry.weights.sha256;
    if (entry.weights.request.empty()) {
      CHECK(path.substr(path.rfind('/') + 1) == entry.weights.file);
      CHECK((sha256.empty() || sha256.size() == 64));
    } else {  // the digits in its name
      CHECK(path.empty());
      CHECK(sha256.size() == 8);
      CHECK(entry.weights.file.find("-" + sha256 + ".pth") != std::string::npos);
    }
    CHECK(entry.weights.sha256.find_first_not_of("0123456789abcdef") == std::string::npos);
  }
  for (const std::string model : {"s", "b", "l", "g"}) {
    CHECK(find("dinov2_vit" + model + "14").weights.file == "dinov2_vit" + model + "14_pretrain.pth");
    CHECK(find("dinov2_vit" + model + "14_reg").weights.path ==
          "dinov2/dinov2_vit" + model + "14/dinov2_vit" + model + "14_reg4_pretrain.pth");
  }
  CHECK(find("dino_vits8").within_threshold == -0.02);
  CHECK(find("dino_vits8").across_threshold == 0.5);
  CHECK(find("texture").within_threshold == 0.2);
  CHECK(find("texture").across_threshold == 0.7);
  CHECK(find("dinov2_vitg14").channels == 1536);
  CHECK(find("dinov2_vitl14_reg").channels == 1024);
  CHECK(find("dinov3_vit7b16").channels == 4096);
  CHECK(find("dinov3_vith16plus").weights.file == "dinov3_vith16plus_pretrain_lvd1689m-7c1da9a5.pth");
  CHECK(find("dinov3_vit7b16_sat493m").weights.file == "dinov3_vit7b16_pretrain_sat493m-a6675841.pth");
  CHECK(std::get<VisionTransformerOptions>(find("dinov3_vitl16_sat493m").options).std()[0] == 0.213);
  CHECK(std::get<VisionTransformerOptions>(find("dinov3_vitl16").options).std()[0] == 0.229);
  CHECK(find("dinov3_convnext_large").channels == 1536);
  CHECK(find("dinov3_convnext_large").patch_size == 32);
  CHECK(std::get<VisionTransformerOptions>(find("franca_vitb14").options).swiglu());
  CHECK(find("franca_vitl14").weights.site == "https://github.com");
  CHECK(find("dino_vitb8").channels == 768);
  CHECK(find("dino_vitb8").weights.file == "dino_vitbase8_pretrain.pth");

  const auto keys = std::dynamic_pointer_cast<VisionTransformerImpl>(make("dino_vits16", FeatureKind::kKeys));
  REQUIRE(keys);
  CHECK(keys->options.features() == FeatureKind::kKeys);
  const auto registers = std::dynamic_pointer_cast<VisionTransformerImpl>(make("dinov2_vits14_reg"));
  REQUIRE(registers);
  CHECK(registers->options.register_tokens() == 4);
  const auto texture =
      std::dynamic_pointer_cast<TextureImpl>(make("texture", BackboneOptions().texture(TextureOptions().textons(9))));
  REQUIRE(texture);
  CHECK(texture->channels() == 9);
  CHECK_ERROR(make("dino_vits7"), "backbone: expected one of dino_vits8, dino_vits16, dino_vitb8, dino_vitb16, ");
  CHECK_ERROR(make("dino_vits7"), "mocov2_resnet50, texture, got 'dino_vits7'");
  CHECK_ERROR(make("texture", FeatureKind::kKeys), "texture has no keys");
  CHECK_ERROR(make("mocov2_resnet50", FeatureKind::kKeys), "mocov2_resnet50 has no keys");
}
