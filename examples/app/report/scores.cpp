#include "report/scores.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <numeric>

#include "report/html.hpp"

namespace smooseg::app {
namespace {

// The index of pixels whose cluster has no class.
constexpr int64_t kNoClass = 255;

std::string percent_text(double share) {
  return std::isnan(share) ? "-" : html::percent(share);
}

}  // namespace

nlohmann::json to_json(const metrics::Scores& scores, const ClassTable& classes) {
  nlohmann::json iou = nlohmann::json::object();
  for (std::size_t c = 0; c < scores.iou.size(); ++c) {
    iou[classes.names[c]] = std::isnan(scores.iou[c]) ? nlohmann::json() : nlohmann::json(scores.iou[c]);
  }
  return {{"accuracy", scores.accuracy},
          {"miou", scores.miou},
          {"iou", iou},
          {"class_of_cluster", scores.class_of_cluster}};
}

void print_table(std::ostream& out, const ClassTable& classes, const metrics::Scores& ours,
                 const std::optional<metrics::Scores>& kmeans, TerminalColors colors) {
  std::size_t width = 10;
  for (const auto& name : classes.names) width = std::max(width, name.size());
  const std::string no_swatch(colors == TerminalColors::kNone ? 0 : 3, ' ');
  const auto row = [&](const std::string& name, const std::string& first, const std::string& second,
                       const std::string& swatch) {
    out << swatch << std::left << std::setw(static_cast<int>(width) + 2) << name << std::right << std::setw(8) << first;
    if (kmeans) out << std::setw(10) << second;
    out << "\n";
  };
  const auto scores_row = [&](const std::string& name, const auto& score, const std::string& swatch) {
    row(name, percent_text(score(ours)), kmeans ? percent_text(score(*kmeans)) : "", swatch);
  };
  row("IoU in %", "SmooSeg", "k-means", no_swatch);
  for (std::size_t c = 0; c < classes.names.size(); ++c) {
    const std::string swatch = no_swatch.empty() ? "" : on_color("  ", classes.colors[c], colors) + " ";
    scores_row(
        classes.names[c], [c](const metrics::Scores& s) { return s.iou[c]; }, swatch);
  }
  scores_row(
      "mIoU", [](const metrics::Scores& s) { return s.miou; }, no_swatch);
  scores_row(
      "accuracy", [](const metrics::Scores& s) { return s.accuracy; }, no_swatch);
  out << std::flush;
}

Legend cluster_legend(int64_t clusters) {
  Legend legend{std::vector<int64_t>(static_cast<std::size_t>(clusters)), default_colors(clusters)};
  std::iota(legend.index_of_cluster.begin(), legend.index_of_cluster.end(), 0);
  return legend;
}

Legend read_legend(const std::string& path, int64_t clusters) {
  std::ifstream file(path);
  TORCH_CHECK(file.good(), path, ": cannot read these scores");
  Legend legend;
  try {
    const auto json = nlohmann::json::parse(file);
    legend.index_of_cluster = json.at("class_of_cluster").get<std::vector<int64_t>>();
    legend.colors = json.at("class_colors").get<std::vector<Color>>();
  } catch (const nlohmann::json::exception& e) {
    TORCH_CHECK(false, path, ": expected the scores.json of smooseg evaluate: ", e.what());
  }
  const auto found = static_cast<int64_t>(legend.index_of_cluster.size());
  TORCH_CHECK(found == clusters, path, ": expected scores of the model's ", clusters, " clusters, found ", found);
  const auto classes = static_cast<int64_t>(legend.colors.size());
  for (int64_t& index : legend.index_of_cluster) {
    TORCH_CHECK(index < classes, path, ": class ", index, " of class_of_cluster has no colour");
    if (index < 0) index = kNoClass;
  }
  if (classes <= kNoClass) legend.colors.resize(kNoClass + 1, Color{0, 0, 0});
  return legend;
}

}  // namespace smooseg::app
