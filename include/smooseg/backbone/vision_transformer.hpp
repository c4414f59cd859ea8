#pragma once

// The vision transformer (Dosovitskiy et al., 2021) as DINO (Caron et al., 2021), DINOv2 (Oquab et al., 2023; with
// registers Darcet et al., 2023) and DINOv3 (Siméoni et al., 2025) use it: a frozen extractor of patch features.
// Parameters have the names of DINO's and DINOv2's own state dicts.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/backbone/rotary_positions.hpp"
#include "smooseg/detail/autograd/linear.hpp"
#include "smooseg/detail/kernels/attention.hpp"
#include "smooseg/detail/kernels/rotation.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::backbone {

/// What a transformer's patch features are.
enum class FeatureKind {
  kTokens,  ///< the patch tokens after the final norm
  kKeys,    ///< the keys of the last block's attention, heads side by side
};

/// How a transformer knows where patches lie.
enum class PositionKind {
  kLearned,  ///< a vector for each place is added to its patch; interpolated for pictures of another size
  kRotary,   ///< queries and keys of patches are turned in every block, see `RotaryPositions`
};

/// Options for `VisionTransformer`.
struct VisionTransformerOptions {
  VisionTransformerOptions(int64_t patch_size, int64_t embed_dim, int64_t depth, int64_t heads)
      : patch_size_(patch_size), embed_dim_(embed_dim), depth_(depth), heads_(heads) {}

  /// DINO's models, by the names of its hub.
  static VisionTransformerOptions dino_vits8() { return {8, 384, 12, 6}; }
  static VisionTransformerOptions dino_vits16() { return {16, 384, 12, 6}; }
  static VisionTransformerOptions dino_vitb8() { return {8, 768, 12, 12}; }
  static VisionTransformerOptions dino_vitb16() { return {16, 768, 12, 12}; }

  /// DINOv2's models, by the names of its hub; `registers`: those called `_reg`.
  static VisionTransformerOptions dinov2_vits14(bool registers = false) { return dinov2(384, 12, 6, registers); }
  static VisionTransformerOptions dinov2_vitb14(bool registers = false) { return dinov2(768, 12, 12, registers); }
  static VisionTransformerOptions dinov2_vitl14(bool registers = false) { return dinov2(1024, 24, 16, registers); }
  static VisionTransformerOptions dinov2_vitg14(bool registers = false) {
    return dinov2(1536, 40, 24, registers).swiglu(true);
  }

  /// DINOv3's models, by the names of its hub; `satellite`: those trained on satellite pictures (SAT-493M).
  static VisionTransformerOptions dinov3_vits16() { return dinov3(384, 12, 6, 1536); }
  static VisionTransformerOptions dinov3_vits16plus() { return dinov3_vits16().swiglu(true); }
  static VisionTransformerOptions dinov3_vitb16() { return dinov3(768, 12, 12, 3072); }
  static VisionTransformerOptions dinov3_vitl16(bool satellite = false) {
    return dinov3(1024, 24, 16, 4096, satellite);
  }
  static VisionTransformerOptions dinov3_vitl16plus() { return dinov3_vitl16().swiglu(true); }
  static VisionTransformerOptions dinov3_vith16plus() { return dinov3(1280, 32, 20, 5120).swiglu(true); }
  static VisionTransformerOptions dinov3_vit7b16(bool satellite = false) {
    return dinov3(4096, 40, 32, 8192, satellite).swiglu(true).qkv_bias(false);
  }

  /// Side of a patch in pixels.
  TORCH_ARG(int64_t, patch_size);

  /// Channels C of a token, a multiple of `heads`.
  TORCH_ARG(int64_t, embed_dim);

  /// Number of blocks.
  TORCH_ARG(int64_t, depth);

  /// Number of attention heads.
  TORCH_ARG(int64_t, heads);

  /// How it knows where patches lie. Default: PositionKind::kLearned
  TORCH_ARG(PositionKind, positions) = PositionKind::kLearned;

