#include "features/feature_cache.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/io/load.hpp"
#include "support/disk.hpp"
#include "support/file_lock.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

constexpr auto kFormat = "smooseg features 1";

/// Bytes of a shard's file beyond the tensors: its header, and what the file system adds.
constexpr int64_t kShardOverhead = 8192;

/// The hash of each row: (n,...) -> (n,2) int64.
Tensor checksums_of(const Tensor& rows) {
  const int64_t n = rows.size(0);
  const auto bytes = static_cast<std::size_t>(rows.numel() / n) * rows.element_size();
  const auto* const first = static_cast<const char*>(rows.data_ptr());
  const Tensor result = torch::empty({n, 2}, torch::kInt64);
  auto* target = result.data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    const Hash hash = hash_of(first + static_cast<std::size_t>(i) * bytes, bytes);
    std::memcpy(target + 2 * i, &hash, sizeof hash);
  }
  return result;
}

/// Removes what killed writers left, while the folder is locked.
void remove_temporaries(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(".smooseg-", 0) == 0 && entry.path().extension() == ".tmp") fs::remove(entry.path(), error);
  }
}

}  // namespace

Hash hash_of(const io::TensorMap& tensors) {
  std::ostringstream text;
  for (const auto& [name, value] : tensors) {
    const Tensor tensor = value.detach().to(torch::kCPU).contiguous();
    text << name << " " << tensor.scalar_type() << " " << tensor.sizes() << " "
         << hash_of(tensor.data_ptr(), tensor.nbytes()).hex() << "\n";
  }
  return hash_of(text.str());
}

Hash hash_of(const torch::nn::Module& module) {
  return hash_of(io::tensors_of(module));
}

FeatureCache::FeatureCache(const fs::path& folder, const FeatureRecipe& recipe, const std::vector<Hash>& pictures,
                           const Crops& crops, std::vector<int64_t> shape, torch::ScalarType dtype, int threads)
    : root_(folder),
      recipe_(recipe),
      crops_(crops.count()),
      shape_(std::move(shape)),
      dtype_(dtype),
      threads_(threads) {
  recipe_["format"] = kFormat;
  recipe_["dtype"] = c10::toString(dtype);
  const std::string key = hash_of(nlohmann::json(recipe_).dump()).hex();
  folder_ = folder / key;
  shards_.resize(static_cast<std::size_t>((crops_ + kShardCrops - 1) / kShardCrops));
  for (int64_t number = 0; number < shard_count(); ++number) {
    std::string content = key;
    const Range range = crops_of(number);
    for (int64_t i = range.begin; i < range.end; ++i) {
      content += " " + pictures.at(static_cast<std::size_t>(crops.picture_of(i))).hex() + " " +
                 std::to_string(i % crops.per_picture());
    }
    Shard& shard = shards_[static_cast<std::size_t>(number)];
    shard.key = hash_of(content).hex();
    shard.path = (folder_ / (shard.key + ".safetensors")).string();
  }
}

FeatureCache::Range FeatureCache::crops_of(int64_t shard) const {
  return {shard * kShardCrops, std::min((shard + 1) * kShardCrops, crops_)};
}

std::vector<int64_t> FeatureCache::shape_of(int64_t shard) const {
  const Range range = crops_of(shard);
  std::vector<int64_t> sizes{range.end - range.begin};
  sizes.insert(sizes.end(), shape_.begin(), shape_.end());
  return sizes;
}

/// Opens a shard's file if it is whole and right. Returns what is wrong with it; "" also where there is none.
std::string FeatureCache::open(int64_t number) {
  Shard& shard = shards_[static_cast<std::size_t>(number)];
  const std::string& path = shard.path;
  std::error_code error;
  if (!fs::exists(path, error)) return "";
  try {
    auto [tensors, metadata] = io::read_safetensors_content(path);
    if (metadata["key"] != shard.key) return path + ": not of this cache: made from other pictures or weights";
    const Tensor features = tensors["features"], checksums = tensors["checksums"];
    if (!features.defined() || features.sizes() != c10::IntArrayRef(shape_of(number)) ||
        features.scalar_type() != dtype_ || !checksums.defined() || !checksums_of(features).equal(checksums)) {
      return path + ": damaged: its features do not match their checksums";
    }
    shard.features = features;
    return "";
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  }
}

