#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/arg.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <ostream>

#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/kernels/columnwise.hpp"
#include "smooseg/detail/kernels/moments.hpp"
#include "smooseg/detail/kernels/products.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/ema.hpp"
#include "smooseg/options.hpp"

namespace smooseg {

struct PrototypePredictorOptions {
  PrototypePredictorOptions(int64_t num_classes, int64_t embed_dim)
      : num_classes_(num_classes), embed_dim_(embed_dim) {}
  /// K, at least 2.
  TORCH_ARG(int64_t, num_classes);
  /// D, the channels of the code.
  TORCH_ARG(int64_t, embed_dim);
  /// alpha of Algorithm 1.
  TORCH_ARG(double, momentum) = 0.998;
};

/// Cosine similarities of each patch's code to the prototypes, in [-1,1], (B,K,...).
struct PrototypeLogits {
  Tensor student, teacher;
};

namespace detail {

/// Cosines of prototypes and codes with one product each way, and no normalised copy of the code.
struct CosineLogits : torch::autograd::Function<CosineLogits> {
  using Context = torch::autograd::AutogradContext;

  /// @param prototypes (K,D). @param code (B,D,N), of the same dtype. @return (B,K,N).
  static Tensor forward(Context* context, const Tensor& prototypes, const Tensor& code) {
    const Tensor code_scale = inverse_norms(code, kNormEps);
    context->save_for_backward({prototypes, code, code_scale});
    return batched_product(unit_rows(prototypes), code, code_scale);
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::functional::prototype_logits");
    const auto saved = context->get_saved_variables();
    const Tensor &prototypes = saved[0], &code = saved[1], &code_scale = saved[2];
    Tensor grad_prototypes, grad_code;
    if (context->needs_input_grad(1)) {
      const Tensor grad_unit = batched_product(unit_rows(prototypes).transpose(1, 2), grads[0]);
      grad_code = column_unit_backward(code, code_scale, kNormEps, grad_unit);
    }
    if (context->needs_input_grad(0)) {
      // Of the unit prototypes: the sum over all patches of the gradient times the unit code.
      const Tensor sums =
          sum_of_batch(patch_moments(code, grads[0], kNormEps, -1).product).narrow(0, 0, prototypes.size(0));
      const Tensor columns = prototypes.t().unsqueeze(0), scale = inverse_norms(columns, kNormEps);
      grad_prototypes = column_unit_backward(columns, scale, kNormEps, sums.t().unsqueeze(0)).squeeze(0).t();
    }
    return {grad_prototypes, grad_code};
  }

 private:
  /// (K,D) -> (1,K,D), each row of length 1.
  static Tensor unit_rows(const Tensor& prototypes) {
    return (prototypes * inverse_norms(prototypes.t().unsqueeze(0), kNormEps).squeeze(0).t()).unsqueeze(0);
  }
};

struct SoftAssignments : torch::autograd::Function<SoftAssignments> {
  using Context = torch::autograd::AutogradContext;

