// DINO's and DINOv2's vision transformers against the published programs' outputs.

#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <cmath>
#include <sstream>
#include <vector>

#include "golden_transformers.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/detail/autograd/linear.hpp"
#include "smooseg/detail/kernels/attention.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support.hpp"

using smooseg::Tensor;
using namespace smooseg::backbone;
namespace io = smooseg::io;

namespace {

using Options = VisionTransformerOptions;

/// A transformer with the weights of tests/data/NAME.pth.
VisionTransformer loaded(const std::string& name, const Options& options) {
  VisionTransformer vit(options);
  io::load(*vit, data_path(name + ".pth"));
  return vit;
}

Tensor images_of(int64_t height, int64_t width) {
  return torch::linspace(-1, 1, 6 * height * width).reshape({2, 3, height, width});
}

std::string printed(const VisionTransformerImpl& vit) {
  std::ostringstream stream;
  vit.pretty_print(stream);
  return stream.str();
}

/// The number of parameters; every block has as many, so two shallow transformers tell it without making a deep one.
int64_t count_parameters(Options options) {
  const int64_t depth = options.depth();
  const auto count = [&](int64_t blocks) {
    int64_t sum = 0;
    for (const Tensor& parameter : VisionTransformer(options.depth(blocks))->parameters()) sum += parameter.numel();
    return sum;
  };
  const int64_t one = count(1), two = count(2);
  return one + (depth - 1) * (two - one);
}

}  // namespace

TEST_CASE("VisionTransformer gives what DINO's gives", "[backbone]") {
  const auto check = [](const std::string& name, Options options, const std::vector<std::string>& sizes) {
    const io::TensorMap expected = golden(name + ".safetensors");
    VisionTransformer vit = loaded(name, options), keys = loaded(name, options.features(FeatureKind::kKeys));
    for (const std::string& size : sizes) {
      INFO(name << " " << size);
      const Tensor images = expected.at(size + ".input");
      CHECK(relative_error(vit->features(images), expected.at(size + ".features")) < kGoldenTolerance);
      CHECK(relative_error(vit->tokens(images), expected.at(size + ".tokens")) < kGoldenTolerance);
      CHECK(relative_error(keys->features(images), expected.at(size + ".keys")) < kGoldenTolerance);
      CHECK(relative_error(vit->attention(images), expected.at(size + ".cls_attention")) < kGoldenTolerance);
    }
  };
  check("dino_vit_p8", dino_p8(), {"64x64", "96x80", "40x120"});
  check("dino_vit_p16", dino_p16(), {"96x96", "128x64"});
}

TEST_CASE("VisionTransformer gives what DINOv2's gives", "[backbone]") {
  const auto check = [](const std::string& name, const Options& options, const std::vector<std::string>& sizes) {
    const io::TensorMap expected = golden(name + ".safetensors");
    VisionTransformer vit = loaded(name, options);
    for (const std::string& size : sizes) {
      INFO(name << " " << size);
      const Tensor features = vit->features(expected.at(size + ".input"));
      CHECK(relative_error(features, expected.at(size + ".features")) < kGoldenTolerance);
    }
  };
  check("dinov2_vit_p14", dinov2(), {"70x70", "98x56"});
  check("dinov2_vit_p14_reg4", dinov2_registers(), {"70x70", "98x56"});
  check("dinov2_vit_p14_swiglu", dinov2().depth(2).swiglu(true), {"70x70"});
}

