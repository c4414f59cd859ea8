#pragma once

// scores.json, as `evaluate` writes and `segment` reads it, and scores as a table.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "data/classes.hpp"
#include "smooseg/metrics/scores.hpp"
#include "support/terminal.hpp"

namespace smooseg::app {

/// Accuracy, mIoU, each class's IoU by its name (null where the class does not occur), and the classes of the clusters.
nlohmann::json to_json(const metrics::Scores& scores, const ClassTable& classes);

/// IoU of each class, then mIoU and accuracy, in percent; one column a method. Classes have their colours before their
/// names where there are colours.
void print_table(std::ostream& out, const ClassTable& classes, const metrics::Scores& ours,
                 const std::optional<metrics::Scores>& kmeans, TerminalColors colors = TerminalColors::kNone);

/// What the indices of a drawn label map mean.
struct Legend {
  std::vector<int64_t> index_of_cluster;
  std::vector<Color> colors;  ///< by index
};

/// Each cluster its own index and colour.
Legend cluster_legend(int64_t clusters);

/// The classes and colours of a scores.json; a cluster without a class gets index 255, black.
/// @throws c10::Error naming the file if it is no scores.json for this number of clusters.
Legend read_legend(const std::string& path, int64_t clusters);

}  // namespace smooseg::app
