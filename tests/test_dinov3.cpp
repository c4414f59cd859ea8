// DINOv3's transformers and ConvNeXts against the published programs' outputs, under every program's names.

#include <ATen/Functions.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "golden_transformers.hpp"
#include "smooseg/backbone/convnext.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/names.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

using smooseg::Tensor;
using namespace smooseg::backbone;
namespace io = smooseg::io;

namespace {

using Options = VisionTransformerOptions;

/// A file of weights, what it is of, whose names it has, and what its program's model gives.
struct Dinov3File {
  std::string file, naming, expected;
  std::vector<std::string> sizes;  ///< of the inputs, as prefixes of their names
  Options options;
};

const std::vector<Dinov3File>& dinov3_files() {
  static const std::vector<Dinov3File> all{
      {"dinov3_vit_p16.pth", "dino", "dinov3_vit_p16", {"64x64.", "96x48.", "32x112."}, dinov3()},
      {"dinov3_vit_p16_swiglu.pth", "dino", "dinov3_vit_p16_swiglu", {"64x96."}, dinov3_swiglu()},
      {"dinov3_vit_p16_nobias.pth", "dino", "dinov3_vit_p16_nobias", {"80x64."}, dinov3_nobias()},
      {"hf_dinov3_p16.safetensors", "huggingface", "hf_dinov3_p16_expected", {""}, dinov3()},
      {"hf_dinov3_plus_p16.safetensors", "huggingface", "hf_dinov3_plus_p16_expected", {""}, dinov3().swiglu(true)},
      {"timm_dinov3_p16.safetensors", "timm", "timm_dinov3_p16_expected", {""}, dinov3().qkv_bias(false)},
      {"timm_dinov3_plus_p16.safetensors",
       "timm",
       "timm_dinov3_plus_p16_expected",
       {""},
       dinov3().swiglu(true).qkv_bias(false)},
      {"timm_dinov3_qkvb_p16.safetensors", "timm", "timm_dinov3_qkvb_p16_expected", {""}, dinov3()},
  };
  return all;
}

/// The largest relative error of the features for all of its inputs.
double golden_error(const Dinov3File& client, VisionTransformer& vit) {
  const io::TensorMap expected = golden(client.expected + ".safetensors");
  double largest = 0;
  for (const std::string& size : client.sizes) {
    const Tensor features = vit->features(expected.at(size + "input"));
    largest = std::max(largest, relative_error(features, expected.at(size + "features")));
  }
  return largest;
}
double golden_error(const Dinov3File& client, const io::TensorMap& tensors) {
  VisionTransformer vit(client.options);
  io::load_tensors(*vit, tensors);
  return golden_error(client, vit);
}

int64_t parameter_count(const torch::nn::Module& module) {
  int64_t count = 0;
  for (const Tensor& parameter : module.parameters()) count += parameter.numel();
  return count;
}

ConvNeXt small_convnext() {
  return ConvNeXt(ConvNeXtOptions({1, 1, 2, 1}, {16, 32, 48, 64}));
}

}  // namespace

TEST_CASE("VisionTransformer gives what DINOv3's gives, whoever wrote its file", "[backbone][dinov3]") {
  for (const Dinov3File& client : dinov3_files()) {
    INFO(client.file);
    VisionTransformer vit(client.options);
    const io::LoadReport report = io::load(*vit, data_path(client.file));
    CHECK(report.complete());
    CHECK(report.naming == client.naming);
    CHECK(golden_error(client, vit) < kGoldenTolerance);
    if (client.naming != "dino") continue;
    // Theirs are given before the last norm.
    const io::TensorMap expected = golden(client.expected + ".safetensors"), state = io::tensors_of(*vit);
    for (const std::string& size : client.sizes) {
      const Tensor tokens = expected.at(size + "tokens");
      const Tensor normed =
          at::layer_norm(tokens, {tokens.size(2)}, state.at("norm.weight"), state.at("norm.bias"), 1e-5);
      CHECK(relative_error(vit->tokens(expected.at(size + "input")), normed) < kGoldenTolerance);
    }
  }
}

