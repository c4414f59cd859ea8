#pragma once

#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <ostream>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/ema.hpp"

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

namespace functional {

/// The similarities of Eq. 5: cos(p_k, z) for each class k and patch.
/// @param prototypes (K,D), floating. @param code z, (B,D,...), same dtype and device.
/// @return (B,K,...) in [-1,1].
/// @throws c10::Error for other shapes, dtypes or devices.
inline Tensor prototype_logits(const Tensor& prototypes, const Tensor& code) {
  constexpr auto kName = "smooseg::functional::prototype_logits";
  detail::check_floating(prototypes, kName, "prototypes");
  detail::check_map(code, kName, "code", "(B,D,...)");
  TORCH_CHECK(prototypes.dim() == 2 && prototypes.size(1) == code.size(1), kName,
              ": expected prototypes of shape (K,D) and a code of shape (B,D,...), got ", detail::shape_of(prototypes),
              " and ", detail::shape_of(code));
  detail::check_same_device(prototypes, code, kName, "prototypes", "code");
  const CosineCloseness cosine;
  const Tensor z = code.flatten(2);
  const Tensor unit = cosine.embed(prototypes.t().unsqueeze(0)).squeeze(0).t();  // (K,D)
  auto sizes = code.sizes().vec();
  sizes[1] = prototypes.size(0);
  return (unit.expand({z.size(0), -1, -1}).bmm(z) * cosine.scale(z)).view(sizes);
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
  explicit PrototypePredictorImpl(const PrototypePredictorOptions& options) : options(options) {
    TORCH_CHECK(options.num_classes() >= 2, "smooseg::PrototypePredictor: expected at least 2 classes, got ",
                options.num_classes());
    TORCH_CHECK(options.embed_dim() >= 1, "smooseg::PrototypePredictor: expected embed_dim of at least 1, got ",
                options.embed_dim());
    EmaUpdater{options.momentum()};
    reset();
  }

  void reset() override {
    student = register_parameter("student", torch::randn({options.num_classes(), options.embed_dim()}));
    teacher = register_buffer("teacher", student.detach().clone());
  }

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
  Tensor teacher;  ///< (K,D), a buffer.
};
TORCH_MODULE(PrototypePredictor);

}  // namespace smooseg