  /// @param logits (B,K,N). @return softmax(logits / temperature) over K.
  static Tensor forward(Context* context, const Tensor& logits, double temperature) {
    const Tensor assignments = column_softmax(logits, temperature);
    context->save_for_backward({assignments});
    context->saved_data["temperature"] = temperature;
    return assignments;
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::functional::soft_assignments");
    const Tensor assignments = context->get_saved_variables()[0];
    return {column_softmax_backward(assignments, grads[0], context->saved_data["temperature"].toDouble()), Tensor()};
  }
};

}  // namespace detail

namespace functional {

/// The assignments of Eq. 5: softmax(logits / temperature) over the classes.
/// @param logits (B,K,...), floating. @param temperature tau, above 0.
/// @return (B,K,...), of at least float32, also under autocast.
/// @throws c10::Error for other shapes or dtypes, or a temperature that is not positive.
inline Tensor soft_assignments(const Tensor& logits, double temperature = 1) {
  constexpr auto kName = "smooseg::functional::soft_assignments";
  detail::check_map(logits, kName, "logits", "(B,K,...)");
  TORCH_CHECK(temperature > 0, kName, ": expected temperature > 0, got ", temperature);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor wide = logits.to(at::promote_types(torch::kFloat32, logits.scalar_type()));
  return detail::SoftAssignments::apply(wide.flatten(2), temperature).view(logits.sizes());
}

/// The similarities of Eq. 5: cos(p_k, z) for each class k and patch.
/// @param prototypes (K,D), floating. @param code z, (B,D,...), floating, on the same device.
/// @return (B,K,...) in [-1,1], in the wider of the two dtypes and at least float32, also under autocast.
/// @throws c10::Error for other shapes, dtypes or devices.
inline Tensor prototype_logits(const Tensor& prototypes, const Tensor& code) {
  constexpr auto kName = "smooseg::functional::prototype_logits";
  detail::check_floating(prototypes, kName, "prototypes");
  detail::check_map(code, kName, "code", "(B,D,...)");
  TORCH_CHECK(prototypes.dim() == 2 && prototypes.size(1) == code.size(1), kName,
              ": expected prototypes of shape (K,D) and a code of shape (B,D,...), got ", detail::shape_of(prototypes),
              " and ", detail::shape_of(code));
  detail::check_same_device(prototypes, code, kName, "prototypes", "code");
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto dtype =
      at::promote_types(torch::kFloat32, at::promote_types(prototypes.scalar_type(), code.scalar_type()));
  auto sizes = code.sizes().vec();
  sizes[1] = prototypes.size(0);
  return detail::CosineLogits::apply(prototypes.to(dtype), code.to(dtype).flatten(2)).view(sizes);
}

}  // namespace functional

/// Eq. 5: two sets of K prototypes. The student's are learned; the teacher's follow them (Algorithm 1). The student
/// sees a detached code, so that its loss moves prototypes alone; the teacher's prototypes never get a gradient, its
/// code does.
class PrototypePredictorImpl : public torch::nn::Cloneable<PrototypePredictorImpl> {
 public:
  PrototypePredictorImpl(int64_t num_classes, int64_t embed_dim)
      : PrototypePredictorImpl(PrototypePredictorOptions(num_classes, embed_dim)) {}

  /// @throws c10::Error for fewer than 2 classes, no dimension, or a momentum outside [0,1].
  explicit PrototypePredictorImpl(const PrototypePredictorOptions& options_) : options(options_) {
    TORCH_CHECK(options.num_classes() >= 2, "smooseg::PrototypePredictor: expected at least 2 classes, got ",
                options.num_classes());
    TORCH_CHECK(options.embed_dim() >= 1, "smooseg::PrototypePredictor: expected embed_dim of at least 1, got ",
                options.embed_dim());
    EmaUpdater{options.momentum()};
    reset();
  }

  void reset() override {
    student = register_parameter("student", torch::randn({options.num_classes(), options.embed_dim()}));
    const auto dtype = at::promote_types(torch::kFloat32, student.scalar_type());
    teacher = register_buffer("teacher", student.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true));
  }

  /// As `torch::nn::Module::to`, but the teacher stays in float32 at least: in half precision its small steps would be
  /// rounded away.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override {
    const Tensor kept = teacher.detach();
    Module::to(device, dtype, non_blocking);
    teacher.set_data(kept.to(device, at::promote_types(torch::kFloat32, dtype), non_blocking));
  }
  void to(torch::Dtype dtype, bool non_blocking = false) override { to(teacher.device(), dtype, non_blocking); }
  void to(torch::Device device, bool non_blocking = false) override { Module::to(device, non_blocking); }

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::PrototypePredictor(num_classes=" << options.num_classes()
           << ", embed_dim=" << options.embed_dim() << ", momentum=" << options.momentum() << ")";
  }

  /// @param code z, (B,D,...). @return similarities to both sets, (B,K,...).
  PrototypeLogits forward(const Tensor& code) {
    return {functional::prototype_logits(student, code.detach()), functional::prototype_logits(teacher, code)};
  }

  /// Algorithm 1: moves the teacher's prototypes towards the student's. The published program does so before the
  /// optimiser's step, the paper's pseudo-code after it.
  void update_teacher() { EmaUpdater(options.momentum()).update(teacher, student); }

  PrototypePredictorOptions options;
  Tensor student;  ///< (K,D), learned.
  Tensor teacher;  ///< (K,D), a buffer, of at least float32.
};
TORCH_MODULE(PrototypePredictor);

}  // namespace smooseg