TEST_CASE("biases of queries, keys and values that a file leaves out are 0", "[backbone][dinov3]") {
  for (const size_t index : {size_t{2}, size_t{5}, size_t{6}}) {
    Dinov3File client = dinov3_files()[index];
    INFO(client.file);
    client.options.qkv_bias(true);
    VisionTransformer vit(client.options);
    for (Tensor& parameter : vit->parameters()) parameter.fill_(7);
    CHECK(io::load(*vit, data_path(client.file)).complete());
    CHECK(io::tensors_of(*vit).at("blocks.1.attn.qkv.bias").eq(0).all().item<bool>());
    CHECK(golden_error(client, vit) < kGoldenTolerance);
  }
  // All of them or none.
  io::TensorMap tensors = io::with_our_names(golden("dinov3_vit_p16.pth"), "FILE");
  tensors.erase("blocks.1.attn.qkv.bias");
  VisionTransformer vit(dinov3());
  CHECK_ERROR(io::load_tensors(*vit, tensors), "1 missing (blocks.1.attn.qkv.bias)");
}

TEST_CASE("masked biases are 0, whatever stands there", "[backbone][dinov3]") {
  const std::string bias = "blocks.0.attn.qkv.bias";
  io::TensorMap tensors = golden("dinov3_vit_p16.pth");
  CHECK(tensors.at(bias).isnan().sum().item<int64_t>() == 48);
  const io::TensorMap ours = io::with_our_names(tensors, "FILE");
  CHECK(ours.count(bias + "_mask") == 0);
  CHECK(ours.at(bias).narrow(0, 48, 48).eq(0).all().item<bool>());
  CHECK(ours.at(bias).narrow(0, 0, 48).equal(tensors.at(bias).narrow(0, 0, 48)));
  CHECK(ours.at(bias).narrow(0, 96, 48).equal(tensors.at(bias).narrow(0, 96, 48)));

  tensors[bias + "_mask"] = torch::ones({7});
  VisionTransformer vit(dinov3());
  CHECK_ERROR(io::load_tensors(*vit, tensors), "1 unexpected (blocks.0.attn.qkv.bias_mask)");
}

TEST_CASE("rotating neighbouring channels instead of halves gives other features", "[backbone][dinov3]") {
  // With the channels of queries and keys in this order, turning halves is turning neighbours of the original.
  const Dinov3File& client = dinov3_files()[0];
  VisionTransformer vit(client.options);
  io::load(*vit, data_path(client.file));
  const int64_t d = 16;
  std::vector<int64_t> order;
  for (int64_t c = 0; c < 3 * 48; ++c) {
    const int64_t within = c % d, neighbour = within < d / 2 ? 2 * within : 2 * within - d + 1;
    order.push_back(c < 2 * 48 ? c - within + neighbour : c);
  }
  const Tensor index = torch::tensor(order, torch::kInt64);
  for (const auto& parameter : vit->named_parameters()) {
    if (parameter.key().find(".attn.qkv.") == std::string::npos) continue;
    parameter.value().copy_(parameter.value().index_select(0, index));
  }
  CHECK(golden_error(client, vit) > 1e-2);
}

