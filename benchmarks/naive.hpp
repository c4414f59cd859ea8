#pragma once

// The textbook form of the energy, as the paper's pseudo-code writes it: the N x N matrices W and delta of every image
// and pair, built by ordinary tensor operations. What the library is compared with.

#include <torch/nn/functional/loss.h>
#include <torch/types.h>

#include "smooseg/loss.hpp"

namespace naive {

using torch::Tensor;

inline Tensor unit(const Tensor& x) {
  const Tensor flat = x.flatten(2);
  return flat / flat.norm(2, {1}, true).clamp_min(1e-10);
}

/// Eq. 2 with its rows centred and the mean kept, of unit vectors (B,C,P) and (B,C,Q).
inline Tensor closeness(const Tensor& x, const Tensor& y) {
  const Tensor w = torch::einsum("bcp,bcq->bpq", {x, y});
  return w - w.mean(2, true) + w.mean();
}

/// Eq. 3 of unit vectors (B,K,P) and (B,K,Q).
inline Tensor label_penalty(const Tensor& a, const Tensor& b) {
  return 1 - torch::einsum("bkp,bkq->bpq", {a, b});
}

/// The mean over p and q of (Wc - b) delta, of unit vectors.
inline Tensor smoothness(const Tensor& x, const Tensor& y, const Tensor& a, const Tensor& b, double threshold) {
  return ((closeness(x, y) - threshold) * label_penalty(a, b)).mean();
}

/// Eq. 4 with the published program's settings, of maps (B,C,...) and (B,K,...).
inline Tensor smoothness(const Tensor& features, const Tensor& assignments, const Tensor& pairing,
                         const smooseg::SmoothnessOptions& options) {
  const Tensor x = unit(features), a = unit(assignments);
  const Tensor y = x.index_select(0, pairing), b = a.index_select(0, pairing);
  return smoothness(x, x, a, a, options.within_threshold()) + smoothness(x, y, a, b, options.across_threshold());
}

/// Eq. 5: similarities of a code (B,D,...) to both sets of prototypes.
inline smooseg::PrototypeLogits predictor(const smooseg::PrototypePredictor& predictor, const Tensor& code) {
  const auto cosines = [](const Tensor& prototypes, const Tensor& z) {
    const Tensor p = prototypes / prototypes.norm(2, {1}, true).clamp_min(1e-10);
    auto sizes = z.sizes().vec();
    sizes[1] = prototypes.size(0);
    return torch::einsum("kd,bdn->bkn", {p, unit(z)}).view(sizes);
  };
  return {cosines(predictor->student, code.detach()), cosines(predictor->teacher, code)};
}

/// Eq. 6.
inline Tensor data_term(const smooseg::PrototypeLogits& logits) {
  return torch::nn::functional::cross_entropy(logits.student, logits.teacher.argmax(1).detach());
}

/// Eq. 7 with the published program's settings.
inline Tensor energy(const Tensor& features, const smooseg::PrototypeLogits& logits, const Tensor& pairing,
                     const smooseg::EnergyOptions& options) {
  const Tensor assignments = at::softmax(logits.teacher / options.temperature(), 1);
  return smoothness(features, assignments, pairing, options.smoothness()) + data_term(logits);
}

}  // namespace naive
