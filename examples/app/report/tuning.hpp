#pragma once

// What `smooseg tune` found: as a table, as a file, and as pictures.

#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "features/examination.hpp"
#include "model/criteria.hpp"
#include "smooseg/class_count.hpp"
#include "smooseg/options.hpp"

namespace smooseg::app {

/// Settings that were tried.
struct Candidate {
  bool automatic = false;  ///< whether a `ThresholdController` chose the thresholds
  Thresholds thresholds;   ///< that were given, or chosen in the end
  double temperature = 0;
  int64_t steps = 0;                     ///< of the longest training with them
  PartitionCriteria criteria;            ///< after it
  std::optional<double> accuracy, miou;  ///< by labels of the training crops, 0..1
};

/// Spearman's rank correlation of two lists of equally many values, ties with their mean rank; NaN where all of one are
/// equal.
double rank_correlation(const std::vector<double>& a, const std::vector<double>& b);

/// tune.json: "candidates", a list of objects, the best first, and "options", those of `train` that choose the best.
nlohmann::json to_json(const std::vector<Candidate>& sorted);

/// The options of `train` that give it these settings.
std::string train_options(const Candidate& candidate);

/// Prints the candidates that were trained longest, the best first, and a line for the others.
void print_candidates(std::ostream& out, const std::vector<Candidate>& sorted);

/// Closeness within and across images with the chosen thresholds, and the label penalty of the chosen model within and
/// across images, as an SVG.
/// @param penalties shares of bins from 0 to 1, within and across.
std::string tuning_svg(const ClosenessSamples& closeness, const Candidate& chosen,
                       const std::vector<std::vector<double>>& penalties);

/// What joining classes costs, over their number, with the number that was chosen in the title, as an SVG.
std::string class_count_svg(const ClassCount& count);

}  // namespace smooseg::app
