#include "report/sweep.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iomanip>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "report/html.hpp"
#include "report/svg.hpp"
#include "support/moments.hpp"

namespace smooseg::app {
namespace {

using Json = nlohmann::json;

/// A value as JSON: a number where it is one.
Json json_of(const std::string& value) {
  const Json number = Json::parse(value, nullptr, /*allow_exceptions=*/false);
  return number.is_number() ? number : Json(value);
}

/// The values of a setting, numbers by their size.
std::vector<std::string> values_in(const std::vector<SweepRow>& rows, const std::string& name) {
  std::vector<std::string> values;
  for (const SweepRow& row : rows) {
    const std::string& value = row.settings.at(name);
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  const auto is_number = [](const std::string& value) { return json_of(value).is_number(); };
  if (!std::all_of(values.begin(), values.end(), is_number)) return values;
  const auto number = [](const std::string& value) { return json_of(value).get<double>(); };
  std::sort(values.begin(), values.end(), [&](const auto& a, const auto& b) { return number(a) < number(b); });
  return values;
}

struct Score {
  const char* title;
  const std::vector<double> SweepRow::*values;
};
constexpr Score kScores[]{{"Accuracy %", &SweepRow::accuracies}, {"Mean IoU %", &SweepRow::mious}};

svg::Plot lines_of(const std::vector<SweepRow>& rows, const Score& score, const std::string& name) {
  svg::LinePlot plot;
  plot.title = score.title;
  plot.x_label = name;
  plot.y_label = score.title;
  plot.columns = values_in(rows, name);
  svg::LinePlot::Line line;
  for (const std::string& value : plot.columns) {
    const auto row =
        std::find_if(rows.begin(), rows.end(), [&](const SweepRow& r) { return r.settings.at(name) == value; });
    const Moments moments = moments_of((*row).*score.values);
    line.means.push_back(100 * moments.mean);
    line.deviations.push_back(100 * moments.deviation);
  }
  plot.lines.push_back(std::move(line));
  return plot;
}

svg::Plot heat_of(const std::vector<SweepRow>& rows, const Score& score, const std::string& down,
                  const std::string& across) {
  svg::HeatMap plot;
  plot.title = score.title;
  plot.x_label = across;
  plot.y_label = down;
  plot.columns = values_in(rows, across);
  plot.rows = values_in(rows, down);
  plot.values.assign(plot.rows.size(), std::vector<double>(plot.columns.size(), NAN));
  const auto place = [](const std::vector<std::string>& values, const std::string& value) {
    return static_cast<std::size_t>(std::find(values.begin(), values.end(), value) - values.begin());
  };
  for (const SweepRow& row : rows) {
    plot.values[place(plot.rows, row.settings.at(down))][place(plot.columns, row.settings.at(across))] =
        100 * moments_of(row.*score.values).mean;
  }
  return plot;
}

std::string moments_text(const std::vector<double>& values) {
  const Moments moments = moments_of(values);
  return html::percent(moments.mean) + (values.size() > 1 ? " ± " + html::percent(moments.deviation) : "");
}

}  // namespace

Json to_json(const std::vector<SweepResult>& results) {
  Json list = Json::array();
  for (const SweepResult& result : results) {
    Json settings = Json::object();
    for (const auto& [name, value] : result.settings) settings[name] = json_of(value);
    list.push_back(
        {{"settings", settings}, {"seed", result.seed}, {"accuracy", result.accuracy}, {"miou", result.miou}});
  }
  return list;
}

std::vector<SweepResult> sweep_results_from(const Json& json, const std::string& source) {
  std::vector<SweepResult> results;
  try {
    for (const Json& object : json) {
      SweepResult result;
      for (const auto& [name, value] : object.at("settings").items()) {
        result.settings[name] = value.is_string() ? value.get<std::string>() : value.dump();
      }
      object.at("seed").get_to(result.seed);
      object.at("accuracy").get_to(result.accuracy);
      object.at("miou").get_to(result.miou);
      const bool alike = results.empty() || std::equal(result.settings.begin(), result.settings.end(),
                                                       results.front().settings.begin(), results.front().settings.end(),
                                                       [](const auto& a, const auto& b) { return a.first == b.first; });
      if (!alike) throw std::runtime_error(source + ": expected results of the same settings, found others");
      results.push_back(std::move(result));
    }
  } catch (const Json::exception& e) {
    throw std::runtime_error(source + ": expected the sweep.json of smooseg sweep: " + e.what());
  }
  return results;
}

std::string sweep_csv(const std::vector<SweepResult>& results) {
  std::ostringstream out;
  if (!results.empty()) {
    for (const auto& setting : results.front().settings) out << setting.first << ",";
  }
  out << "seed,accuracy,miou\n";
  for (const SweepResult& result : results) {
    for (const auto& setting : result.settings) out << setting.second << ",";
    out << result.seed << "," << Json(result.accuracy) << "," << Json(result.miou) << "\n";
  }
  return out.str();
}

std::vector<SweepRow> rows_of(const std::vector<SweepResult>& results) {
  std::vector<SweepRow> rows;
  for (const SweepResult& result : results) {
    auto row = std::find_if(rows.begin(), rows.end(),
                            [&](const SweepRow& candidate) { return candidate.settings == result.settings; });
    if (row == rows.end()) row = rows.insert(rows.end(), {result.settings, {}, {}});
    row->accuracies.push_back(result.accuracy);
    row->mious.push_back(result.miou);
  }
  return rows;
}

void print_sweep(std::ostream& out, const std::vector<SweepResult>& results) {
  std::vector<std::vector<std::string>> table(1);
  const std::vector<SweepRow> rows = rows_of(results);
  if (rows.empty()) return;
  for (const auto& setting : rows.front().settings) table.front().push_back(setting.first);
  for (const char* title : {"accuracy %", "mIoU %", "seeds"}) table.front().emplace_back(title);
  for (const SweepRow& row : rows) {
    table.emplace_back();
    for (const auto& setting : row.settings) table.back().push_back(setting.second);
    table.back().push_back(moments_text(row.accuracies));
    table.back().push_back(moments_text(row.mious));
    table.back().push_back(std::to_string(row.mious.size()));
  }
  // '±' has two bytes and the width of one.
  const auto width = [](const std::string& cell) {
    return cell.size() - (cell.find("±") == std::string::npos ? 0 : 1);
  };
  for (const auto& line : table) {
    for (std::size_t c = 0; c < line.size(); ++c) {
      std::size_t widest = 0;
      for (const auto& other : table) widest = std::max(widest, width(other[c]));
      out << (c == 0 ? "" : "  ") << std::string(widest - width(line[c]), ' ') << line[c];
    }
    out << "\n";
  }
}

std::string sweep_svg(const std::vector<SweepResult>& results) {
  const std::vector<SweepRow> rows = rows_of(results);
  std::vector<std::string> varied;
  if (!rows.empty()) {
    for (const auto& setting : rows.front().settings) {
      if (values_in(rows, setting.first).size() > 1) varied.push_back(setting.first);
    }
  }
  if (varied.empty() || varied.size() > 2) return "";
  std::vector<svg::Plot> plots;
  for (const Score& score : kScores) {
    plots.push_back(varied.size() == 1 ? lines_of(rows, score, varied[0]) : heat_of(rows, score, varied[0], varied[1]));
  }
  return svg::figure(plots);
}

}  // namespace smooseg::app
