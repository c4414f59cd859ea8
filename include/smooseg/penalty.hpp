#pragma once

#include <torch/types.h>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg {

/// Eq. 3 as a policy of `SmoothnessLoss`: the penalty is 1 - cos(a_p, a_q), one minus the inner product of the
/// embeddings a / |a|.
struct CosinePenalty {
  /// @param a (B,K,N). @return (B,K,N) unit vectors along dimension 1.
  Tensor embed(const Tensor& a) const { return CosineCloseness{}.embed(a); }
};

namespace functional {

/// Eq. 3: how much the labels of two patches differ: 1 - cos(a_p, b_q), 0 for equal soft assignments and 1 for disjoint
/// ones.
/// @param a (B,K,...) soft assignments, floating. @param b (B,K,...), same dtype and device.
/// @return (B,P,Q), P and Q being the products of the dimensions after the second.
/// @throws c10::Error for other shapes, dtypes or devices.
inline Tensor label_penalty(const Tensor& a, const Tensor& b) {
  detail::check_paired_maps(a, b, "smooseg::functional::label_penalty", "a", "b", "(B,K,...)");
  const CosinePenalty cosine;
  return 1 - cosine.embed(a.flatten(2)).transpose(1, 2).matmul(cosine.embed(b.flatten(2)));
}

}  // namespace functional
}  // namespace smooseg