/// Opens those that are not open yet, and returns those that cannot be.
std::vector<int64_t> FeatureCache::open_all(std::ostream& err) {
  std::vector<std::string> problems(shards_.size());
  smooseg::detail::parallel_for(shard_count(), threads_, [&](int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    if (!shards_[at].features.defined()) problems[at] = open(i);
  });
  std::vector<int64_t> missing;
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    if (!problems[i].empty()) err << problems[i] << "; its features are computed again" << std::endl;
    if (!shards_[i].features.defined()) missing.push_back(static_cast<int64_t>(i));
  }
  return missing;
}

void FeatureCache::check_space(const std::vector<int64_t>& missing, std::ostream& err) const {
  const int64_t row = c10::multiply_integers(shape_) * static_cast<int64_t>(c10::elementSize(dtype_));
  int64_t needed = 0;
  for (const int64_t shard : missing) {
    const Range range = crops_of(shard);
    needed += (range.end - range.begin) * (row + 2 * static_cast<int64_t>(sizeof(int64_t))) + kShardOverhead;
  }
  std::error_code error;
  const uintmax_t available = fs::space(folder_, error).available;  // the highest number where nobody knows
  err << root_.string() << ": " << crops_ << " crops take " << readable_bytes(static_cast<double>(crops_ * row))
      << ", of which " << readable_bytes(static_cast<double>(needed))
      << " are to be written; free: " << readable_bytes(static_cast<double>(available)) << std::endl;
  if (static_cast<uintmax_t>(needed) > available) {
    throw std::runtime_error(root_.string() + ": the disk is too small for the features: needed are " +
                             std::to_string(needed) + " bytes, free " + std::to_string(available) +
                             "; --feature-dtype float16 halves them");
  }
}

void FeatureCache::fill(const std::function<void(const std::vector<int64_t>&)>& compute, std::ostream& err,
                        Processes& processes) {
  const bool lacks_some = !open_all(err).empty();  // which needs no right to write
  if (processes.highest(lacks_some ? 1 : 0) == 0) return;
  std::optional<FileLock> lock;  // the first process holds it for all
  std::ostringstream said_before;
  std::vector<int64_t> missing;
  if (processes.is_first()) {
    make_folder(folder_, "--cache");
    lock.emplace(folder_ / ".lock");
    if (lock->busy()) err << folder_.string() << ": waiting for another run that fills it" << std::endl;
    lock->wait();
    missing = open_all(said_before);  // another run may have filled it meanwhile
    if (!missing.empty()) {
      remove_temporaries(folder_);
      check_space(missing, err);
    }
  }
  missing = processes.share_of(processes.broadcast(missing));
  if (!missing.empty()) compute(missing);
  processes.barrier();
  TORCH_CHECK(!processes.several() || open_all(said_before).empty(), root_.string(),
              ": does not hold what other processes stored: --cache must be a folder that all of them see");
}

void FeatureCache::store(int64_t number, const Tensor& features) {
  const Tensor rows = features.detach().to(torch::kCPU).contiguous();
  TORCH_CHECK(rows.sizes() == c10::IntArrayRef(shape_of(number)) && rows.scalar_type() == dtype_,
              "FeatureCache::store: expected features of shape ", c10::IntArrayRef(shape_of(number)), ", ", dtype_,
              ", got ", smooseg::detail::shape_of(rows), ", ", rows.scalar_type());
  Shard& shard = shards_.at(static_cast<std::size_t>(number));
  auto metadata = recipe_;
  metadata["key"] = shard.key;
  io::write_safetensors(shard.path, {{"features", rows}, {"checksums", checksums_of(rows)}}, metadata);
  shard.features = io::read_safetensors(shard.path).at("features");
}

Tensor FeatureCache::shard_features(int64_t shard) const {
  const Tensor& features = shards_.at(static_cast<std::size_t>(shard)).features;
  TORCH_CHECK(features.defined(), "FeatureCache: shard ", shard, " is not open; call `fill` before");
  return features;
}

Tensor FeatureCache::features(int64_t crop) const {
  return shard_features(crop / kShardCrops)[crop % kShardCrops];
}

}  // namespace smooseg::app