TEST_CASE("attention is the textbook's, in any dtype, with and without gradients", "[backbone]") {
  const auto textbook = [](const Tensor& qkv, int64_t heads) {
    const Tensor parts = qkv.reshape({qkv.size(0), qkv.size(1), 3, heads, -1}).permute({2, 0, 3, 1, 4});
    const double scale = 1 / std::sqrt(static_cast<double>(parts.size(4)));
    const Tensor weights = (torch::matmul(parts[0], parts[1].transpose(2, 3)) * scale).softmax(-1);
    return torch::matmul(weights, parts[2]).transpose(1, 2).flatten(2);
  };
  if (!smooseg::detail::machine_has_bfloat16()) {
    WARN("not tested: bfloat16 products, which this machine lacks; it computes bfloat16 in float32");
  }
  torch::manual_seed(0);
  // Tokens of less than one vector, one block, several blocks and several tasks; heads of less than a vector and of
  // several.
  for (const auto& [batch, tokens, heads, size] : std::vector<std::array<int64_t, 4>>{
           {1, 1, 1, 1}, {2, 3, 2, 5}, {1, 17, 3, 16}, {2, 65, 2, 24}, {1, 130, 1, 64}, {1, 1100, 1, 72}}) {
    INFO(batch << " x " << tokens << " tokens, " << heads << " heads of " << size);
    const Tensor qkv = torch::randn({batch, tokens, 3 * heads * size}, torch::kFloat64) * 2;
    const Tensor expected = textbook(qkv, heads);
    CHECK(relative_error(smooseg::detail::attention(qkv, heads), expected) < 1e-13);
    CHECK(relative_error(smooseg::detail::attention(qkv.to(torch::kFloat32), heads), expected) < 1e-5);
    for (const torch::ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
      const Tensor narrow = smooseg::detail::attention(qkv.to(dtype), heads);
      CHECK(narrow.scalar_type() == dtype);
      CHECK(relative_error(narrow, textbook(qkv.to(dtype).to(torch::kFloat64), heads)) < 0.01);
    }
    const Tensor strided = qkv.transpose(0, 1).contiguous().transpose(0, 1);
    CHECK(relative_error(smooseg::detail::attention(strided, heads), expected) < 1e-13);

    Tensor ours = qkv.clone().requires_grad_(), theirs = qkv.clone().requires_grad_();
    const Tensor recorded = smooseg::detail::attention(ours, heads);
    CHECK(relative_error(recorded, expected) < 1e-12);
    recorded.square().sum().backward();
    textbook(theirs, heads).square().sum().backward();
    CHECK(relative_error(ours.grad(), theirs.grad()) < 1e-12);
  }
  // Scores far from 0 neither overflow nor vanish.
  const Tensor large = torch::randn({1, 40, 3 * 32}) * 100;
  CHECK(relative_error(smooseg::detail::attention(large, 2), textbook(large.to(torch::kFloat64), 2)) < 1e-4);
}

TEST_CASE("attention is the same on every instruction set", "[backbone]") {
  using smooseg::detail::Rows;
  constexpr int64_t kTokens = 75, kSize = 24;
  const Tensor q = torch::randn({kTokens, kSize}), k = torch::randn({kTokens, kSize}),
               v = torch::randn({kTokens, kSize});
  const Tensor expected =
      torch::mm((torch::mm(q.to(torch::kFloat64), k.t().to(torch::kFloat64)) / std::sqrt(double{kSize})).softmax(1),
                v.to(torch::kFloat64));
  for (const smooseg::detail::Isa isa :
       {smooseg::detail::Isa::kBaseline, smooseg::detail::Isa::kAvx2, smooseg::detail::Isa::kAvx512}) {
    if (isa > smooseg::detail::machine_isa()) {
      WARN("skipped: this machine lacks instruction set " << static_cast<int>(isa));
      continue;
    }
    INFO("instruction set " << static_cast<int>(isa));
    Tensor out = torch::empty_like(q);
    std::vector<float> workspace(
        static_cast<std::size_t>(smooseg::detail::AttentionKernel::scratch_size(kTokens, kSize)));
    const auto rows = [](const Tensor& t) { return Rows<const float>{t.data_ptr<float>(), kSize}; };
    smooseg::detail::run_kernel<smooseg::detail::AttentionKernel>(isa, kTokens, kTokens, kSize, rows(q), rows(k),
                                                                  rows(v), Rows<float>{out.data_ptr<float>(), kSize},
                                                                  workspace.data());
    CHECK(relative_error(out, expected) < 1e-6);
  }
}

TEST_CASE("linear is LibTorch's, with gradients and under autocast", "[backbone]") {
  torch::manual_seed(0);
  const Tensor weight = torch::randn({7, 5}), bias = torch::randn(7);
  for (const Tensor& x : {torch::randn({2, 3, 5}), torch::randn({1, 5}), torch::randn({4, 5, 2}).transpose(1, 2),
                          torch::randn({0, 5}), torch::randn({2, 3, 5}, torch::kFloat64)}) {
    INFO(smooseg::detail::shape_of(x));
    const auto as_x = [&](const Tensor& t) { return t.to(x.scalar_type()).detach().clone().requires_grad_(); };
    const auto both = [&](const auto& layer) {
      Tensor a = as_x(x), w = as_x(weight), b = as_x(bias);
      const Tensor y = layer(a, w, b);
      y.square().sum().backward();
      return std::vector<Tensor>{y, a.grad(), w.grad(), b.grad()};
    };
    const auto ours = both([](const auto&... t) { return smooseg::detail::linear(t...); });
    const auto theirs = both([](const auto&... t) { return at::linear(t...); });
    for (std::size_t i = 0; i < ours.size(); ++i) {
      CHECK(ours[i].sizes() == theirs[i].sizes());
      CHECK(torch::allclose(ours[i], theirs[i], 1e-5, 1e-5));
    }
  }
  const AutocastOnCpu autocast(true);
  CHECK(smooseg::detail::linear(torch::ones({2, 5}), weight, bias).scalar_type() == torch::kBFloat16);
}

