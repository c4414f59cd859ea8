#pragma once

// Whether a training's energies are finite, without a wait for them in each step.

#include <ATen/Functions.h>
#include <torch/types.h>

#include <cmath>
#include <cstdint>
#include <optional>

#include "smooseg/loss.hpp"

namespace smooseg::app {

/// Remembers the first step whose energy was not finite, on the energy's device. Who asks waits for the device.
class FiniteWatch {
 public:
  struct Step {
    int64_t number;
    EnergyTerms energy;  // total, within, across and data alone, on the CPU
  };

  /// Looks at the energy of the next step.
  void see(int64_t step, const EnergyTerms& e) {
    const torch::NoGradGuard no_grad;
    const Tensor terms = at::stack({e.total, e.within, e.across, e.data}).to(torch::kFloat64);
    const Tensor now = at::cat({at::full({1}, step, terms.options()), terms});
    seen_ = seen_.defined() ? at::where(seen_[kTotal].isfinite(), now, seen_) : now;
  }

  /// The first step that was seen and not finite.
  std::optional<Step> not_finite() const {
    if (!seen_.defined()) return std::nullopt;
    const Tensor seen = seen_.to(torch::kCPU);
    const auto* const values = seen.data_ptr<double>();
    if (std::isfinite(values[kTotal])) return std::nullopt;
    return Step{static_cast<int64_t>(values[0]), {seen[kTotal], seen[2], seen[3], seen[4], {}, {}}};
  }

 private:
  static constexpr int64_t kTotal = 1;

  Tensor seen_;  // (5): number and energies of the first step that was not finite, of the last one while there is none
};

}  // namespace smooseg::app
