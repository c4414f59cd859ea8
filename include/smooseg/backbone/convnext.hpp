#pragma once

// ConvNeXt (Liu et al., 2022) without pool and classifier, as DINOv3 (Siméoni et al., 2025) trained it: a frozen
// extractor of features, one vector for each 32 x 32 pixels. Parameters have the names of the published state dicts.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/autograd/linear.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::backbone {

/// Options for `ConvNeXt`.
struct ConvNeXtOptions {
  ConvNeXtOptions(std::vector<int64_t> depths, std::vector<int64_t> dims)
      : depths_(std::move(depths)), dims_(std::move(dims)) {}

  /// DINOv3's models, by the names of its hub.
  static ConvNeXtOptions dinov3_convnext_tiny() { return {{3, 3, 9, 3}, {96, 192, 384, 768}}; }
  static ConvNeXtOptions dinov3_convnext_small() { return {{3, 3, 27, 3}, {96, 192, 384, 768}}; }
  static ConvNeXtOptions dinov3_convnext_base() { return {{3, 3, 27, 3}, {128, 256, 512, 1024}}; }
  static ConvNeXtOptions dinov3_convnext_large() { return {{3, 3, 27, 3}, {192, 384, 768, 1536}}; }

  /// Number of blocks in each of the four stages.
  TORCH_ARG(std::vector<int64_t>, depths);

  /// Channels in each of the four stages.
  TORCH_ARG(std::vector<int64_t>, dims);

  /// Mean and standard deviation that images are normalised with. Default: ImageNet's
  TORCH_ARG(Rgb, mean) = kImageNetMean;
  TORCH_ARG(Rgb, std) = kImageNetStd;
};

/// One block: x + gamma pwconv2(gelu(pwconv1(norm(dwconv(x))))), of which dwconv takes each channel by itself and the
/// others each pixel.
class ConvNeXtBlockImpl : public torch::nn::Module {
 public:
  explicit ConvNeXtBlockImpl(int64_t channels)
      : dwconv_(register_module(
            "dwconv", torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, channels, 7).padding(3).groups(channels)))),
        norm_(register_module("norm", norm(channels))),
        pwconv1_(register_module("pwconv1", torch::nn::Linear(channels, 4 * channels))),
        pwconv2_(register_module("pwconv2", torch::nn::Linear(4 * channels, channels))),
        gamma_(register_parameter("gamma", at::full({channels}, 1e-6))) {}

  /// (B,C,h,w) -> (B,C,h,w), both with channels that lie beside each other.
  Tensor forward(const Tensor& x) {
    const Tensor normed = norm_(dwconv_(x).permute({0, 2, 3, 1}));
    Tensor hidden = detail::apply_linear(pwconv1_, normed);
    const Tensor y = detail::apply_linear(pwconv2_, hidden.requires_grad() ? at::gelu(hidden) : at::gelu_(hidden));
    return at::addcmul(x, y.permute({0, 3, 1, 2}), gamma_.view({-1, 1, 1}));
  }

  /// The layer norm over the channels of each pixel, which come last.
  static torch::nn::LayerNorm norm(int64_t channels) {
    return torch::nn::LayerNorm(torch::nn::LayerNormOptions({channels}).eps(1e-6));
  }

 private:
  torch::nn::Conv2d dwconv_;
  torch::nn::LayerNorm norm_;
  torch::nn::Linear pwconv1_, pwconv2_;
  Tensor gamma_;
};
TORCH_MODULE(ConvNeXtBlock);