  /// Of rotary positions: the base of which their periods are powers. Default: 100
  TORCH_ARG(double, rotary_base) = 100;

  /// Side in pixels of the square images that learned positions were made for, a multiple of `patch_size`.
  /// Default: 224
  TORCH_ARG(int64_t, image_size) = 224;

  /// Number of tokens, besides the class token, that belong to no patch. Default: 0
  TORCH_ARG(int64_t, register_tokens) = 0;

  /// Whether a learned factor per channel scales what each half of a block adds. Default: false
  TORCH_ARG(bool, layer_scale) = false;

  /// Whether the blocks' MLP is a SwiGLU (Shazeer, 2020) instead of a GELU one. Default: false
  TORCH_ARG(bool, swiglu) = false;

  /// Channels between the two layers of the blocks' MLP. Default: 0, which stands for 4 embed_dim, and in a SwiGLU for
  /// two thirds of that, rounded up to a multiple of 8, as in DINOv2.
  TORCH_ARG(int64_t, mlp_hidden) = 0;

  /// Whether queries, keys and values have a bias. Default: true
  TORCH_ARG(bool, qkv_bias) = true;

  /// Added to the variance in all layer norms. Default: 1e-6
  TORCH_ARG(double, norm_eps) = 1e-6;

  /// Added to the number of patches where the scale of the position grid is computed. Default: 0.1
  TORCH_ARG(double, interpolate_offset) = 0.1;

  /// Whether positions are interpolated with antialiasing. Default: false
  TORCH_ARG(bool, interpolate_antialias) = false;

  /// Which features `features()` gives. Default: FeatureKind::kTokens
  TORCH_ARG(FeatureKind, features) = FeatureKind::kTokens;

  /// Mean and standard deviation that images are normalised with. Default: ImageNet's
  TORCH_ARG(Rgb, mean) = kImageNetMean;
  TORCH_ARG(Rgb, std) = kImageNetStd;

 private:
  static VisionTransformerOptions dinov2(int64_t embed_dim, int64_t depth, int64_t heads, bool registers) {
    auto options = VisionTransformerOptions(14, embed_dim, depth, heads).image_size(518).layer_scale(true);
    if (registers) options.register_tokens(4).interpolate_offset(0.0).interpolate_antialias(true);
    return options;
  }
  static VisionTransformerOptions dinov3(int64_t embed_dim, int64_t depth, int64_t heads, int64_t mlp_hidden,
                                         bool satellite = false) {
    auto options = VisionTransformerOptions(16, embed_dim, depth, heads).positions(PositionKind::kRotary);
    options.mlp_hidden(mlp_hidden).register_tokens(4).layer_scale(true).norm_eps(1e-5);
    if (satellite) options.mean({0.430, 0.411, 0.296}).std({0.213, 0.156, 0.143});
    return options;
  }
};

/// Multi-head self-attention; parameters qkv.*, proj.*.
class SelfAttentionImpl : public torch::nn::Module {
 public:
  explicit SelfAttentionImpl(const VisionTransformerOptions& options)
      : embed_dim_(options.embed_dim()),
        heads_(options.heads()),
        qkv_(register_module(
            "qkv", torch::nn::Linear(torch::nn::LinearOptions(embed_dim_, 3 * embed_dim_).bias(options.qkv_bias())))),
        proj_(register_module("proj", torch::nn::Linear(embed_dim_, embed_dim_))) {}

  /// (B,N,C) -> (B,N,C), queries and keys turned where there is a rotation.
  Tensor forward(const Tensor& x, const detail::Rotation& rotation = {}) const {
    return detail::apply_linear(proj_, detail::attention(detail::apply_linear(qkv_, x), heads_, rotation));
  }

