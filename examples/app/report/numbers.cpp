#include "report/numbers.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>

#include "report/html.hpp"
#include "report/sweep.hpp"
#include "support/moments.hpp"

namespace smooseg::app {
namespace {

using html::escaped;
using html::percent;
using Json = nlohmann::json;

/// A cell with a share in percent; the share itself is kept for scripts.
std::string share_cell(double share, const std::string& more = "") {
  return "<td class=\"n\" data-value=\"" + Json(share).dump() + "\">" + percent(share) + more + "</td>";
}

/// How many points more than another share, such as " (+1.2)"; nothing for the other itself.
std::string difference(double share, double other, bool is_other) {
  if (is_other || std::isnan(share) || std::isnan(other)) return "";
  const double points = 100 * (share - other);
  std::ostringstream text;
  text.precision(1);
  text << std::fixed << " <small class=\"" << (points >= 0 ? "up\">+" : "down\">−") << std::abs(points) << "</small>";
  return text.str();
}

std::string moments_cell(const std::vector<double>& values) {
  const Moments m = moments_of(values);
  return share_cell(m.mean, values.size() > 1 ? " <small>± " + percent(m.deviation) + "</small>" : "");
}

/// What distinguishes runs: their models' settings, and how they were scored.
SettingValues settings_of(const RunFolder& run) {
  SettingValues settings = run.settings;
  if (run.step > 0) settings["steps"] = std::to_string(run.step);
  if (!run.scores) return settings;
  settings["crf"] = run.scores->crf.is_object() ? "yes" : "no";
  settings["flip"] = run.scores->flip ? "yes" : "no";
  settings["scored at"] = std::to_string(run.scores->resolution);
  settings["split"] = run.scores->split;
  return settings;
}

std::string value_in(const SettingValues& settings, const std::string& key) {
  const auto found = settings.find(key);
  return found == settings.end() ? "" : found->second;
}

/// The settings in which runs differ.
std::vector<std::string> differing(const std::vector<RunFolder>& runs) {
  std::map<std::string, std::set<std::string>> values;
  for (const RunFolder& run : runs) {
    for (const auto& setting : settings_of(run)) values[setting.first];
  }
  std::vector<std::string> names;
  for (auto& [name, all] : values) {
    for (const RunFolder& run : runs) all.insert(value_in(settings_of(run), name));
    if (all.size() > 1) names.push_back(name);
  }
  return names;
}

/// Runs with scores by all their settings but the seed.
std::map<SettingValues, std::vector<const RunFolder*>> by_seed(const std::vector<RunFolder>& runs) {
  std::map<SettingValues, std::vector<const RunFolder*>> groups;
  for (const RunFolder& run : runs) {
    if (!run.scores || run.settings.empty()) continue;
    SettingValues settings = settings_of(run);
    settings.erase("seed");
    settings["data"] = run.scores->data;
    groups[settings].push_back(&run);
  }
  return groups;
}

}  // namespace

std::string summary_html(const std::vector<RunFolder>& runs) {
  const auto has_scores = [](const RunFolder& run) { return run.scores.has_value(); };
  const auto first = std::find_if(runs.begin(), runs.end(), has_scores);
  if (first == runs.end()) return "";
  const std::vector<std::string> settings = differing(runs);
  const bool kmeans =
      std::any_of(runs.begin(), runs.end(), [&](const auto& r) { return r.scores && r.scores->kmeans; });

  std::ostringstream out;
  out << "<div class=\"scroll\"><table id=\"summary\"><thead><tr><th>run<th class=\"n\">accuracy %<th class=\"n\">mIoU "
         "%";
  if (kmeans) out << "<th class=\"n\">k-means: accuracy %<th class=\"n\">mIoU %";
  out << "<th class=\"n\">pictures";
  for (const std::string& name : settings) out << "<th>" << escaped(name);
  out << "</tr></thead><tbody>\n";
  for (const RunFolder& run : runs) {
    if (!run.scores) continue;
    const EvaluationScores &s = *run.scores, &other = *first->scores;
    const bool is_first = &run == &*first;
    out << "<tr><th scope=\"row\">" << escaped(run.name) << "</th>"
        << share_cell(s.accuracy, difference(s.accuracy, other.accuracy, is_first))
        << share_cell(s.miou, difference(s.miou, other.miou, is_first));
    if (kmeans && s.kmeans) out << share_cell(s.kmeans->first) << share_cell(s.kmeans->second);
    if (kmeans && !s.kmeans) out << "<td class=\"n\">–<td class=\"n\">–";
    out << "<td class=\"n\">" << s.images;
    for (const std::string& name : settings) out << "<td>" << escaped(value_in(settings_of(run), name));
    out << "</tr>\n";
  }
  for (const auto& group : by_seed(runs)) {
    const auto& members = group.second;
    if (members.size() < 2) continue;
    std::vector<double> accuracies, mious;
    std::string seeds;
    for (const RunFolder* run : members) {
      accuracies.push_back(run->scores->accuracy);
      mious.push_back(run->scores->miou);
      seeds += (seeds.empty() ? "" : ", ") + value_in(run->settings, "seed");
    }
    out << "<tr class=\"mean\"><th scope=\"row\">mean of seeds " << escaped(seeds) << "</th>"
        << moments_cell(accuracies) << moments_cell(mious) << "<td colspan=\"" << settings.size() + (kmeans ? 3 : 1)
        << "\">± the standard deviation over " << members.size() << " runs</tr>\n";
  }
  out << "</tbody></table></div>\n";
  return out.str();
}

std::string iou_html(const std::vector<RunFolder>& runs) {
  std::vector<const RunFolder*> scored;
  for (const RunFolder& run : runs) {
    if (run.scores) scored.push_back(&run);
  }
  if (scored.empty()) return "";
  const EvaluationScores& first = *scored.front()->scores;
  std::vector<std::size_t> order(first.iou.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t c) { return std::isnan(first.iou[c]) ? -1 : first.iou[c]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return key(a) > key(b); });

