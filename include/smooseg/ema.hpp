#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg {

/// Exponential moving average of Algorithm 1: target <- momentum * target + (1 - momentum) * source, without gradients.
class EmaUpdater {
 public:
  /// @param momentum alpha of Algorithm 1, in [0,1]. @throws c10::Error outside.
  explicit EmaUpdater(double momentum) : momentum_(momentum) {
    TORCH_CHECK(momentum >= 0 && momentum <= 1, "smooseg::EmaUpdater: expected a momentum in [0,1], got ", momentum);
  }

  double momentum() const { return momentum_; }

  /// Moves `target` in place, rounding once to its dtype. A target in half precision does not feel steps below its
  /// resolution: keep averages in float32. @throws c10::Error if shapes or devices differ.
  void update(Tensor target, const Tensor& source) const {
    TORCH_CHECK(target.sizes() == source.sizes(), "smooseg::EmaUpdater: expected a source of the target's shape ",
                detail::shape_of(target), ", got ", detail::shape_of(source));
    detail::check_same_device(target, source, "smooseg::EmaUpdater", "target", "source");
    torch::NoGradGuard no_grad;
    const auto wide = target.options().dtype(at::promote_types(torch::kFloat32, target.scalar_type()));
    // lerp moves by a difference, so that equal numbers stay as they are.
    target.copy_(at::lerp(target.to(wide), source.to(wide), 1 - momentum_));
  }

  /// Moves every parameter of `target` towards the one of the same name; buffers (running statistics) are copied.
  /// @throws c10::Error, before anything moves, if a name is missing in `source` or a shape differs.
  void update(torch::nn::Module& target, const torch::nn::Module& source) const {
    torch::NoGradGuard no_grad;
    const auto source_parameters = source.named_parameters();
    const auto source_buffers = source.named_buffers();
    const auto check = [](const auto& targets, const auto& sources) {
      for (const auto& item : targets) {
        const Tensor* found = sources.find(item.key());
        TORCH_CHECK(found != nullptr, "smooseg::EmaUpdater: the source module has no '", item.key(), "'");
        TORCH_CHECK(found->sizes() == item.value().sizes(), "smooseg::EmaUpdater: expected '", item.key(),
                    "' of the target's shape ", detail::shape_of(item.value()), ", got ", detail::shape_of(*found));
      }
    };
    check(target.named_parameters(), source_parameters);
    check(target.named_buffers(), source_buffers);
    for (auto& item : target.named_parameters()) update(item.value(), source_parameters[item.key()]);
    for (auto& item : target.named_buffers()) item.value().copy_(source_buffers[item.key()]);
  }

 private:
  double momentum_;
};

}  // namespace smooseg
