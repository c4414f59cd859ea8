#include "model/assignments.hpp"

#include <torch/types.h>

#include <algorithm>
#include <vector>

#include "smooseg/penalty.hpp"
#include "smooseg/predictor.hpp"

namespace smooseg::app {

nlohmann::json assignment_statistics(const Tensor& teacher, double temperature) {
  constexpr int64_t kImages = 4, kPatches = 200, kBins = 20;
  const torch::NoGradGuard no_grad;
  const Tensor logits = teacher.detach().flatten(2);  // (B,K,N)
  const Tensor counts = at::bincount(logits.argmax(1).flatten(), {}, logits.size(1));

  const int64_t every = std::max<int64_t>(1, (logits.size(2) + kPatches - 1) / kPatches);
  const Tensor some = logits.slice(0, 0, kImages).slice(2, 0, logits.size(2), every).contiguous();
  const auto histogram = functional::penalty_histogram(functional::soft_assignments(some, temperature),
                                                       PenaltyHistogramOptions().bins(kBins));
  const Tensor shares = histogram.counts.to(torch::kFloat64) / histogram.counts.sum();
  // Four digits are enough for a curve.
  const Tensor rounded = (shares * 1e4).round() / 1e4;
  const auto* const values = rounded.data_ptr<double>();
  return {{"classes_in_use", counts.gt(0).sum().item<int64_t>()},
          {"penalty_histogram", std::vector<double>(values, values + kBins)}};
}

}  // namespace smooseg::app