TEST_CASE("a transformer with rotary positions is a backbone like any other", "[backbone][dinov3]") {
  VisionTransformer vit(dinov3());
  io::load(*vit, data_path("dinov3_vit_p16.pth"));
  torch::manual_seed(3);
  const Tensor images = torch::randn({3, 3, 48, 80});
  const Tensor features = vit->features(images);
  CHECK(features.sizes() == torch::IntArrayRef({3, 48, 3, 5}));
  CHECK(torch::allclose(vit->features(images.narrow(0, 1, 1))[0], features[1], 1e-5, 1e-5));

  SECTION("keys and attention") {
    const Tensor attention = vit->attention(images);
    CHECK(attention.sizes() == torch::IntArrayRef({3, 3, 15}));
    CHECK((attention.sum(2) < 1).all().item<bool>());
    VisionTransformer keys(dinov3().features(FeatureKind::kKeys));
    io::load(*keys, data_path("dinov3_vit_p16.pth"));
    CHECK(keys->features(images).sizes() == features.sizes());
    VisionTransformer unbiased(dinov3_nobias().features(FeatureKind::kKeys));
    CHECK(unbiased->features(images).sizes() == torch::IntArrayRef({3, 64, 3, 5}));
  }
  SECTION("clones, also with rounded positions, and files of our own") {
    const Dinov3File& client = dinov3_files()[2];
    VisionTransformer rounding(client.options);
    io::load(*rounding, data_path(client.file));
    const auto copy = std::dynamic_pointer_cast<VisionTransformerImpl>(rounding->clone());
    REQUIRE(copy);
    CHECK(copy->features(images).equal(rounding->features(images)));
    const TempDir folder;
    const std::string path = (folder.path / "vit.safetensors").string();
    io::write_safetensors(path, io::tensors_of(*rounding));
    VisionTransformer other(client.options);
    CHECK(io::load(*other, path).complete());
    CHECK(other->features(images).equal(rounding->features(images)));
  }
  SECTION("float64 and bfloat16") {
    vit->to(torch::kFloat64);
    const Tensor wide = vit->features(images.to(torch::kFloat64));
    CHECK(relative_error(features, wide) < 1e-5);
    vit->to(torch::kBFloat16);
    const Tensor narrow = vit->features(images);
    CHECK(narrow.scalar_type() == torch::kBFloat16);
    CHECK(relative_error(narrow, wide) < 0.1);
    CHECK(io::tensors_of(*vit).at("rope_embed.periods").scalar_type() == torch::kFloat32);
  }
  SECTION("gradients") {
    for (Tensor& parameter : vit->parameters()) parameter.set_requires_grad(true);
    const Tensor trained = vit->features(images);
    CHECK(relative_error(trained, features) < 1e-5);
    trained.square().sum().backward();
    for (const auto& parameter : vit->named_parameters()) {
      INFO(parameter.key());
      REQUIRE(parameter.value().grad().defined());
      CHECK(parameter.value().grad().abs().sum().item<double>() > 0);
    }
  }
  SECTION("what is wrong is said") {
    CHECK_ERROR(vit->features(images.narrow(3, 0, 70)), "multiples of the patch size 16, got 48 x 70");
    CHECK_ERROR(VisionTransformer(dinov3(48, 1, 8)),
                "expected heads of a multiple of 4 channels for rotary positions, got embed_dim 48 and heads 8");
    CHECK_ERROR(VisionTransformer(dinov3().rotary_base(0)), "expected a positive rotary_base, got 0");
    CHECK_ERROR(VisionTransformer(dinov3().mlp_hidden(-1)), "expected mlp_hidden of at least 0, got -1");
    CHECK_ERROR(VisionTransformer(dinov3().norm_eps(0)), "expected a positive norm_eps, got 0");
    std::ostringstream printed;
    vit->pretty_print(printed);
    CHECK(printed.str() ==
          "smooseg::backbone::VisionTransformer(patch_size=16, embed_dim=48, depth=3, heads=3, positions=rotary, "
          "features=tokens)");
  }
}

