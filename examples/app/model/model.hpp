#pragma once

// What training makes and the other commands use: the segmenter, with its settings and classes, in one file.

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "data/classes.hpp"
#include "settings/model.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

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
Model make_model(const ModelSettings& settings, const ClassTable& classes, const SegmenterOptions& options = {});

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
