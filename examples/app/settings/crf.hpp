#pragma once

// Settings of the dense CRF, for `evaluate` and `segment`.

#include <CLI/App.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "settings/options.hpp"
#include "smooseg/crf/dense_crf.hpp"

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

/// The library's options for these settings.
crf::DenseCrfOptions crf_options(const CrfSettings& settings, int64_t threads);

/// The settings by their options' names, or false where the CRF is not used; for scores.json.
nlohmann::json to_json(const CrfSettings& settings);

/// Reads what `to_json` gave. @throws std::runtime_error naming `source` for an unknown name or a value out of range.
CrfSettings crf_settings_from(const nlohmann::json& json, const std::string& source);

}  // namespace smooseg::app