  /// Part 0, 1 or 2 (queries, keys or values) of the projection alone, heads side by side: (B,N,C) -> (B,N,C).
  Tensor project(const Tensor& x, int64_t part) const {
    const int64_t first = part * embed_dim_;
    const auto part_of = [&](const Tensor& t) { return t.defined() ? t.narrow(0, first, embed_dim_) : t; };
    return detail::linear(x, part_of(qkv_->weight), part_of(qkv_->bias));
  }

  /// How much the first token, which has no position, attends to each: (B,N,C) -> (B,heads,N), rows of sum 1.
  Tensor first_attention(const Tensor& x, const detail::Rotation& rotation = {}) const {
    const Tensor q = split_heads(project(x.narrow(1, 0, 1), 0));
    const Tensor k = detail::rotated(split_heads(project(x, 1)), rotation);
    const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
    return at::matmul(q * scale, k.transpose(2, 3)).softmax(-1).squeeze(2);
  }

 private:
  /// (B,N,n d) -> (B,n,N,d), a view; d is the size of a head.
  Tensor split_heads(const Tensor& x) const {
    return x.reshape({x.size(0), x.size(1), -1, embed_dim_ / heads_}).transpose(1, 2);
  }

  int64_t embed_dim_, heads_;
  torch::nn::Linear qkv_, proj_;
};
TORCH_MODULE(SelfAttention);

/// The MLP of a block: fc2(gelu(fc1(x))), or w3(silu(a) * b) with (a, b) = w12(x); parameters under these names.
class FeedForwardImpl : public torch::nn::Module {
 public:
  explicit FeedForwardImpl(const VisionTransformerOptions& options) : swiglu_(options.swiglu()) {
    const int64_t channels = options.embed_dim();
    // A gate costs a third product, so two thirds of the width keep the number of parameters.
    const int64_t by_rule = swiglu_ ? (4 * channels * 2 / 3 + 7) / 8 * 8 : 4 * channels;
    const int64_t hidden = options.mlp_hidden() > 0 ? options.mlp_hidden() : by_rule;
    in_ = register_module(swiglu_ ? "w12" : "fc1", torch::nn::Linear(channels, swiglu_ ? 2 * hidden : hidden));
    out_ = register_module(swiglu_ ? "w3" : "fc2", torch::nn::Linear(hidden, channels));
  }

  /// (B,N,C) -> (B,N,C).
  Tensor forward(const Tensor& x) const {
    Tensor hidden = detail::apply_linear(in_, x);
    if (!swiglu_) return detail::apply_linear(out_, hidden.requires_grad() ? at::gelu(hidden) : at::gelu_(hidden));
    const std::vector<Tensor> halves = hidden.chunk(2, -1);
    return detail::apply_linear(out_, at::silu(halves[0]) * halves[1]);
  }

 private:
  bool swiglu_;
  torch::nn::Linear in_{nullptr}, out_{nullptr};
};
TORCH_MODULE(FeedForward);

/// One block: x + attn(norm1(x)), then the same with mlp and norm2; where the options say so, channels are scaled by
/// ls1.gamma and ls2.gamma before they are added.
class TransformerBlockImpl : public torch::nn::Module {
 public:
  explicit TransformerBlockImpl(const VisionTransformerOptions& options)
      : norm1_(register_module("norm1", norm(options))),
        attn_(register_module("attn", SelfAttention(options))),
        norm2_(register_module("norm2", norm(options))),
        mlp_(register_module("mlp", FeedForward(options))) {
    if (!options.layer_scale()) return;
    const auto scale = [&](const char* name) {
      const auto module = register_module(name, std::make_shared<torch::nn::Module>("LayerScale"));
      return module->register_parameter("gamma", at::ones({options.embed_dim()}));
    };
    scale1_ = scale("ls1");
    scale2_ = scale("ls2");
  }

  /// (B,N,C) -> (B,N,C).
  Tensor forward(const Tensor& x, const detail::Rotation& rotation = {}) {
    const Tensor attended = sum(x, attn_(norm1_(x), rotation), scale1_);
    return sum(attended, mlp_(norm2_(attended)), scale2_);
  }