TEST_CASE("DINOv3's presets have the published sizes", "[backbone][dinov3]") {
  // A block of ViT-S: norms 1536, qkv 443,520, proj 147,840, scales 768, MLP 591,360 + 590,208. Patches 295,296, class
  // token 384, registers 1536, norm 768.
  CHECK(parameter_count(*VisionTransformer(Options::dinov3_vits16())) == 12 * 1'775'232 + 297'984);
  // A SwiGLU: w12 384 x 3072 + 3072, w3 1536 x 384 + 384.
  CHECK(parameter_count(*VisionTransformer(Options::dinov3_vits16plus())) == 12 * 2'366'592 + 297'984);
  CHECK(parameter_count(*VisionTransformer(Options::dinov3_vitb16().depth(1))) == 7'089'408 + 595'968);
  CHECK(parameter_count(*VisionTransformer(Options::dinov3_vitl16().depth(1))) == 12'598'272 + 794'624);
  CHECK(parameter_count(*VisionTransformer(Options::dinov3_vith16plus().depth(1))) == 26'238'720 + 993'280);
  CHECK(Options::dinov3_vitl16plus().swiglu());
  CHECK(Options::dinov3_vitl16plus().mlp_hidden() == 4096);
  const Options largest = Options::dinov3_vit7b16();
  CHECK(std::array<int64_t, 4>{largest.embed_dim(), largest.depth(), largest.heads(), largest.mlp_hidden()} ==
        std::array<int64_t, 4>{4096, 40, 32, 8192});
  CHECK_FALSE(largest.qkv_bias());
  CHECK(largest.swiglu());
  CHECK(largest.norm_eps() == 1e-5);
  CHECK(largest.mean() == kImageNetMean);
  for (const Options& satellite : {Options::dinov3_vitl16(true), Options::dinov3_vit7b16(true)}) {
    CHECK(satellite.mean() == smooseg::backbone::Rgb{0.430, 0.411, 0.296});
    CHECK(satellite.std() == smooseg::backbone::Rgb{0.213, 0.156, 0.143});
  }
  VisionTransformer vit(dinov3().mean({0.1, 0.2, 0.3}).std({0.4, 0.5, 0.6}));
  CHECK(vit->mean() == smooseg::backbone::Rgb{0.1, 0.2, 0.3});
  CHECK(vit->std() == smooseg::backbone::Rgb{0.4, 0.5, 0.6});
  CHECK(VisionTransformer(dinov3())->std() == kImageNetStd);

  // Tiny: 28,589,128 less the classifier's 769,000; small: 50,223,688 less as many.
  CHECK(parameter_count(*ConvNeXt(ConvNeXtOptions::dinov3_convnext_tiny())) == 27'820'128);
  CHECK(parameter_count(*ConvNeXt(ConvNeXtOptions::dinov3_convnext_small())) == 49'454'688);
  CHECK(ConvNeXtOptions::dinov3_convnext_base().dims() == std::vector<int64_t>{128, 256, 512, 1024});
  CHECK(ConvNeXtOptions::dinov3_convnext_large().dims() == std::vector<int64_t>{192, 384, 768, 1536});
  CHECK(ConvNeXtOptions::dinov3_convnext_large().depths() == std::vector<int64_t>{3, 3, 27, 3});
}

TEST_CASE("names: DINOv3's there and back, in each naming", "[io][names][dinov3]") {
  for (const Dinov3File& client : dinov3_files()) {
    const io::TensorMap file = io::read_tensors(data_path(client.file)), ours = io::with_our_names(file, client.file);
    for (const std::string naming : {"dino", "timm", "huggingface"}) {
      INFO(client.file << " as " << naming);
      const io::TensorMap theirs = io::with_names(ours, naming);
      CHECK(theirs.count(naming == "huggingface" ? "layer.1.attention.k_proj.weight" : "blocks.1.attn.qkv.weight") ==
            1);
      // timm and Hugging Face have no periods, and so none in bfloat16.
      const bool rounds = client.file == "dinov3_vit_p16_nobias.pth";
      const double tolerance = rounds && naming != "dino" ? 5e-3 : kGoldenTolerance;
      CHECK(golden_error(client, theirs) < tolerance);
      io::TensorMap prefixed;
      for (const auto& [name, tensor] : theirs) prefixed["teacher.backbone." + name] = tensor;
      CHECK(golden_error(client, prefixed) < tolerance);
      CHECK(golden_error(client, io::with_our_names(theirs, naming)) < tolerance);
    }
    // Name for name and bit for bit what the program wrote, but for what is never read and what masks hide.
    io::TensorMap original = file, written = io::with_names(ours, client.naming);
    for (const char* unused : {"mask_token", "embeddings.mask_token", "local_cls_norm.weight", "local_cls_norm.bias"}) {
      original.erase(unused);
    }
    for (auto& [name, tensor] : original) {
      const auto mask = original.find(name + "_mask");
      if (mask != original.end()) tensor = torch::where(mask->second == 0, torch::zeros_like(tensor), tensor);
    }
    INFO(client.file);
    check_same(written, original);
  }
}

TEST_CASE("names: what another program's DINOv3 cannot hold is told", "[io][names][dinov3]") {
  io::TensorMap ours = io::with_our_names(golden("dinov3_vit_p16.pth"), "FILE");
  ours["blocks.1.attn.qkv.bias"] = torch::ones({3 * 48});
  for (const std::string naming : {"timm", "huggingface"}) {
    CHECK_ERROR(io::with_names(ours, naming), "'blocks.1.attn.qkv.bias' has no name in the naming '" + naming + "'");
  }
  CHECK(io::with_names(ours, "dino").count("blocks.1.attn.qkv.bias_mask") == 0);
  CHECK(io::with_names(ours, "dino").count("blocks.0.attn.qkv.bias_mask") == 1);

  for (const Dinov3File& client : dinov3_files()) {
    INFO(client.file);
    VisionTransformer vit(client.options);
    io::TensorMap tensors = golden(client.file);
    tensors["extra"] = torch::ones({1});
    CHECK_ERROR(io::load_tensors(*vit, tensors), "1 unexpected (extra)");
    tensors.erase("extra");
    const std::string gate = client.naming == "dino"   ? "blocks.1.mlp.w1.weight"
                             : client.naming == "timm" ? "blocks.1.mlp.fc1_g.weight"
                                                       : "layer.1.mlp.gate_proj.weight";
    if (tensors.erase(gate) == 0) continue;
    CHECK_ERROR(io::load_tensors(*vit, tensors), "missing (blocks.1.mlp.w12.weight");
  }
  // A DINOv2 with SwiGLU, as Franca is, from a file of its training.
  io::TensorMap franca;
  for (const auto& [name, tensor] : golden("dinov2_vit_p14_swiglu.pth")) {
    const std::string block = "blocks.";
    franca["teacher.backbone." + (name.rfind(block, 0) == 0 ? "blocks.0." + name.substr(block.size()) : name)] = tensor;
  }
  franca["teacher.dino_head.last_layer.weight"] = torch::ones({2});
  franca["teacher.backbone.rasa_head.pos_pred.weight"] = torch::ones({2});
  VisionTransformer vit(dinov2().depth(2).swiglu(true));
  CHECK(io::load_tensors(*vit, franca).prefix == "teacher.backbone.");
  const io::TensorMap expected = golden("dinov2_vit_p14_swiglu.safetensors");
  CHECK(relative_error(vit->features(expected.at("70x70.input")), expected.at("70x70.features")) < kGoldenTolerance);
}

TEST_CASE("a file of 27 GB is mapped, and nothing of it is copied to be looked through", "[io][dinov3]") {
  // ViT-7B's file in the published layout, of zeros that take no disk: a small transformer's with larger shapes.
  const std::map<int64_t, int64_t> larger{{8, 4096}, {24, 12288}, {20, 8192}, {40, 16384}};
  const auto enlarged = [&](const Tensor& t) {
    std::vector<int64_t> shape;
    for (const int64_t size : t.sizes()) shape.push_back(larger.count(size) > 0 ? larger.at(size) : size);
    return torch::zeros({}, t.options()).expand(shape);  // one element in memory
  };
  VisionTransformer small(dinov3(8, 40, 2).mlp_hidden(20).swiglu(true).qkv_bias(false));
  io::TensorMap state;
  for (const auto& [name, tensor] : io::tensors_of(*small)) state[name] = enlarged(tensor);
  std::string header;
  int64_t size = 0;
  for (const auto& [name, tensor] : io::with_names(io::tensors_of(*small), "dino")) {
    const Tensor large = enlarged(tensor);
    header += (header.empty() ? "" : ",") + io::detail::safetensors_entry_json(large, name, size);
    size += 4 * large.numel();
  }
  CHECK(size > int64_t{26'800'000'000});
  header = "{" + header + "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // so that all is aligned
  const TempDir folder;
  const std::string path = write_content(folder.path / "7b.safetensors", safetensors_content(header, 0));
  std::error_code error;
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + static_cast<uintmax_t>(size), error);
  if (error) {
    WARN("not tested: no sparse file of 27 GB can be made here: " << error.message());
    return;
  }
  const auto resident_bytes = [] {
    std::ifstream file("/proc/self/statm");
    int64_t all = 0, resident = 0;
    file >> all >> resident;
    return resident * ::sysconf(_SC_PAGESIZE);
  };
  const int64_t before = resident_bytes();
  const io::TensorMap tensors = io::read_tensors(path);
  const auto wanted = [&](const std::string& name) { return state.count(name) > 0; };
  const io::detail::NamesFound found = io::detail::find_names(tensors, io::detail::namings(), wanted, "", path);
  REQUIRE(found.naming != nullptr);
  io::detail::TensorParts parts;
  const io::TensorMap ours = io::detail::to_ours(tensors, *found.naming, found.prefix, wanted, &parts);
  CHECK(io::detail::compare(state, ours, io::LoadOptions()).message() == "528 tensors fit");
  CHECK(parts.size() == 80);
  CHECK(parts.at("blocks.39.mlp.w12.weight")[1].data_ptr() == tensors.at("blocks.39.mlp.w2.weight").data_ptr());
  CHECK(resident_bytes() - before < int64_t{100'000'000});
  std::filesystem::remove(path);
}

TEST_CASE("ConvNeXt gives what DINOv3's gives, whoever wrote its file", "[backbone][dinov3]") {
  ConvNeXt net = small_convnext();
  const auto check = [&](const std::string& expected_file, const std::vector<std::string>& sizes) {
    const io::TensorMap expected = golden(expected_file);
    for (const std::string& size : sizes) {
      INFO(expected_file << " " << size);
      const Tensor features = net->features(expected.at(size + "input"));
      CHECK(features.is_contiguous());
      CHECK_FALSE(features.requires_grad());
      CHECK(relative_error(features, expected.at(size + "features")) < kGoldenTolerance);
    }
  };
  io::LoadReport report = io::load(*net, data_path("dinov3_convnext.pth"));
  CHECK(report.naming == "dino");
  CHECK(report.loaded.size() == net->parameters().size());
  check("dinov3_convnext.safetensors", {"64x64.", "96x160."});
  const io::TensorMap published = golden("dinov3_convnext.pth"), ours = io::with_our_names(published, "FILE");
  check_same(ours, io::tensors_of(*net));
  check_same(io::with_names(ours, "dino"), published);

  CHECK(io::load(*net, data_path("hf_dinov3_convnext.safetensors")).naming == "huggingface");
  check("hf_dinov3_convnext_expected.safetensors", {""});
  check_same(io::with_names(io::tensors_of(*net), "huggingface"), golden("hf_dinov3_convnext.safetensors"));

  io::TensorMap timm = io::with_names(ours, "timm");
  CHECK(timm.count("stem.0.weight") == 1);
  CHECK(timm.count("stages.2.blocks.1.mlp.fc2.bias") == 1);
  CHECK(timm.count("stages.3.downsample.1.weight") == 1);
  timm["head.fc.weight"] = torch::ones({1});
  CHECK(io::load_tensors(*net, timm).naming == "timm");
  check("dinov3_convnext.safetensors", {"96x160."});
  timm.erase("stages.1.blocks.0.gamma");
  CHECK_ERROR(io::load_tensors(*net, timm), "1 missing (stages.1.0.gamma)");
}

TEST_CASE("ConvNeXt clones, learns when asked to, and says what is wrong", "[backbone][dinov3]") {
  ConvNeXt net = small_convnext();
  io::load(*net, data_path("dinov3_convnext.pth"));
  const Tensor images = torch::linspace(-1, 1, 2 * 3 * 64 * 32).reshape({2, 3, 64, 32});
  const Tensor features = net->features(images);
  CHECK(features.sizes() == torch::IntArrayRef({2, 64, 2, 1}));
  const auto copy = std::dynamic_pointer_cast<ConvNeXtImpl>(net->clone());
  REQUIRE(copy);
  for (const Tensor& parameter : net->parameters()) parameter.data().zero_();
  CHECK(copy->features(images).equal(features));
  for (Tensor& parameter : copy->parameters()) parameter.set_requires_grad(true);
  const Tensor trained = copy->features(images);
  CHECK(relative_error(trained, features) < 1e-5);
  trained.square().sum().backward();
  for (const auto& item : copy->named_parameters()) {
    INFO(item.key());
    CHECK(item.value().grad().defined());
  }
  copy->to(torch::kFloat64);
  CHECK(relative_error(features, copy->features(images.to(torch::kFloat64))) < 1e-5);
  std::ostringstream printed;
  copy->pretty_print(printed);
  CHECK(printed.str() == "smooseg::backbone::ConvNeXt(depths=[1, 1, 2, 1], dims=[16, 32, 48, 64])");
  CHECK(copy->patch_size() == 32);
  CHECK(copy->channels() == 64);
  ConvNeXt other(ConvNeXtOptions({1, 1, 1, 1}, {4, 4, 4, 4}).mean({0.1, 0.2, 0.3}));
  CHECK(other->mean() == smooseg::backbone::Rgb{0.1, 0.2, 0.3});

  CHECK_ERROR(net->features(torch::zeros({1, 3, 32, 40})),
              "ConvNeXt::features: expected a height and width that are multiples of the patch size 32, got 32 x 40");
  CHECK_ERROR(ConvNeXt(ConvNeXtOptions({1, 1, 1}, {4, 4, 4, 4})), "ConvNeXt: expected depths of 4 stages, got 3");
  CHECK_ERROR(ConvNeXt(ConvNeXtOptions({1, 1, 1, 1}, {4, 4, 0, 4})), "expected positive dims, got [4, 4, 0, 4]");
}
