#pragma once

// The product of a linear layer, as fast as LibTorch has it.

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// Whether products of this tensor's dtype, where it lies, are oneDNN's to make. Its 1x1 convolution uses the machine's
/// widest vectors: BLAS libraries that do not know the processor take twice as long (bench_vision_transformer).
inline bool has_onednn(const Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == torch::kFloat32 && at::globalContext().hasMKLDNN() &&
         at::globalContext().userEnabledMkldnn() && !is_autocast(x);
}

/// @param x (B,C,h,w), weight (D,C), bias (D) or undefined. @return (B,D,h,w).
inline Tensor onednn_convolution(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return at::mkldnn_convolution(x, weight.reshape({weight.size(0), weight.size(1), 1, 1}), bias, /*padding=*/{0, 0},
                                /*stride=*/{1, 1}, /*dilation=*/{1, 1}, /*groups=*/1);
}

/// x weight^T + bias; gradients are recorded.
/// @param x (...,C), weight (D,C), bias (D) or undefined. @return (...,D).
inline Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}) {
  if (!has_onednn(x) || weight.scalar_type() != x.scalar_type() || x.numel() == 0) return at::linear(x, weight, bias);
  const Tensor pixels = x.reshape({1, 1, -1, x.size(-1)}).permute({0, 3, 1, 2});  // one row of them, channels last
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return onednn_convolution(pixels, weight, bias).permute({0, 2, 3, 1}).reshape(shape);
}

/// `linear` with a layer's weight and bias.
inline Tensor apply_linear(const torch::nn::Linear& layer, const Tensor& x) {
  return linear(x, layer->weight, layer->bias);
}

}  // namespace smooseg::detail