  /// The keys alone, not turned: (B,N,C) -> (B,N,C).
  Tensor keys(const Tensor& x) { return attn_->project(norm1_(x), 1); }

  /// How much the first token attends to each: (B,N,C) -> (B,heads,N).
  Tensor first_attention(const Tensor& x, const detail::Rotation& rotation = {}) {
    return attn_->first_attention(norm1_(x), rotation);
  }

  /// The layer norm that all of the transformer uses.
  static torch::nn::LayerNorm norm(const VisionTransformerOptions& options) {
    return torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.embed_dim()}).eps(options.norm_eps()));
  }

 private:
  static Tensor sum(const Tensor& x, const Tensor& y, const Tensor& scale) {
    return scale.defined() ? at::addcmul(x, y, scale) : x + y;
  }

  torch::nn::LayerNorm norm1_;
  SelfAttention attn_;
  torch::nn::LayerNorm norm2_;
  FeedForward mlp_;
  Tensor scale1_, scale2_;
};
TORCH_MODULE(TransformerBlock);

/// A vision transformer: pictures in, patch features out. There is no dropout, whatever the mode.
///
///     VisionTransformer vit(VisionTransformerOptions::dino_vits8());
///     io::load(*vit, "dino_deitsmall8_pretrain.pth");
///     Tensor features = vit->features(images);
class VisionTransformerImpl : public CloneableBackbone<VisionTransformerImpl> {
 public:
  /// @throws c10::Error for sizes that are not positive or do not divide as the options demand.
  explicit VisionTransformerImpl(const VisionTransformerOptions& options_) : options(options_) {
    const auto positive = [](const char* name, int64_t value) {
      TORCH_CHECK(value > 0, "VisionTransformer: expected a positive ", name, ", got ", value);
    };
    positive("patch_size", options.patch_size());
    positive("embed_dim", options.embed_dim());
    positive("depth", options.depth());
    positive("heads", options.heads());
    positive("image_size", options.image_size());
    TORCH_CHECK(options.embed_dim() % options.heads() == 0,
                "VisionTransformer: expected an embed_dim that is a multiple of heads, got ", options.embed_dim(),
                " and ", options.heads());
    TORCH_CHECK(is_rotary() || options.image_size() % options.patch_size() == 0,
                "VisionTransformer: expected an image_size that is a multiple of patch_size, got ",
                options.image_size(), " and ", options.patch_size());
    TORCH_CHECK(options.register_tokens() >= 0, "VisionTransformer: expected register_tokens of at least 0, got ",
                options.register_tokens());
    TORCH_CHECK(options.mlp_hidden() >= 0, "VisionTransformer: expected mlp_hidden of at least 0, got ",
                options.mlp_hidden());
    TORCH_CHECK(options.norm_eps() > 0, "VisionTransformer: expected a positive norm_eps, got ", options.norm_eps());
    const bool turns_pairs = options.embed_dim() / options.heads() % 4 == 0;
    TORCH_CHECK(!is_rotary() || turns_pairs,
                "VisionTransformer: expected heads of a multiple of 4 channels for rotary positions, got embed_dim ",
                options.embed_dim(), " and heads ", options.heads());
    TORCH_CHECK(options.rotary_base() > 0 && std::isfinite(options.rotary_base()),
                "VisionTransformer: expected a positive rotary_base, got ", options.rotary_base());
    reset();
  }