TEST_CASE("VisionTransformer's features of a picture do not depend on the others of its batch", "[backbone]") {
  VisionTransformer vit(VisionTransformerOptions(8, 48, 2, 3).image_size(128));
  const Tensor images = torch::randn({20, 3, 128, 128});  // more tokens than are computed at a time
  const Tensor features = vit->features(images);
  CHECK(features.sizes() == torch::IntArrayRef({20, 48, 16, 16}));
  for (const int64_t i : {0, 7, 19}) {
    CHECK(torch::allclose(features[i], vit->features(images.narrow(0, i, 1))[0], 1e-5, 1e-5));
    CHECK(torch::allclose(vit->tokens(images)[i], vit->tokens(images.narrow(0, i, 1))[0], 1e-5, 1e-5));
    CHECK(torch::allclose(vit->attention(images)[i], vit->attention(images.narrow(0, i, 1))[0], 1e-5, 1e-6));
  }
}

TEST_CASE("VisionTransformer computes in the dtype of its weights", "[backbone]") {
  const io::TensorMap expected = golden("dino_vit_p8.safetensors");
  const Tensor images = expected.at("96x80.input");
  VisionTransformer vit = loaded("dino_vit_p8", dino_p8());

  vit->to(torch::kFloat64);
  const Tensor wide = vit->features(images.to(torch::kFloat64));
  CHECK(wide.scalar_type() == torch::kFloat64);
  CHECK(relative_error(wide, expected.at("96x80.features")) < kGoldenTolerance);
  CHECK(torch::equal(vit->features(images), wide));

  vit->to(torch::kBFloat16);
  const Tensor narrow = vit->features(images);
  CHECK(narrow.scalar_type() == torch::kBFloat16);
  CHECK(relative_error(narrow, wide) < 0.1);
}

TEST_CASE("VisionTransformer's features require gradients only where its weights do", "[backbone]") {
  const Tensor images = images_of(32, 48);
  VisionTransformer vit = loaded("dino_vit_p8", dino_p8());
  const Tensor frozen = vit->features(images);
  CHECK_FALSE(frozen.requires_grad());

  for (Tensor& parameter : vit->parameters()) parameter.set_requires_grad(true);
  const Tensor trained = vit->features(images);
  CHECK(relative_error(trained, frozen) < 1e-6);
  trained.square().sum().backward();
  for (const auto& parameter : vit->named_parameters()) {
    INFO(parameter.key());
    REQUIRE(parameter.value().grad().defined());
    CHECK(parameter.value().grad().abs().sum().item<double>() > 0);
  }
}

TEST_CASE("blocked attention equals the textbook's", "[backbone]") {
  torch::manual_seed(1);
  const auto random = [] { return torch::randn({2, 7, 3, 4}, torch::kFloat64).transpose(1, 2).requires_grad_(); };
  const Tensor q = random(), k = random(), v = random();
  const Tensor expected = torch::matmul(torch::softmax(torch::matmul(q, k.transpose(2, 3)) / 2, -1), v);
  const Tensor weights = torch::randn_like(expected);
  const auto gradients = [&](const Tensor& y) { return torch::autograd::grad({(y * weights).sum()}, {q, k, v}); };
  const auto expected_gradients = gradients(expected);

  // One query at a time; blocks of 2 with a rest of 1; everything at once.
  for (const int64_t max_scores : {1, 2 * 3 * 7, 1000}) {
    INFO("at most " << max_scores << " scores at a time");
    const Tensor y = smooseg::detail::blocked_attention(q, k, v, max_scores);
    CHECK(relative_error(y, expected) < 1e-14);
    const auto got = gradients(y);
    for (size_t i = 0; i < got.size(); ++i) CHECK(relative_error(got[i], expected_gradients[i]) < 1e-13);
  }
}

TEST_CASE("VisionTransformer clones, saves and loads", "[backbone]") {
  const Tensor images = images_of(40, 64);
  VisionTransformer vit = loaded("dino_vit_p8", dino_p8());
  const Tensor expected = vit->features(images);

  SECTION("a clone shares nothing") {
    const auto copy = std::dynamic_pointer_cast<VisionTransformerImpl>(vit->clone());
    REQUIRE(copy);
    for (const Tensor& parameter : vit->parameters()) parameter.zero_();
    CHECK(torch::equal(copy->features(images), expected));
    CHECK_FALSE(copy->parameters()[0].requires_grad());
    CHECK(printed(*copy) == printed(*vit));
  }
  SECTION("as a part of a module that is cloned") {
    struct OwnerImpl : torch::nn::Cloneable<OwnerImpl> {
      OwnerImpl() { reset(); }
      void reset() override { vit = register_module("vit", VisionTransformer(dino_p8())); }
      VisionTransformer vit{nullptr};
    } owner;
    owner.vit->parameters()[0].fill_(0.5);
    const auto copy = std::dynamic_pointer_cast<OwnerImpl>(owner.clone());
    owner.vit->parameters()[0].zero_();
    const Tensor copied = copy->named_parameters()["vit.cls_token"];
    CHECK(torch::equal(copied, torch::full_like(copied, 0.5)));
  }
  SECTION("a file restores it") {
    const TempDir folder;
    const std::string path = (folder.path / "vit.safetensors").string();
    io::TensorMap state;
    for (const auto& parameter : vit->named_parameters()) state[parameter.key()] = parameter.value();
    io::write_safetensors(path, state);
    VisionTransformer other(dino_p8());
    io::load(*other, path);
    CHECK(torch::equal(other->features(images), expected));
    VisionTransformer deeper(dino_p8().depth(4));
    CHECK_ERROR(io::load(*deeper, path), "blocks.3.");
  }
  SECTION("training mode changes nothing") {
    vit->train();
    CHECK(torch::equal(vit->features(images), expected));
  }
}

