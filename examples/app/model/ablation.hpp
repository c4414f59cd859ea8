#pragma once

// The energy without one of its terms (Table 4): what `train --without` changes in a step.

#include <string>

#include "smooseg/loss.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

/// The sum of the terms that are left, which is minimised. What is left out is still computed, for the log.
/// @param without nothing, data, across, within, or smoothness: within and across.
inline Tensor objective(const EnergyTerms& e, const std::string& without) {
  if (without == "data") return e.within + e.across;
  if (without == "across") return e.within + e.data;
  if (without == "within") return e.across + e.data;
  return without == "smoothness" ? e.data : e.total;
}

/// Without the smoothness nothing teaches the projector: it stays as it was drawn, and gets no optimiser's state.
inline void prepare_ablation(SegmenterImpl& segmenter, const std::string& without) {
  if (without != "smoothness") return;
  for (auto& parameter : segmenter.projector->parameters()) parameter.requires_grad_(false);
}

/// Without the data term there is no student that could teach the teacher: of its prototypes alone, which get the
/// gradient of the smoothness as the code does. The student's tensor holds them, since it is what is learned; the
/// teacher's follows it without delay.
inline PrototypeLogits one_set_logits(PrototypePredictor& predictor, const Tensor& code) {
  const Tensor logits = functional::prototype_logits(predictor->student, code);
  return {logits.detach(), logits};
}

}  // namespace smooseg::app