  std::ostringstream out;
  out << "<div class=\"scroll\"><table id=\"iou\"><thead><tr><th>class";
  for (const RunFolder* run : scored) out << "<th>" << (scored.size() == 1 ? "IoU %" : escaped(run->name));
  out << "</tr></thead><tbody>\n";
  for (const std::size_t c : order) {
    out << "<tr data-class=\"" << c << "\"><th scope=\"row\"><i class=\"swatch c" << c << "\"></i>"
        << escaped(first.classes.names[c]) << "</th>";
    for (const RunFolder* run : scored) {
      const double iou = run->scores->iou[c];
      out << "<td class=\"bar\" data-value=\"" << Json(iou).dump() << "\"><i class=\"c" << c
          << "\" style=\"--v:" << (std::isnan(iou) ? "0" : html::number(iou)) << "\"></i><span>" << percent(iou)
          << difference(iou, first.iou[c], run == scored.front()) << "</span></td>";
    }
    out << "</tr>\n";
  }
  out << "</tbody></table></div>\n";
  return out.str();
}

std::string confusion_html(const RunFolder& run) {
  if (!run.scores || run.scores->confusion.empty()) return "";
  const EvaluationScores& s = *run.scores;
  const std::size_t classes = s.classes.names.size();
  std::vector<double> of_class(classes, 0);
  for (const auto& row : s.confusion) {
    for (std::size_t c = 0; c < classes; ++c) of_class[c] += static_cast<double>(row[c]);
  }
  // Clusters in the order of their classes, so that what is right stands on the diagonal; those without one come last.
  std::vector<std::size_t> order(s.confusion.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto matched = [&](std::size_t k) { return s.class_of_cluster[k] < 0 ? INT64_MAX : s.class_of_cluster[k]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return matched(a) < matched(b); });

  std::ostringstream out;
  out << "<div class=\"scroll\"><table class=\"heat\"><thead><tr><th>cluster → class";
  for (std::size_t c = 0; c < classes; ++c) {
    out << "<th scope=\"col\"><span><i class=\"swatch c" << c << "\"></i>" << escaped(s.classes.names[c]) << "</span>";
  }
  out << "</tr></thead><tbody>\n";
  for (const std::size_t k : order) {
    const int64_t own = s.class_of_cluster[k];
    out << "<tr data-cluster=\"" << k << "\"><th scope=\"row\">" << k << " → "
        << (own < 0 ? std::string("none")
                    : "<i class=\"swatch c" + std::to_string(own) + "\"></i>" +
                          escaped(s.classes.names[static_cast<std::size_t>(own)]))
        << "</th>";
    for (std::size_t c = 0; c < classes; ++c) {
      const auto count = static_cast<double>(s.confusion[k][c]);
      const double share = of_class[c] > 0 ? count / of_class[c] : 0;
      const char* const kinds = static_cast<int64_t>(c) == own
                                    ? (share > 0.75 ? " class=\"own deep\"" : " class=\"own\"")
                                    : (share > 0.75 ? " class=\"deep\"" : "");
      out << "<td" << kinds << " data-count=\"" << s.confusion[k][c] << "\" style=\"--v:" << html::number(share)
          << "\">" << (count > 0 ? percent(share) : "") << "</td>";
    }
    out << "</tr>\n";
  }
  out << "</tbody></table></div>\n";
  return out.str();
}

