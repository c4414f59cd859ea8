#pragma once

// What a step's assignments look like, for the log.

#include <nlohmann/json.hpp>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// "classes_in_use": how many classes some patch is nearest to. "penalty_histogram": how the label penalty is
/// distributed over pairs of patches of one image (appendix A), shares of 20 bins from 0 to 1; of at most four images
/// and some 200 patches of each, evenly chosen, so that it costs little and draws nothing at random.
/// @param teacher (B,K,h,w), the teacher's logits. @param temperature tau of its softmax.
nlohmann::json assignment_statistics(const Tensor& teacher, double temperature);

}  // namespace smooseg::app
