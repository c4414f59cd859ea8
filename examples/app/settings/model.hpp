#pragma once

// What training makes and the other commands use: the segmenter, with its settings and classes, in one file.

#include <torch/types.h>

#include <CLI/App.hpp>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "data/classes.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

/// The settings that decide what a training run ends with. The defaults are the paper's for Cityscapes.
struct ModelSettings {
  std::string backbone = "texture";
  std::string features = "tokens";
  int64_t textons = 128;
  double texton_sharpness = 10;
  double position = 1;

  int64_t classes = 0;  ///< 0: as many as classes.json names
  int64_t embed_dim = 64;
  double dropout = 0.2;
  double momentum = 0.998;

  double within_threshold = -0.02;
  double across_threshold = 0.5;
  double temperature = 0.1;
  std::string centering = "row-keep-mean";
  std::string reduction = "mean";

  int64_t resolution = 224;
  std::string crops = "center";
  std::string feature_dtype = "float32";
  int64_t batch = 32;
  double projector_rate = 1e-4;
  double predictor_rate = 5e-4;
  std::string teacher_update = "before";
  uint64_t seed = 0;
};

/// Adds an option for each setting.
void add_options(CLI::App& command, ModelSettings& settings);

/// Adds only those that decide the features of training crops, but for the seed.
void add_feature_options(CLI::App& command, ModelSettings& settings);

/// Option names (without dashes) and values, as they stand in a model file.
using SettingValues = std::map<std::string, std::string>;
SettingValues values_of(const ModelSettings& settings);

/// Those of `add_feature_options`.
SettingValues feature_settings(const ModelSettings& settings);

/// @throws std::runtime_error naming `source` for an unknown name or a value out of range.
ModelSettings settings_from(const SettingValues& values, const std::string& source);

EnergyOptions energy_options(const ModelSettings& settings);

struct Model {
  ModelSettings settings;
  ClassTable classes;  ///< the data set's, or "class 0", "class 1", ... where it names none
  int64_t step = 0;    ///< training steps done
  std::string data;    ///< hash of the pictures that it was trained on; empty in files from before it was noted
  Segmenter segmenter{nullptr};
};

/// A frozen backbone in evaluation mode, without weights yet.
std::shared_ptr<backbone::Backbone> make_backbone(const ModelSettings& settings);

/// A new model; the backbone has no weights yet. Draws its parameters from LibTorch's default generator.
Model make_model(const ModelSettings& settings, const ClassTable& classes);

/// @param extra more tensors for the same file (the optimiser's), under names that begin with "optimizer.".
void save_model(const std::filesystem::path& path, const Model& model, const io::TensorMap& extra = {});

struct LoadedModel {
  Model model;
  io::TensorMap extra;
};

/// Whether this file is a model of this program, of any version of its format; false where there is none.
bool is_model(const std::filesystem::path& path);

/// @throws c10::Error or std::runtime_error naming the file where it is missing, damaged or no model of this program.
LoadedModel load_model(const std::filesystem::path& path, torch::Device device, const SegmenterOptions& options = {});

}  // namespace smooseg::app
