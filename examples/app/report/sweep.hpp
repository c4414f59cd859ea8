#pragma once

// What `smooseg sweep` found: as files, as a table and as a plot (Figs. 6 and 7).

#include <cstdint>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "settings/model.hpp"

namespace smooseg::app {

/// The scores of one run.
struct SweepResult {
  SettingValues settings;  ///< those that were varied
  uint64_t seed = 0;
  double accuracy = 0, miou = 0;  ///< 0..1
};

/// sweep.json: a list of objects with "settings" (by name), "seed", "accuracy" and "miou".
nlohmann::json to_json(const std::vector<SweepResult>& results);

/// Reads it back. @throws std::runtime_error naming `source` where it is something else.
std::vector<SweepResult> sweep_results_from(const nlohmann::json& json, const std::string& source);

/// The same as sweep.csv.
std::string sweep_csv(const std::vector<SweepResult>& results);

/// The runs that differ in nothing but the seed.
struct SweepRow {
  SettingValues settings;
  std::vector<double> accuracies, mious;
};

/// One row for each combination of values, in the order of the results.
std::vector<SweepRow> rows_of(const std::vector<SweepResult>& results);

/// A table with mean and standard deviation over seeds, in percent.
void print_sweep(std::ostream& out, const std::vector<SweepResult>& results);

/// Accuracy and mIoU as an SVG: lines over the values of one setting, heat maps over those of two; "" where another
/// number of settings has several values.
std::string sweep_svg(const std::vector<SweepResult>& results);

}  // namespace smooseg::app
