#include "report/tuning.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <numeric>
#include <sstream>

#include "report/penalty.hpp"
#include "report/svg.hpp"

namespace smooseg::app {
namespace {

/// The rank of each value, 1 for the highest; equal values share their mean rank.
std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<double> ranks;
  for (const double value : values) {
    const auto above = std::count_if(values.begin(), values.end(), [&](double other) { return other > value; });
    const auto equal = std::count(values.begin(), values.end(), value);
    ranks.push_back(static_cast<double>(above) + static_cast<double>(equal + 1) / 2);
  }
  return ranks;
}

std::string fixed(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

/// Shares of sorted values in bins of equal width from -1 to 1.
std::vector<double> closeness_shares(const Tensor& sorted) {
  constexpr int64_t kBins = 80;
  return shares_in(at::histc(sorted, kBins, -1, 1));
}

}  // namespace

double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = ranks_of(a), y = ranks_of(b);
  const double mean = (static_cast<double>(a.size()) + 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : NAN;
}

std::string train_options(const Candidate& c) {
  const std::string thresholds =
      c.automatic ? "auto" : fixed(c.thresholds.within, 4) + "," + fixed(c.thresholds.across, 4);
  return "--thresholds " + thresholds + " --temperature " + fixed(c.temperature, 4);
}

nlohmann::json to_json(const std::vector<Candidate>& sorted) {
  nlohmann::json list = nlohmann::json::array();
  for (const Candidate& c : sorted) {
    nlohmann::json& entry = list.emplace_back(nlohmann::json{{"thresholds", c.automatic ? "auto" : "given"},
                                                             {"within_threshold", c.thresholds.within},
                                                             {"across_threshold", c.thresholds.across},
                                                             {"temperature", c.temperature},
                                                             {"steps", c.steps},
                                                             {"entropy", c.criteria.entropy},
                                                             {"agreement", c.criteria.agreement},
                                                             {"between", c.criteria.between},
                                                             {"silhouette", c.criteria.silhouette},
                                                             {"classes_in_use", c.criteria.classes_in_use}});
    if (c.accuracy) entry["accuracy"] = *c.accuracy;
    if (c.miou) entry["miou"] = *c.miou;
  }
  return {{"candidates", list}, {"options", train_options(sorted.front())}};
}

void print_candidates(std::ostream& out, const std::vector<Candidate>& sorted) {
  const int64_t longest = sorted.front().steps;
  out << "between  within  across  temperature  classes  entropy  agreement  silhouette"
      << (sorted.front().miou ? "   accuracy  mIoU" : "") << "\n";
  std::size_t shown = 0;
  for (const Candidate& c : sorted) {
    if (c.steps < longest) continue;
    ++shown;
    out << std::fixed << std::setprecision(3) << std::setw(7) << c.criteria.between << std::setprecision(2)
        << std::setw(8) << c.thresholds.within << std::setw(8) << c.thresholds.across << std::setprecision(3)
        << std::setw(13) << c.temperature << std::setw(9) << c.criteria.classes_in_use << std::setprecision(2)
        << std::setw(9) << c.criteria.entropy << std::setw(11) << c.criteria.agreement << std::setw(12)
        << c.criteria.silhouette;
    if (c.miou) out << std::setprecision(1) << std::setw(11) << 100 * *c.accuracy << std::setw(6) << 100 * *c.miou;
    out << (c.automatic ? "  auto" : "") << "\n";
  }
  if (shown < sorted.size()) out << sorted.size() - shown << " others fell behind in shorter trainings\n";
}

std::string class_count_svg(const ClassCount& count) {
  svg::LinePlot plot;
  plot.title = "Joining classes: " + std::to_string(count.num_classes) + " are left where it begins to be dear";
  plot.x_label = "classes";
  plot.y_label = "cost of one class less";
  const std::size_t shown = std::min<std::size_t>(count.costs.size(), 3 * static_cast<std::size_t>(count.num_classes));
  svg::LinePlot::Line line{"cost", {}, {}};
  for (std::size_t i = 0; i < shown; ++i) {
    plot.columns.push_back(std::to_string(i + 2));
    line.means.push_back(count.costs[i]);
    line.deviations.push_back(0);
  }
  plot.lines.push_back(line);
  return svg::figure({plot}, 1);
}

std::string tuning_svg(const ClosenessSamples& closeness, const Candidate& chosen,
                       const std::vector<std::vector<double>>& penalties) {
  svg::Histogram pairs{"Closeness of pairs of patches", "closeness", "share of pairs", {}, -1, 1, {}};
  pairs.steps = {{"within images", closeness_shares(closeness.within)},
                 {"across images", closeness_shares(closeness.across)}};
  pairs.marks = {{"within", chosen.thresholds.within, 0}, {"across", chosen.thresholds.across, 1}};
  svg::Histogram labels{"Label penalty of the model chosen", "label penalty", "share of pairs", {}, 0, 1, {}};
  labels.steps = {{"within images", penalties.at(0)}, {"across images", penalties.at(1)}};
  return svg::figure({pairs, labels});
}

}  // namespace smooseg::app
