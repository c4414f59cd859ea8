#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/products.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/detail/unit_vectors.hpp"
#include "smooseg/smoothness.hpp"

namespace smooseg {

namespace detail {

struct DataTerm : torch::autograd::Function<DataTerm> {
  using Context = torch::autograd::AutogradContext;

  /// @param student (B,K,N). @param teacher (B,K,N). @return the sum of the cross-entropies times `weight`.
  static Tensor forward(Context* context, const Tensor& student, const Tensor& teacher, double weight) {
    const Tensor labels = column_argmax(teacher), log_assignments = at::log_softmax(student, 1);
    context->save_for_backward({log_assignments, labels});
    context->saved_data["weight"] = weight;
    return log_assignments.gather(1, labels).sum().mul_(-weight);
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::functional::data_term");
    const auto saved = context->get_saved_variables();
    const Tensor weight = grads[0] * context->saved_data["weight"].toDouble();
    Tensor grad = saved[0].exp().mul_(weight);
    grad.scatter_add_(1, saved[1], (-weight).expand(saved[1].sizes()));
    return {grad, Tensor(), Tensor()};
  }
};

}  // namespace detail

namespace functional {

/// Eq. 6: cross-entropy of the student's assignment softmax(student) against the teacher's hard labels.
/// @param student (B,K,...), floating, similarities. @param teacher (B,K,...), floating, only its arg max over K
/// counts;
///   no gradient.
/// @return scalar: mean over batch and patches, or their sum; in at least float32, also under autocast.
/// @throws c10::Error for shapes or devices that do not fit.
inline Tensor data_term(const Tensor& student, const Tensor& teacher, Reduction reduction = Reduction::kMean) {
  constexpr auto kName = "smooseg::functional::data_term";
  detail::check_map(student, kName, "student", "(B,K,...)");
  detail::check_map(teacher, kName, "teacher", "(B,K,...)");
  TORCH_CHECK(student.sizes() == teacher.sizes(), kName, ": expected student and teacher of one shape, got ",
              detail::shape_of(student), " and ", detail::shape_of(teacher));
  detail::check_same_device(student, teacher, kName, "student", "teacher");
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor s = student.to(at::promote_types(torch::kFloat32, student.scalar_type())).flatten(2);
  const double weight = reduction == Reduction::kSum ? 1 : 1 / static_cast<double>(s.size(0) * s.size(2));
  return detail::DataTerm::apply(s, teacher.detach().flatten(2), weight);
}

}  // namespace functional
}  // namespace smooseg