std::string comparison_html(const std::vector<RunFolder>& runs) {
  std::ostringstream out;
  for (const RunFolder& run : runs) {
    if (run.comparison.is_null()) continue;
    std::vector<std::string> methods;  // in the order of the file
    std::map<std::string, std::pair<std::vector<double>, std::vector<double>>> scores;
    try {
      for (const Json& result : run.comparison) {
        const auto method = result.at("method").get<std::string>();
        if (scores.count(method) == 0) methods.push_back(method);
        scores[method].first.push_back(result.at("accuracy").get<double>());
        scores[method].second.push_back(result.at("miou").get<double>());
      }
    } catch (const Json::exception& e) {
      throw std::runtime_error((run.folder / "compare.json").string() +
                               ": expected a list of objects with method, accuracy and miou: " + e.what());
    }
    out << "<h3>Methods compared: " << escaped(run.name)
        << "</h3><div class=\"scroll\"><table class=\"comparison\"><thead><tr><th>method<th class=\"n\">accuracy %"
           "<th class=\"n\">mIoU %<th class=\"n\">runs</tr></thead><tbody>\n";
    for (const std::string& method : methods) {
      const auto& [accuracies, mious] = scores[method];
      out << "<tr><th scope=\"row\">" << escaped(method) << "</th>" << moments_cell(accuracies) << moments_cell(mious)
          << "<td class=\"n\">" << accuracies.size() << "</tr>\n";
    }
    out << "</tbody></table></div>\n";
  }
  return out.str();
}

std::string sweep_html(const std::vector<RunFolder>& runs) {
  std::ostringstream out;
  for (const RunFolder& run : runs) {
    if (run.sweep.is_null()) continue;
    const auto results = sweep_results_from(run.sweep, (run.folder / "sweep.json").string());
    if (results.empty()) continue;
    out << "<h3>Settings swept over: " << escaped(run.name) << "</h3><div class=\"scroll\">" << sweep_svg(results)
        << "</div><div class=\"scroll\"><table class=\"sweep\"><thead><tr>";
    for (const auto& setting : results.front().settings) out << "<th class=\"n\">" << escaped(setting.first);
    out << "<th class=\"n\">accuracy %<th class=\"n\">mIoU %<th class=\"n\">seeds</tr></thead><tbody>\n";
    for (const SweepRow& row : rows_of(results)) {
      out << "<tr>";
      for (const auto& setting : row.settings) out << "<td class=\"n\">" << escaped(setting.second) << "</td>";
      out << moments_cell(row.accuracies) << moments_cell(row.mious) << "<td class=\"n\">" << row.mious.size()
          << "</tr>\n";
    }
    out << "</tbody></table></div>\n";
  }
  return out.str();
}

}  // namespace smooseg::app