  /// Creates the parameters, with random values.
  void reset() override {
    const int64_t channels = options.embed_dim(), side = grid_side();
    cls_token_ = register_parameter("cls_token", at::randn({1, 1, channels}) * 0.02);
    if (is_rotary()) {
      rotary_ = register_module("rope_embed", RotaryPositions(channels / options.heads(), options.rotary_base()));
    } else {
      pos_embed_ = register_parameter("pos_embed", at::randn({1, 1 + side * side, channels}) * 0.02);
    }
    if (options.register_tokens() > 0) {
      const Tensor tokens = at::randn({1, options.register_tokens(), channels}) * 0.02;
      register_tokens_ = register_parameter("register_tokens", tokens);
    }
    const auto patch_embed = register_module("patch_embed", std::make_shared<torch::nn::Module>("PatchEmbedding"));
    const auto convolution = torch::nn::Conv2dOptions(3, channels, options.patch_size()).stride(options.patch_size());
    projection_ = patch_embed->register_module("proj", torch::nn::Conv2d(convolution));
    const auto list = register_module("blocks", std::make_shared<torch::nn::Module>("TransformerBlocks"));
    blocks_.clear();
    for (int64_t i = 0; i < options.depth(); ++i) {
      blocks_.push_back(list->register_module(std::to_string(i), TransformerBlock(options)));
    }
    norm_ = register_module("norm", TransformerBlockImpl::norm(options));
    for (Tensor& parameter : parameters()) parameter.set_requires_grad(false);
  }

  /// Features of each patch, of the kind that the options name.
  /// @param images as `Backbone::features` takes them, on the device of the weights.
  /// @return (B,C,H/p,W/p), C = embed_dim, p = patch_size.
  /// @throws c10::Error for other shapes, dtypes or devices.
  Tensor features(const Tensor& images) override {
    check_images(images, "VisionTransformer::features", cls_token_);
    const bool keys = options.features() == FeatureKind::kKeys;
    const int64_t p = options.patch_size();
    const detail::Rotation rotation = rotation_for(images);
    const Tensor patches = in_groups(images, [&](const Tensor& group) {
      const Tensor x = before_last_block(group, rotation);
      return (keys ? blocks_.back()->keys(x) : norm_(blocks_.back()(x, rotation))).slice(1, first_patch());
    });
    return patches.transpose(1, 2).reshape({images.size(0), channels(), images.size(2) / p, images.size(3) / p});
  }

  /// All tokens after the final norm: class, registers, then patches row by row.
  /// @param images as `features` takes them.
  /// @return (B, 1 + register_tokens + H/p W/p, C).
  Tensor tokens(const Tensor& images) {
    check_images(images, "VisionTransformer::tokens", cls_token_);
    const detail::Rotation rotation = rotation_for(images);
    return in_groups(images, [&](const Tensor& group) {
      return norm_(blocks_.back()(before_last_block(group, rotation), rotation));
    });
  }

  /// How much the class token attends to each patch, in the last block. What it attends to itself and to registers is
  /// left out, so a head's sum is below 1.
  /// @param images as `features` takes them.
  /// @return (B,heads,H/p W/p), patches row by row.
  Tensor attention(const Tensor& images) {
    check_images(images, "VisionTransformer::attention", cls_token_);
    const detail::Rotation rotation = rotation_for(images);
    return in_groups(images, [&](const Tensor& group) {
      return blocks_.back()->first_attention(before_last_block(group, rotation), rotation).slice(2, first_patch());
    });
  }

  int64_t patch_size() const override { return options.patch_size(); }
  int64_t channels() const override { return options.embed_dim(); }
  Rgb mean() const override { return options.mean(); }
  Rgb std() const override { return options.std(); }

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::backbone::VisionTransformer(patch_size=" << options.patch_size()
           << ", embed_dim=" << options.embed_dim() << ", depth=" << options.depth() << ", heads=" << options.heads()
           << (is_rotary() ? ", positions=rotary" : ", image_size=" + std::to_string(options.image_size()))
           << ", features=" << (options.features() == FeatureKind::kKeys ? "keys" : "tokens") << ")";
  }

  /// What this module was made with.
  VisionTransformerOptions options;

 private:
  bool is_rotary() const { return options.positions() == PositionKind::kRotary; }

  /// Patches along a side of the image that the position embeddings were made for.
  int64_t grid_side() const { return options.image_size() / options.patch_size(); }

