#pragma once

// Features of pictures that another program computed, in files.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "data/dataset.hpp"
#include "settings/model.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "support/hash.hpp"

namespace smooseg::app {

/// A folder with one safetensors file for each picture, its name the picture's with another ending: of the picture
/// images/train/aachen/0001.png of a data set FOLDER/train/aachen/0001.safetensors, of a/0001.jpg in any other folder
/// FOLDER/a/0001.safetensors. Each holds a tensor "features" of shape (C,h,w), float32, float16, bfloat16 or float64: a
/// vector for each cell of a grid over the whole picture, the first in its upper left corner. What else is in a file is
/// not looked at.
class FeatureFiles {
 public:
  /// @throws std::runtime_error naming --features-dir where there is no such folder.
  explicit FeatureFiles(std::filesystem::path folder);

  /// The file of the picture of this name (without an ending).
  std::filesystem::path path_of(const std::string& picture) const;

  /// Makes `read` refuse any other number of channels. @param whose who wants it, for the error: "the model".
  void expect_channels(int64_t channels, const std::string& whose);

  /// A picture's features. Uses the calling thread alone.
  /// @return (C,h,w) float32.
  /// @throws std::runtime_error "PATH: expected ..., found ..." where there is no such file, no such tensor in it, or one
  ///   of another shape or dtype, or with a value that is not finite.
  Tensor read(const std::string& picture) const;

 private:
  std::filesystem::path folder_;
  int64_t channels_ = 0;  // 0: any number
  std::string whose_;
};

/// The name of a picture for `FeatureFiles`: with the split, where the data set has any.
std::string feature_name(const Dataset& dataset, const Sample& sample);

/// The files of `--features-dir`, for the backbone "features"; nothing for any other.
/// @throws std::runtime_error naming the option where backbone and folder do not go together.
std::optional<FeatureFiles> open_feature_files(const ModelSettings& settings, const std::string& folder);

}  // namespace smooseg::app
