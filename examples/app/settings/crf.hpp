#pragma once

// The dense CRF as `evaluate` and `segment` use it.

#include <torch/types.h>

#include <CLI/App.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "smooseg/crf/dense_crf.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

/// The defaults are the paper's.
struct CrfSettings {
  bool use = false;
  double scale = 2;
  int64_t iterations = 10;
  double gaussian_sxy = 1;
  double gaussian_weight = 3;
  double bilateral_sxy = 67;
  double bilateral_srgb = 3;
  double bilateral_weight = 4;
  std::string normalization = "symmetric";
  int64_t tile = 1024;
  int64_t overlap = 128;
};

/// Adds --crf and an option for each setting.
void add_options(CLI::App& command, CrfSettings& settings);

/// @throws c10::Error or std::invalid_argument for settings that do not go together.
crf::DenseCrf make_crf(const CrfSettings& settings, int64_t threads);

/// The settings by their options' names, or false where the CRF is not used; for scores.json.
nlohmann::json to_json(const CrfSettings& settings);

/// What the CRF is given: the segmenter's logits as energies.
/// @param images (B,3,H,W), normalised. @return (B,K,out_height,out_width) on the CPU.
Tensor crf_energies(SegmenterImpl& segmenter, const CrfSettings& settings, const Tensor& images, int64_t out_height,
                    int64_t out_width);

}  // namespace smooseg::app
