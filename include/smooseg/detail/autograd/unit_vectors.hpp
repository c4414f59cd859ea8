#pragma once

// x / max(|x|, eps) along dimension 1, forward and backward, without temporaries of x's size where none is needed.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <utility>

#include "smooseg/detail/kernels/columnwise.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// For backward passes that no second derivative can be taken of.
inline void check_once_differentiable(const char* function) {
  TORCH_CHECK(!torch::GradMode::is_enabled(), function, ": second derivatives (create_graph) are not supported");
}

/// A gradient that may be overwritten: itself where nobody else holds its memory, else a copy. New memory would cost more
/// than what is computed in it.
inline Tensor overwritable(Tensor& grad) {
  const bool is_own = grad.use_count() == 1 && grad.storage().use_count() == 1 && grad.is_non_overlapping_and_dense();
  return is_own ? std::move(grad) : grad.clone();
}

struct UnitVectors : torch::autograd::Function<UnitVectors> {
  using Context = torch::autograd::AutogradContext;

  /// @param x (B,C,N), floating. @return the same divided by max(|x|, eps) along dimension 1.
  static Tensor forward(Context* context, const Tensor& x, double eps) {
    const Tensor scale = inverse_norms(x, eps);
    context->save_for_backward({x, scale});
    context->saved_data["eps"] = eps;
    return x * scale;
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg: the gradient of unit vectors");
    const auto saved = context->get_saved_variables();
    const double eps = context->saved_data["eps"].toDouble();
    return {column_unit_backward(saved[0], saved[1], eps, overwritable(grads[0])), Tensor()};
  }
};

}  // namespace smooseg::detail
