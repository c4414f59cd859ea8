#pragma once

// Features of training crops on disk, for later runs and for several at a time.

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "data/crops.hpp"
#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support/processes.hpp"

namespace smooseg::app {

/// What features depend on besides the pictures, by name: the backbone's options and weights, the transform, versions.
/// Two runs whose recipes and pictures are equal share their features.
using FeatureRecipe = std::map<std::string, std::string>;

/// The contents of tensors, or of all parameters and buffers: names, dtypes, shapes and bytes.
Hash hash_of(const io::TensorMap& tensors);
Hash hash_of(const torch::nn::Module& module);

/// Features of all crops of a data set, in shards of `kShardCrops` crops:
///
///     FOLDER/<hash of the recipe>/<hash of recipe and pictures>.safetensors
///
/// each with "features" (n,C,h,w), "checksums" (n,2) int64 (the 128-bit hash of each crop's features), and the recipe
/// as metadata. A shard is found by what it is made from, so that stale ones are never looked at, and used only if its
/// name, shapes, dtype and checksums are right. Shards appear whole or not at all. A run that fills a folder locks it;
/// another waits, and finds the work done.
class FeatureCache {
 public:
  static constexpr int64_t kShardCrops = 64;

  /// Computes nothing and touches no file.
  /// @param pictures contents of the pictures, as `Crops::picture_hashes` gives them.
  /// @param shape (C,h,w) of a crop's features. @param dtype float32 or float16.
  /// @param threads to check shards on.
  FeatureCache(const std::filesystem::path& folder, const FeatureRecipe& recipe, const std::vector<Hash>& pictures,
               const Crops& crops, std::vector<int64_t> shape, torch::ScalarType dtype, int threads);

  int64_t shard_count() const { return static_cast<int64_t>(shards_.size()); }

  /// The crops of a shard: begin, ..., end - 1.
  struct Range {
    int64_t begin, end;
  };
  Range crops_of(int64_t shard) const;

  /// Opens all shards. Where some are missing or unusable, says how much is to be written, and calls `compute` with
  /// their numbers, of several processes with those of this one's share, which stores each; says so to `err`, as it does
  /// of damaged files.
  /// @throws std::runtime_error naming the folder where it cannot be written or its disk is too small, with the bytes
  ///   needed and free, or where other processes do not see it; what `compute` throws. What was stored until then stays
  ///   usable.
  void fill(const std::function<void(const std::vector<int64_t>&)>& compute, std::ostream& err,
            Processes& processes = *Processes::alone());

  /// Writes and opens a shard.
  /// @param features (n,C,h,w) of its crops, in the cache's dtype, on any device.
  void store(int64_t shard, const Tensor& features);

  /// A shard's features, after `fill`: (n,C,h,w) in the cache's dtype, mapped from the file.
  Tensor shard_features(int64_t shard) const;

  /// A crop's features, after `fill`: (C,h,w). From any thread.
  Tensor features(int64_t crop) const;

 private:
  struct Shard {
    std::string key, path;
    Tensor features;  // undefined until it is opened
  };

  std::vector<int64_t> shape_of(int64_t shard) const;
  std::string open(int64_t shard);
  std::vector<int64_t> open_all(std::ostream& err);
  void check_space(const std::vector<int64_t>& missing, std::ostream& err) const;

  std::filesystem::path root_, folder_;
  FeatureRecipe recipe_;
  int64_t crops_;
  std::vector<int64_t> shape_;
  torch::ScalarType dtype_;
  int threads_;
  std::vector<Shard> shards_;
};

}  // namespace smooseg::app