TEST_CASE("VisionTransformer's presets have the published sizes", "[backbone]") {
  // ViT-S, a block: norms 2 x 768, qkv 384 x 1152 + 1152 = 443,520, proj 384 x 384 + 384 = 147,840, fc1 384 x 1536 +
  // 1536 = 591,360, fc2 1536 x 384 + 384 = 590,208: 1,774,464, and 21,293,568 in 12. With patches of 8: projection 192
  // x 384 + 384 = 74,112, class token 384, positions (28 x 28 + 1) x 384 = 301,440, final norm 768.
  CHECK(count_parameters(Options::dino_vits8()) == 21'293'568 + 74'112 + 384 + 301'440 + 768);
  CHECK(count_parameters(Options::dino_vits8()) == 21'670'272);
  CHECK(count_parameters(Options::dino_vits16()) == 21'665'664);
  CHECK(count_parameters(Options::dino_vitb8()) == 85'807'872);
  CHECK(count_parameters(Options::dino_vitb16()) == 85'798'656);
  // DINOv2's, less the mask token of the files (C numbers).
  CHECK(count_parameters(Options::dinov2_vits14()) == 22'056'576 - 384);
  CHECK(count_parameters(Options::dinov2_vits14(true)) == 22'056'576 - 384 + 4 * 384);
  CHECK(count_parameters(Options::dinov2_vitb14()) == 86'580'480 - 768);
  CHECK(count_parameters(Options::dinov2_vitl14()) == 304'368'640 - 1024);
  CHECK(count_parameters(Options::dinov2_vitg14()) == 1'136'480'768 - 1536);
  CHECK(Options::dinov2_vits14(true).interpolate_antialias());
  CHECK_FALSE(Options::dinov2_vits14().interpolate_antialias());
}

TEST_CASE("VisionTransformer says what is wrong with its input", "[backbone]") {
  VisionTransformer vit(dino_p8());
  CHECK(vit->patch_size() == 8);
  CHECK(vit->channels() == 48);
  CHECK(vit->features(images_of(8, 16)).sizes() == torch::IntArrayRef({2, 48, 1, 2}));
  CHECK_ERROR(
      vit->features(images_of(32, 20)),
      "VisionTransformer::features: expected a height and width that are multiples of the patch size 8, got 32 x 20");
  CHECK_ERROR(vit->tokens(torch::zeros({3, 32, 32})), "VisionTransformer::tokens: expected images of shape (B,3,H,W)");
  CHECK_ERROR(vit->attention(torch::zeros({1, 4, 32, 32})), "got (1, 4, 32, 32)");
  CHECK_ERROR(vit->features(torch::zeros({0, 3, 32, 32})), "got (0, 3, 32, 32)");
  CHECK_ERROR(vit->features(torch::zeros({1, 3, 32, 32}, torch::kUInt8)), "expected images of a floating dtype");
  CHECK_ERROR(vit->features(Tensor()), "images is undefined");

  CHECK_ERROR(VisionTransformer(Options(8, 50, 3, 3)),
              "VisionTransformer: expected an embed_dim that is a multiple of heads, got 50 and 3");
  CHECK_ERROR(VisionTransformer(dino_p8().image_size(65)),
              "expected an image_size that is a multiple of patch_size, got 65 and 8");
  CHECK_ERROR(VisionTransformer(dino_p8().depth(0)), "expected a positive depth, got 0");
  CHECK_ERROR(VisionTransformer(dino_p8().register_tokens(-1)), "expected register_tokens of at least 0, got -1");
}

TEST_CASE("VisionTransformer prints what it is", "[backbone]") {
  CHECK(printed(*VisionTransformer(dino_p8().features(FeatureKind::kKeys))) ==
        "smooseg::backbone::VisionTransformer(patch_size=8, embed_dim=48, depth=3, heads=3, image_size=64, "
        "features=keys)");
}
