#pragma once

#include <torch/nn/functional/loss.h>
#include <torch/types.h>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/smoothness.hpp"

namespace smooseg::functional {

/// Eq. 6: cross-entropy of the student's assignment softmax(student) against the teacher's hard labels.
/// @param student (B,K,...), similarities. @param teacher (B,K,...), only its arg max over K counts; no gradient.
/// @return scalar: mean over batch and patches, or their sum.
/// @throws c10::Error for shapes or devices that do not fit.
inline Tensor data_term(const Tensor& student, const Tensor& teacher, Reduction reduction = Reduction::kMean) {
  constexpr auto kName = "smooseg::functional::data_term";
  detail::check_map(student, kName, "student", "(B,K,...)");
  detail::check_map(teacher, kName, "teacher", "(B,K,...)");
  TORCH_CHECK(student.sizes() == teacher.sizes(), kName, ": expected student and teacher of one shape, got ",
              detail::shape_of(student), " and ", detail::shape_of(teacher));
  detail::check_same_device(student, teacher, kName, "student", "teacher");
  auto options = torch::nn::functional::CrossEntropyFuncOptions();
  if (reduction == Reduction::kSum) options.reduction(torch::kSum);
  return torch::nn::functional::cross_entropy(student, teacher.detach().argmax(1), options);
}

}  // namespace smooseg::functional
