#pragma once

// What the other commands leave in a folder: of `train` the model and the log, of `evaluate` scores.

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/classes.hpp"
#include "settings/model.hpp"

namespace smooseg::app {

/// Beside a model, the folder of its scores.
inline constexpr auto kScoresFolder = "evaluation";

/// scores.json of `evaluate`, as far as a report shows it.
struct EvaluationScores {
  std::string data, split;
  int64_t resolution = 0, images = 0;
  bool flip = false;
  nlohmann::json crf;  ///< its settings by name, or false
  ClassTable classes;
  double accuracy = 0, miou = 0;
  std::vector<double> iou;                          ///< by class; NaN where it does not occur
  std::vector<int64_t> class_of_cluster;            ///< -1: none
  std::vector<std::vector<int64_t>> confusion;      ///< clusters x classes; empty in files from before it was kept
  std::optional<std::pair<double, double>> kmeans;  ///< accuracy and mIoU
};

/// One line of pictures.json.
struct PictureScore {
  std::string name;
  std::optional<double> accuracy;
};

/// A folder of results. What is not there is empty.
struct RunFolder {
  std::filesystem::path folder;
  std::string name;             ///< short, and different from those of other runs
  std::filesystem::path model;  ///< best.safetensors, else last.safetensors, else what scores.json says
  SettingValues settings;       ///< the model's
  ClassTable classes;           ///< the model's
  int64_t step = 0;             ///< the model's

  std::vector<nlohmann::json> log;  ///< objects with a "step", ascending
  std::optional<EvaluationScores> scores;
  std::vector<PictureScore> pictures;          ///< as `evaluate` scored them
  nlohmann::json comparison;                   ///< compare.json: a list of objects; null where there is none
  nlohmann::json sweep;                        ///< sweep.json, likewise
  std::map<std::string, double> milliseconds;  ///< of a step, by its parts, where the run was profiled (trace.json)
};

/// @param folder of `train` or `evaluate`, or one with a compare.json or sweep.json.
/// @throws std::runtime_error naming the folder where it holds none of these, or the file that is damaged.
RunFolder read_run_folder(const std::filesystem::path& folder);

/// All of them, with names that differ. @throws as `read_run_folder`.
std::vector<RunFolder> read_run_folders(const std::vector<std::string>& folders);

}  // namespace smooseg::app
