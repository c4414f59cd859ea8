#pragma once

// The residual network with bottlenecks (He et al., 2016; ResNet-50 and deeper) without pool and classifier, as MoCo v2
// (Chen et al., 2020) and DINO (Caron et al., 2021) trained it: a frozen extractor of features, one vector for each
// 32 x 32 pixels. Parameters have torchvision's names.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::backbone {

/// Options for `ResNet`.
struct ResNetOptions {
  static ResNetOptions resnet50() { return {}; }

  /// Number of bottlenecks in each of the four stages. Default: 3, 4, 6, 3 (ResNet-50)
  TORCH_ARG(std::vector<int64_t>, blocks) = {3, 4, 6, 3};

  /// Channels after the first convolution; the features have 32 times as many. Default: 64
  TORCH_ARG(int64_t, width) = 64;
};

/// Batch normalisation as in evaluation: a factor and a term for each channel. Parameters weight and bias, buffers
/// running_mean and running_var, all (C).
class FrozenBatchNormImpl : public torch::nn::Module {
 public:
  explicit FrozenBatchNormImpl(int64_t channels)
      : weight_(register_parameter("weight", at::ones({channels}))),
        bias_(register_parameter("bias", at::zeros({channels}))),
        mean_(register_buffer("running_mean", at::zeros({channels}))),
        variance_(register_buffer("running_var", at::ones({channels}))) {}

  /// The normalised convolution of x, as one convolution with scaled weights: a pass over the weights instead of one
  /// over every map.
  /// @param convolution without a bias, padded by half its size.
  Tensor of(const torch::nn::Conv2d& convolution, const Tensor& x) const {
    constexpr double kEps = 1e-5;
    const Tensor scale = weight_ * (variance_ + kEps).rsqrt();
    const Tensor& weight = convolution->weight;
    return at::conv2d(x, weight * scale.view({-1, 1, 1, 1}), bias_ - mean_ * scale, convolution->options.stride(),
                      weight.size(2) / 2);
  }

 private:
  Tensor weight_, bias_, mean_, variance_;
};
TORCH_MODULE(FrozenBatchNorm);

/// One bottleneck: x (or its projection downsample.*) + three normalised convolutions, of 1, 3 and 1 pixels.
class BottleneckImpl : public torch::nn::Module {
 public:
  /// @param channels_in of the input. @param channels of the middle; the output has four times as many.
  /// @param stride of the middle convolution.
  BottleneckImpl(int64_t channels_in, int64_t channels, int64_t stride) {
    const int64_t channels_out = 4 * channels;
    add(1, channels_in, channels, 1, 1);
    add(2, channels, channels, 3, stride);
    add(3, channels, channels_out, 1, 1);
    if (stride == 1 && channels_in == channels_out) return;
    const auto downsample = register_module("downsample", std::make_shared<torch::nn::Module>("Downsample"));
    project_ = downsample->register_module("0", convolution(channels_in, channels_out, 1, stride));
    project_norm_ = downsample->register_module("1", FrozenBatchNorm(channels_out));
  }

  /// (B,C,h,w) -> (B, 4 channels, h / stride, w / stride), both rounded up.
  Tensor forward(const Tensor& x) {
    Tensor y = x;
    for (std::size_t i = 0; i + 1 < convolutions_.size(); ++i) y = norms_[i]->of(convolutions_[i], y).relu_();
    y = norms_.back()->of(convolutions_.back(), y);
    return y.add_(project_.is_empty() ? x : project_norm_->of(project_, x)).relu_();
  }

  /// Without a bias, padded so that a stride of 1 keeps the size.
  static torch::nn::Conv2d convolution(int64_t in, int64_t out, int64_t size, int64_t stride) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, size).stride(stride).padding(size / 2).bias(false));
  }

 private:
  void add(int number, int64_t in, int64_t out, int64_t size, int64_t stride) {
    const std::string name = std::to_string(number);
    convolutions_.push_back(register_module("conv" + name, convolution(in, out, size, stride)));
    norms_.push_back(register_module("bn" + name, FrozenBatchNorm(out)));
  }

  std::vector<torch::nn::Conv2d> convolutions_;
  std::vector<FrozenBatchNorm> norms_;
  torch::nn::Conv2d project_{nullptr};
  FrozenBatchNorm project_norm_{nullptr};
};
TORCH_MODULE(Bottleneck);

/// A residual network: pictures in, the features of its last stage out. `io::load` takes torchvision's, MoCo's and
/// DINO's files; the classifier in them is left out.
///
///     ResNet resnet(ResNetOptions::resnet50());
///     io::load(*resnet, "dino_resnet50_pretrain.pth");
///     Tensor features = resnet->features(images);   // (B,2048,H/32,W/32)
class ResNetImpl : public CloneableBackbone<ResNetImpl> {
 public:
  /// @throws c10::Error for sizes that are not positive, or other than four stages.
  explicit ResNetImpl(const ResNetOptions& options_ = {}) : options(options_) {
    TORCH_CHECK(options.blocks().size() == 4, "ResNet: expected blocks of 4 stages, got ", options.blocks().size());
    for (const int64_t count : options.blocks()) {
      TORCH_CHECK(count > 0, "ResNet: expected positive numbers of blocks, got ", c10::IntArrayRef(options.blocks()));
    }
    TORCH_CHECK(options.width() > 0, "ResNet: expected a positive width, got ", options.width());
    reset();
  }

  /// Creates the parameters, with random values.
  void reset() override {
    conv1_ = register_module("conv1", BottleneckImpl::convolution(3, options.width(), 7, 2));
    bn1_ = register_module("bn1", FrozenBatchNorm(options.width()));
    blocks_.clear();
    int64_t channels_in = options.width(), channels = options.width();
    for (std::size_t stage = 0; stage < options.blocks().size(); ++stage, channels *= 2) {
      const std::string name = "layer" + std::to_string(stage + 1);
      const auto list = register_module(name, std::make_shared<torch::nn::Module>("ResNetStage"));
      for (int64_t i = 0; i < options.blocks()[stage]; ++i) {
        const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
        blocks_.push_back(list->register_module(std::to_string(i), Bottleneck(channels_in, channels, stride)));
        channels_in = 4 * channels;
      }
    }
    for (Tensor& parameter : parameters()) parameter.set_requires_grad(false);
  }

  /// The maps of the last stage.
  /// @param images as `Backbone::features` takes them, on the device of the weights.
  /// @return (B, 32 width, H/32, W/32).
  /// @throws c10::Error for other shapes, dtypes or devices.
  Tensor features(const Tensor& images) override {
    check_images(images, "ResNet::features", conv1_->weight);
    // The CPU's convolutions work on channels that lie beside each other.
    Tensor x = images.to(conv1_->weight.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    x = at::max_pool2d(bn1_->of(conv1_, x).relu_(), 3, 2, 1);
    for (Bottleneck& block : blocks_) x = block(x);
    return x.contiguous();
  }

  int64_t patch_size() const override { return 32; }
  int64_t channels() const override { return 32 * options.width(); }

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::backbone::ResNet(blocks=" << c10::IntArrayRef(options.blocks()) << ", width=" << options.width()
           << ")";
  }

  /// What this module was made with.
  ResNetOptions options;

 private:
  torch::nn::Conv2d conv1_{nullptr};
  FrozenBatchNorm bn1_{nullptr};
  std::vector<Bottleneck> blocks_;
};
TORCH_MODULE(ResNet);

}  // namespace smooseg::backbone
