#pragma once

// The precision that a frozen backbone computes in.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>

#include "settings/runtime.hpp"
#include "smooseg/backbone/backbone.hpp"
#include "smooseg/segmenter.hpp"
#include "support/processes.hpp"

namespace smooseg::app {

/// The backbone itself, or a copy that computes in bfloat16 and gives features in the dtype of the images, as
/// `--precision` says: `auto` takes the latter where it is measured to be faster.
/// @param backbone in float32, on `device`.
/// @param side of square pictures to measure with, in pixels: a multiple of the patch.
/// @param err gets a line where bfloat16 is taken.
/// @param processes that all take what the first of them measures to be faster.
/// @throws std::runtime_error where bfloat16 is asked of a backbone without weights.
std::shared_ptr<backbone::Backbone> in_precision(const RuntimeSettings& settings,
                                                 const std::shared_ptr<backbone::Backbone>& backbone,
                                                 torch::Device device, int64_t side, std::ostream& err,
                                                 Processes& processes = *Processes::alone());

/// The backbone itself for float32, else one whose features are rounded to the dtype, as those that are kept are.
std::shared_ptr<backbone::Backbone> rounded(const std::shared_ptr<backbone::Backbone>& backbone,
                                            torch::ScalarType dtype);

/// Gives a segmenter such a backbone instead of its own. @return its precision, "float32" or "bfloat16".
std::string set_precision(const RuntimeSettings& settings, SegmenterImpl& segmenter, torch::Device device, int64_t side,
                          std::ostream& err, Processes& processes = *Processes::alone());

}  // namespace smooseg::app
