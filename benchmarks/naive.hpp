#pragma once

// The textbook form of the energy, as the paper's pseudo-code writes it: the N x N matrices W and delta of every image
// and pair, built by ordinary tensor operations. What the library is compared with.

#include <torch/nn/functional/loss.h>
#include <torch/nn/functional/normalization.h>
#include <torch/types.h>

#include "smooseg/loss.hpp"

namespace naive {

using torch::Tensor;

inline Tensor unit(const Tensor& x) {
  namespace F = torch::nn::functional;
  return F::normalize(x.flatten(2), F::NormalizeFuncOptions().dim(1).eps(1e-10));
}

/// sum over p, q of (Wc - b) delta for each image of x with that of y, (B,C,N) and (B,K,N) unit vectors; the mean.
inline Tensor smoothness(const Tensor& x, const Tensor& y, const Tensor& a, const Tensor& b, double threshold) {
  const Tensor w = torch::einsum("bcp,bcq->bpq", {x, y});
  const Tensor centered = w - w.mean(2, true) + w.mean();
  const Tensor delta = 1 - torch::einsum("bkp,bkq->bpq", {a, b});
  return ((centered - threshold) * delta).mean();
}

/// Eq. 7 with the published program's settings.
inline Tensor energy(const Tensor& features, const smooseg::PrototypeLogits& logits, const Tensor& pairing,
                     const smooseg::EnergyOptions& options) {
  const Tensor x = unit(features), a = unit(at::softmax(logits.teacher / options.temperature(), 1));
  const Tensor y = x.index_select(0, pairing), b = a.index_select(0, pairing);
  const Tensor data = torch::nn::functional::cross_entropy(logits.student, logits.teacher.argmax(1).detach());
  return smoothness(x, x, a, a, options.smoothness().within_threshold()) +
         smoothness(x, y, a, b, options.smoothness().across_threshold()) + data;
}

}  // namespace naive
