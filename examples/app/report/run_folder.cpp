#include "report/run_folder.hpp"

#include <cmath>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <utility>

#include "smooseg/io/safetensors.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// The JSON in a file; null where there is no such file.
Json read_json(const fs::path& path) {
  if (!fs::exists(path)) return {};
  std::ifstream file(path, std::ios::binary);
  const Json json = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) throw std::runtime_error(path.string() + ": expected JSON, found something else");
  return json;
}

/// What `read` makes of the JSON in a file, its complaints with the file's name.
template <class F>
void read_fields(const fs::path& path, const char* what, const F& read) {
  try {
    read();
  } catch (const Json::exception& e) {
    throw std::runtime_error(path.string() + ": expected " + what + ": " + e.what());
  }
}

/// One object for each step: the line of a validation joins that of the training. Lines cut off by a crash are left out.
std::vector<Json> read_log(const fs::path& path) {
  std::ifstream file(path);
  std::map<int64_t, Json> lines;
  for (std::string text; std::getline(file, text);) {
    const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) continue;
    lines[line["step"].get<int64_t>()].update(line);
  }
  std::vector<Json> log;
  for (auto& [step, line] : lines) log.push_back(std::move(line));
  return log;
}

EvaluationScores scores_from(const Json& json) {
  EvaluationScores scores;
  json.at("data").get_to(scores.data);
  json.at("split").get_to(scores.split);
  json.at("resolution").get_to(scores.resolution);
  json.at("images").get_to(scores.images);
  json.at("flip").get_to(scores.flip);
  scores.crf = json.at("crf");
  json.at("class_names").get_to(scores.classes.names);
  json.at("class_colors").get_to(scores.classes.colors);
  json.at("accuracy").get_to(scores.accuracy);
  json.at("miou").get_to(scores.miou);
  for (const std::string& name : scores.classes.names) {
    const Json& iou = json.at("iou").at(name);
    scores.iou.push_back(iou.is_null() ? NAN : iou.get<double>());
  }
  json.at("class_of_cluster").get_to(scores.class_of_cluster);
  if (json.contains("confusion")) json["confusion"].get_to(scores.confusion);
  if (json.contains("kmeans")) {
    scores.kmeans = {json["kmeans"].at("accuracy").get<double>(), json["kmeans"].at("miou").get<double>()};
  }
  return scores;
}

/// Whether sizes and numbers of classes fit each other.
void check(const EvaluationScores& s, const fs::path& path) {
  const auto classes = static_cast<int64_t>(s.classes.names.size());
  bool good = s.classes.colors.size() == s.classes.names.size() && s.resolution >= 1 && s.resolution <= 8192 &&
              (s.confusion.empty() || s.confusion.size() == s.class_of_cluster.size());
  for (const int64_t matched : s.class_of_cluster) good = good && matched >= -1 && matched < classes;
  for (const auto& row : s.confusion) good = good && static_cast<int64_t>(row.size()) == classes;
  if (!good) throw std::runtime_error(path.string() + ": damaged: its numbers of classes and clusters differ");
}

std::vector<PictureScore> read_pictures(const fs::path& path) {
  std::vector<PictureScore> pictures;
  read_fields(path, "the pictures.json of smooseg evaluate", [&] {
    for (const Json& picture : read_json(path)) {
      const Json& accuracy = picture.at("accuracy");
      pictures.push_back({picture.at("name").get<std::string>(),
                          accuracy.is_null() ? std::nullopt : std::optional(accuracy.get<double>())});
    }
  });
  return pictures;
}

/// The parts of the main thread in a trace of `train --profile`, in milliseconds for each step.
std::map<std::string, double> read_parts(const fs::path& path) {
  std::map<std::string, double> parts;
  const Json trace = read_json(path);
  if (trace.is_null()) return parts;
  double steps = 0;
  read_fields(path, "the trace.json of smooseg train", [&] {
    for (const Json& event : trace.at("traceEvents")) {
      if (event.at("ph") != "X" || event.at("tid") != 0) continue;
      const auto name = event.at("name").get<std::string>();
      parts[name] += event.at("dur").get<double>() / 1000;
      if (name == "optimiser") ++steps;
    }
  });
  for (auto& [name, time] : parts) time /= std::max(steps, 1.0);
  return parts;
}

}  // namespace

RunFolder read_run_folder(const fs::path& folder) {
  if (!fs::is_directory(folder)) {
    throw std::runtime_error(folder.string() + ": expected the folder of a run of smooseg train, found " +
                             (fs::exists(folder) ? "a file" : "nothing of this name"));
  }
  RunFolder run;
  run.folder = folder;
  run.log = read_log(folder / "log.jsonl");
  run.comparison = read_json(folder / "compare.json");
  run.sweep = read_json(folder / "sweep.json");
  run.milliseconds = read_parts(folder / "trace.json");

  const fs::path evaluation = fs::exists(folder / "scores.json") ? folder : folder / kScoresFolder;
  const fs::path file = evaluation / "scores.json";
  const Json scores = read_json(file);
  if (!scores.is_null()) {
    read_fields(file, "the scores.json of smooseg evaluate", [&] { run.scores = scores_from(scores); });
    check(*run.scores, file);
    run.pictures = read_pictures(evaluation / "pictures.json");
  }
  std::vector<fs::path> models{folder / "best.safetensors", folder / "last.safetensors"};
  if (scores.contains("model") && scores["model"].is_string()) models.emplace_back(scores["model"].get<std::string>());
  for (const fs::path& model : models) {
    if (!run.model.empty() || !fs::exists(model)) continue;
    run.model = model;
    auto metadata = io::read_safetensors_metadata(model.string());
    read_fields(model, "a model of smooseg", [&] {
      run.settings = Json::parse(metadata["settings"]).get<SettingValues>();
      run.step = Json::parse(metadata["step"]).get<int64_t>();
    });
    run.classes = classes_from_json(metadata["classes"], model.string());
  }
  if (run.model.empty() && !run.scores && run.log.empty() && run.comparison.is_null() && run.sweep.is_null()) {
    throw std::runtime_error(
        folder.string() +
        ": expected the folder of a run of smooseg train or evaluate, found neither model, log.jsonl "
        "nor scores.json in it");
  }
  return run;
}

std::vector<RunFolder> read_run_folders(const std::vector<std::string>& folders) {
  std::vector<RunFolder> runs;
  std::map<std::string, int> uses;
  for (const std::string& folder : folders) {
    runs.push_back(read_run_folder(folder));
    const fs::path path = fs::canonical(folder);
    runs.back().name = path.filename().string();
    ++uses[runs.back().name];
  }
  std::set<std::string> taken;
  for (RunFolder& run : runs) {
    const fs::path path = fs::canonical(run.folder);
    if (uses[run.name] > 1) run.name = path.parent_path().filename().string() + "/" + run.name;
    const std::string base = run.name;
    for (int n = 2; !taken.insert(run.name).second; ++n) run.name = base + " (" + std::to_string(n) + ")";
  }
  return runs;
}

}  // namespace smooseg::app
