#pragma once

// The numbers of a report as HTML tables, which need no script.

#include <string>
#include <vector>

#include "report/run_folder.hpp"

namespace smooseg::app {

/// One row a run: accuracy and mIoU, what they differ from the first run's by, and the settings in which runs differ;
/// then, where runs differ in nothing but the seed, their mean and standard deviation. Empty where no run has scores.
std::string summary_html(const std::vector<RunFolder>& runs);

/// The IoU of each class in each run as bars, the highest first.
std::string iou_html(const std::vector<RunFolder>& runs);

/// A run's confusion matrix, its clusters in the order of their classes: shares of each class's pixels, which a script
/// may turn into shares of each cluster's, or into counts. Empty where it was not kept.
std::string confusion_html(const RunFolder& run);

/// compare.json of each run that has one: mean and standard deviation over seeds for each method.
std::string comparison_html(const std::vector<RunFolder>& runs);

/// sweep.json of each run that has one: its plot, and mean and standard deviation over seeds for each combination of
/// settings.
std::string sweep_html(const std::vector<RunFolder>& runs);

}  // namespace smooseg::app
