#pragma once

// The dense CRF as `evaluate` and `segment` use it.

#include <torch/types.h>

#include <CLI/App.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "settings/options.hpp"
#include "smooseg/crf/dense_crf.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

inline const Choices<crf::Normalization> kNormalizations{{"symmetric", crf::Normalization::kSymmetric},
                                                         {"before", crf::Normalization::kBefore},
                                                         {"after", crf::Normalization::kAfter},
                                                         {"none", crf::Normalization::kNone}};

struct CrfSettings {
  bool use = false;
  double scale = 2;              ///< the paper's factor of the teacher's cosines
  crf::DenseCrfOptions options;  ///< with the two default terms, the Gaussian one first
  std::string normalization = name_of(crf::DenseCrfOptions().normalization(), kNormalizations);
};

/// Adds --crf and an option for each setting.
void add_options(CLI::App& command, CrfSettings& settings);

/// @throws c10::Error or std::invalid_argument for settings that do not go together.
crf::DenseCrf make_crf(const CrfSettings& settings, int64_t threads);

/// The settings by their options' names, or false where the CRF is not used; for scores.json.
nlohmann::json to_json(const CrfSettings& settings);

/// What the CRF starts from: the segmenter's logits as energies.
/// @param images (B,3,H,W), normalised. @return (B,K,out_height,out_width) on the CPU.
Tensor crf_energies(SegmenterImpl& segmenter, const CrfSettings& settings, const Tensor& images, int64_t out_height,
                    int64_t out_width);

}  // namespace smooseg::app