  /// Index of the first patch among the tokens.
  int64_t first_patch() const { return 1 + options.register_tokens(); }

  /// f of a few images at a time, whose tokens stay in cache from layer to layer; on a GPU, of all.
  template <class F>
  Tensor in_groups(const Tensor& images, const F& f) const {
    constexpr int64_t kTokens = 2048;
    const int64_t p = options.patch_size(), tokens = first_patch() + images.size(2) / p * (images.size(3) / p);
    if (!images.device().is_cpu() || images.size(0) * tokens <= kTokens) return f(images);
    std::vector<Tensor> groups;
    for (const Tensor& group : images.split(std::max<int64_t>(1, kTokens / tokens))) groups.push_back(f(group));
    return at::cat(groups);
  }

  /// By which every block turns the tokens of such images; undefined where positions are learned.
  detail::Rotation rotation_for(const Tensor& images) {
    if (!is_rotary()) return {};
    const int64_t p = options.patch_size();
    return rotary_->rotation(first_patch(), images.size(2) / p, images.size(3) / p, cls_token_);
  }

  /// What enters the last block: (B,N,C).
  Tensor before_last_block(const Tensor& images, const detail::Rotation& rotation) {
    Tensor x = embed(images);
    for (std::size_t i = 0; i + 1 < blocks_.size(); ++i) x = blocks_[i](x, rotation);
    return x;
  }

  /// What enters the first block: the class token and the patches with their learned positions, and the registers,
  /// which have none.
  Tensor embed(const Tensor& images) {
    const Tensor map = projection_(images.to(projection_->weight.scalar_type()));
    Tensor token = cls_token_, patches = map.flatten(2).transpose(1, 2);
    if (!is_rotary()) {
      const Tensor positions = position_embeddings(map.size(2), map.size(3));
      token = token + positions.narrow(1, 0, 1);
      patches = patches + positions.slice(1, 1);
    }
    const auto for_all = [&](const Tensor& t) { return t.expand({images.size(0), -1, -1}); };
    std::vector<Tensor> tokens{for_all(token)};
    if (register_tokens_.defined()) tokens.push_back(for_all(register_tokens_));
    tokens.push_back(patches);
    return at::cat(tokens, 1);
  }

  /// Position embeddings of the class token and of rows x columns patches: (1, 1 + rows columns, C). Other grids than
  /// the learned one are interpolated (bicubic), at the scale (rows + offset) / side: DINO's offset of 0.1 guards its
  /// rounding of the size, and shifts every sample a little.
  Tensor position_embeddings(int64_t rows, int64_t columns) const {
    const int64_t side = grid_side();
    if (rows == side && columns == side) return pos_embed_;
    const auto scale = [&](int64_t patches) {
      return (static_cast<double>(patches) + options.interpolate_offset()) / static_cast<double>(side);
    };
    const auto wide = c10::promoteTypes(pos_embed_.scalar_type(), torch::kFloat);
    const Tensor grid = pos_embed_.slice(1, 1).unflatten(1, {side, side}).permute({0, 3, 1, 2}).to(wide);
    const Tensor resized =
        options.interpolate_antialias()
            ? at::_upsample_bicubic2d_aa(grid, {rows, columns}, /*align_corners=*/false, scale(rows), scale(columns))
            : at::upsample_bicubic2d(grid, {rows, columns}, /*align_corners=*/false, scale(rows), scale(columns));
    return at::cat({pos_embed_.narrow(1, 0, 1), resized.flatten(2).transpose(1, 2).to(pos_embed_.scalar_type())}, 1);
  }

  Tensor cls_token_, pos_embed_, register_tokens_;
  torch::nn::Conv2d projection_{nullptr};
  RotaryPositions rotary_{nullptr};
  std::vector<TransformerBlock> blocks_;
  torch::nn::LayerNorm norm_{nullptr};
};
TORCH_MODULE(VisionTransformer);

}  // namespace smooseg::backbone
