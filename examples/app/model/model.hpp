#pragma once

// What training makes and the other commands use: the segmenter, with its settings and classes, in one file.

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "data/classes.hpp"
#include "data/feature_files.hpp"
#include "settings/model.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

struct Model {
  ModelSettings settings;
  ClassTable classes;     ///< the data set's, or "class 0", "class 1", ... where it names none
  int64_t step = 0;       ///< training steps done
  int64_t processes = 1;  ///< that trained it together
  std::string data;       ///< hash of the pictures that it was trained on; empty in files from before it was noted
  std::string module;     ///< SHA-256 of the exported module that is its backbone; empty for other backbones
  Segmenter segmenter{nullptr};
  Tensor position_basis;  ///< (C,R) of `--debias`, what training leaves out of closeness; undefined without
};

/// What must be known beside the settings of backbones that no file of a model holds.
struct BackboneSource {
  std::string module;    ///< file of the exported module
  int64_t channels = 0;  ///< of the features that files hold
};

/// A frozen backbone in evaluation mode, without weights yet, but for an exported module, which is whole.
std::shared_ptr<backbone::Backbone> make_backbone(const ModelSettings& settings, const BackboneSource& source = {});

/// A backbone with a new projector and new prototypes, on the CPU. Draws them from LibTorch's default generator.
Segmenter make_segmenter(std::shared_ptr<backbone::Backbone> backbone, const ModelSettings& settings,
                         const SegmenterOptions& options = {});

/// A new model; the backbone has no weights yet. Draws its parameters from LibTorch's default generator.
Model make_model(const ModelSettings& settings, const ClassTable& classes, const SegmenterOptions& options = {},
                 const BackboneSource& source = {});

/// @param extra more tensors for the same file, of which training goes on, under names that begin as those of
///   `Learner::state`.
void save_model(const std::filesystem::path& path, const Model& model, const io::TensorMap& extra = {});

/// Whether a model file holds all of its backbone: not where that is an exported module or features of files. True of
/// what is no model file.
bool holds_backbone(const std::filesystem::path& path);

/// The tensors whose names begin with a prefix, without it.
io::TensorMap tensors_under(const std::string& prefix, const io::TensorMap& tensors);

struct LoadedModel {
  Model model;
  io::TensorMap extra;
};

/// Whether this file is a model of this program, of any version of its format; false where there is none.
bool is_model(const std::filesystem::path& path);

/// @param module the file of the exported module that is the model's backbone: a model file holds none, since a module
///   is code, which nobody should run unasked.
/// @throws c10::Error or std::runtime_error naming the file where it is missing, damaged or no model of this program;
///   naming --weights where the module is missing, another, or not wanted.
LoadedModel load_model(const std::filesystem::path& path, torch::Device device, const SegmenterOptions& options = {},
                       const std::string& module = "");

/// The features that a model sees in the place of pictures, if its backbone is that of files.
/// @param flip whether mirror images are wanted too.
/// @throws std::runtime_error naming the option where model, folder and flip do not go together.
std::optional<FeatureFiles> model_feature_files(const Model& model, const std::string& folder, bool flip);

}  // namespace smooseg::app
