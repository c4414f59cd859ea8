#pragma once

// The product of a linear layer, as fast as LibTorch has it.

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// x weight^T + bias; gradients are recorded. On a CPU as oneDNN's 1x1 convolution, which uses the machine's widest
/// vectors: BLAS libraries that do not know the processor are half as fast (benchmarks/bench_vision_transformer.cpp).
/// @param x (...,C), weight (D,C), bias (D) or undefined. @return (...,D).
inline Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const bool has_onednn = x.device().is_cpu() && x.scalar_type() == torch::kFloat32 &&
                          weight.scalar_type() == torch::kFloat32 && at::globalContext().hasMKLDNN() &&
                          at::globalContext().userEnabledMkldnn() &&
                          c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutocastCPU);
  if (!has_onednn || x.numel() == 0) return at::linear(x, weight, bias);
  // One row of pixels, channels last.
  const Tensor pixels = x.reshape({1, 1, -1, x.size(-1)}).permute({0, 3, 1, 2});
  const Tensor out = at::mkldnn_convolution(pixels, weight.reshape({weight.size(0), weight.size(1), 1, 1}), bias,
                                            /*padding=*/{0, 0}, /*stride=*/{1, 1}, /*dilation=*/{1, 1}, /*groups=*/1);
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return out.permute({0, 2, 3, 1}).reshape(shape);
}

/// The same with a layer's weight and bias.
inline Tensor linear(const torch::nn::Linear& layer, const Tensor& x) {
  return linear(x, layer->weight, layer->bias);
}

}  // namespace smooseg::detail
