#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/kernels/columnwise.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/smoothness.hpp"

namespace smooseg {

namespace detail {

struct DataTerm : torch::autograd::Function<DataTerm> {
  using Context = torch::autograd::AutogradContext;

  /// @param student (B,K,N). @param teacher (B,K,N). @return the sum of the cross-entropies times `weight`.
  static Tensor forward(Context* context, const Tensor& student, const Tensor& teacher, double weight) {
    const CrossEntropy result = column_cross_entropy(student, teacher, weight);
    context->save_for_backward({result.grad});
    return result.losses.sum().mul_(weight);
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::functional::data_term");
    const Tensor grad = context->get_saved_variables()[0];
    const bool is_one = grads[0].device().is_cpu() && grads[0].item<double>() == 1;  // the usual case saves a pass
    return {is_one ? grad : grad * grads[0], Tensor(), Tensor()};
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
  return detail::DataTerm::apply(s, teacher.detach().to(s.scalar_type()).flatten(2), weight);
}

}  // namespace functional
}  // namespace smooseg