/// A ConvNeXt: pictures in, the features of its last stage, after its norm, out. `io::load` takes the published files,
/// transformers' and timm's.
///
///     ConvNeXt net(ConvNeXtOptions::dinov3_convnext_tiny());
///     io::load(*net, "dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb.pth");
///     Tensor features = net->features(images);   // (B,768,H/32,W/32)
class ConvNeXtImpl : public CloneableBackbone<ConvNeXtImpl> {
 public:
  /// @throws c10::Error for sizes that are not positive, or other than four stages.
  explicit ConvNeXtImpl(const ConvNeXtOptions& options_) : options(options_) {
    const auto check = [](const char* name, const std::vector<int64_t>& values) {
      TORCH_CHECK(values.size() == kStages, "ConvNeXt: expected ", name, " of ", kStages, " stages, got ",
                  values.size());
      for (const int64_t value : values) {
        TORCH_CHECK(value > 0, "ConvNeXt: expected positive ", name, ", got ", c10::IntArrayRef(values));
      }
    };
    check("depths", options.depths());
    check("dims", options.dims());
    reset();
  }

  /// Creates the parameters, with random values.
  void reset() override {
    const auto list = [](torch::nn::Module& parent, const std::string& name) {
      return parent.register_module(name, std::make_shared<torch::nn::Module>("ConvNeXtList"));
    };
    const auto downsample = list(*this, "downsample_layers"), stages = list(*this, "stages");
    stages_.assign(kStages, Stage());
    for (std::size_t i = 0; i < kStages; ++i) {
      Stage& stage = stages_[i];
      const int64_t in = i == 0 ? 3 : options.dims()[i - 1], out = options.dims()[i], size = i == 0 ? 4 : 2;
      // The first convolution is normalised after, the others before.
      const auto layers = list(*downsample, std::to_string(i));
      stage.norm = layers->register_module(i == 0 ? "1" : "0", ConvNeXtBlockImpl::norm(i == 0 ? out : in));
      stage.convolution = layers->register_module(
          i == 0 ? "0" : "1", torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, size).stride(size)));
      const auto blocks = list(*stages, std::to_string(i));
      for (int64_t j = 0; j < options.depths()[i]; ++j) {
        stage.blocks.push_back(blocks->register_module(std::to_string(j), ConvNeXtBlock(out)));
      }
    }
    norm_ = list(*this, "norms")->register_module("3", ConvNeXtBlockImpl::norm(options.dims().back()));
    for (Tensor& parameter : parameters()) parameter.set_requires_grad(false);
  }

  /// The maps of the last stage, normalised.
  /// @param images as `Backbone::features` takes them, on the device of the weights.
  /// @return (B,C,H/32,W/32), C the last of `dims`.
  /// @throws c10::Error for other shapes, dtypes or devices.
  Tensor features(const Tensor& images) override {
    const Tensor& weight = stages_.front().convolution->weight;
    check_images(images, "ConvNeXt::features", weight);
    // The CPU's convolutions, the norms and the products of pixels all work on channels that lie beside each other.
    Tensor x = images.to(weight.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    for (std::size_t i = 0; i < kStages; ++i) {
      Stage& stage = stages_[i];
      x = i == 0 ? normed(stage.norm, stage.convolution(x)) : stage.convolution(normed(stage.norm, x));
      for (ConvNeXtBlock& block : stage.blocks) x = block(x);
    }
    return normed(norm_, x).contiguous();
  }

  int64_t patch_size() const override { return 32; }
  int64_t channels() const override { return options.dims().back(); }
  Rgb mean() const override { return options.mean(); }
  Rgb std() const override { return options.std(); }

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::backbone::ConvNeXt(depths=" << c10::IntArrayRef(options.depths())
           << ", dims=" << c10::IntArrayRef(options.dims()) << ")";
  }

  /// What this module was made with.
  ConvNeXtOptions options;

 private:
  static constexpr std::size_t kStages = 4;

  struct Stage {
    torch::nn::LayerNorm norm{nullptr};
    torch::nn::Conv2d convolution{nullptr};
    std::vector<ConvNeXtBlock> blocks;
  };

  /// (B,C,h,w) -> (B,C,h,w), channels beside each other.
  static Tensor normed(torch::nn::LayerNorm& norm, const Tensor& x) {
    return norm(x.permute({0, 2, 3, 1})).permute({0, 3, 1, 2});
  }

  std::vector<Stage> stages_;
  torch::nn::LayerNorm norm_{nullptr};
};
TORCH_MODULE(ConvNeXt);

}  // namespace smooseg::backbone
