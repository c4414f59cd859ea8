#include "features/feature_loader.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "smooseg/detail/host_copy.hpp"
#include "support/profiler.hpp"
#include "support/progress.hpp"

namespace smooseg::app {
namespace {

constexpr int64_t kGroup = GroupedFeatures::kGroupCrops;
static_assert(FeatureCache::kShardCrops % kGroup == 0, "a shard holds whole groups");

int64_t group_count(int64_t crops) {
  return (crops + kGroup - 1) / kGroup;
}

std::vector<int64_t> crops_of_group(int64_t group, int64_t count) {
  std::vector<int64_t> crops(static_cast<std::size_t>(std::min(kGroup, count - group * kGroup)));
  std::iota(crops.begin(), crops.end(), group * kGroup);
  return crops;
}

/// Crops as the backbone takes them.
Tensor images_of(const FeatureSource& source, const std::vector<int64_t>& crops) {
  return smooseg::detail::pinned_for(source.device, source.crops.images(crops, normalization_of(source.backbone)));
}

/// Features of images, rounded to the dtype in which they are kept.
Tensor compute(const FeatureSource& source, const Tensor& images) {
  return timed("backbone", [&] {
    const torch::NoGradGuard no_grad;
    const Tensor features =
        source.backbone.features(smooseg::detail::to_device(images, source.device)).to(torch::kFloat32);
    if (source.dtype == torch::kFloat16) {
      const double largest = features.abs().max().item<double>(), limit = std::numeric_limits<c10::Half>::max();
      TORCH_CHECK(!(largest > limit) || std::isinf(largest), "features of up to ", largest,
                  " are more than float16 holds, ", limit, ": use --feature-dtype float32");
    }
    return features.to(source.dtype);
  });
}

}  // namespace

GroupedFeatures::GroupedFeatures(const FeatureSource& source, std::vector<int64_t> groups)
    : source_(source),
      groups_(std::move(groups)),
      images_(static_cast<int64_t>(groups_.size()), source_.workers, source_.workers + 1, [this](int64_t i) {
        return timed("decode", [&] {
          return images_of(source_, crops_of_group(groups_[static_cast<std::size_t>(i)], source_.crops.count()));
        });
      }) {}

Tensor GroupedFeatures::next() {
  return compute(source_, timed("wait", [this] { return images_.next(); }));
}

std::vector<int64_t> feature_shape(const FeatureSource& source) {
  const int64_t side = source.crops.resolution() / source.backbone.patch_size();
  return {source.backbone.channels(), side, side};
}

void fill_cache(FeatureCache& cache, const FeatureSource& source, std::ostream& err) {
  const auto compute_missing = [&](const std::vector<int64_t>& shards) {
    std::vector<int64_t> groups;
    for (const int64_t shard : shards) {
      const auto range = cache.crops_of(shard);
      for (int64_t g = range.begin / kGroup; g < group_count(range.end); ++g) groups.push_back(g);
    }
    GroupedFeatures computed(source, groups);
    Progress progress(err, 0, static_cast<int64_t>(shards.size()));
    int64_t done = 0;
    for (const int64_t shard : shards) {
      const auto range = cache.crops_of(shard);
      std::vector<Tensor> parts;
      for (int64_t g = 0; g < group_count(range.end - range.begin); ++g) parts.push_back(computed.next());
      timed("store", [&] { cache.store(shard, torch::cat(parts)); });
      progress.show(++done, "shards of features");
    }
  };
  cache.fill(compute_missing, err, *source.processes);
}

FeatureLoader::FeatureLoader(const FeatureSource& source, std::unique_ptr<FeatureCache> cache, int64_t batches,
                             std::function<std::vector<int64_t>(int64_t)> batch, std::ostream& err)
    : source_(source), cache_(std::move(cache)), batch_(std::move(batch)) {
  if (cache_) fill_cache(*cache_, source_, err);
  auto sizes = feature_shape(source_);
  sizes.insert(sizes.begin(), source_.crops.count());
  if (c10::multiply_integers(sizes) * static_cast<int64_t>(c10::elementSize(source_.dtype)) <= source_.max_bytes) {
    memory_ = torch::empty(sizes, torch::device(source_.device).dtype(source_.dtype));
    cache_ ? copy_cache() : plan_groups(batches);
  } else {
    read_ahead(batches);
  }
}

/// Copies the whole cache into memory, and closes it.
void FeatureLoader::copy_cache() {
  for (int64_t shard = 0; shard < cache_->shard_count(); ++shard) {
    const auto range = cache_->crops_of(shard);
    memory_.slice(0, range.begin, range.end).copy_(cache_->shard_features(shard));
  }
  filled_.assign(static_cast<std::size_t>(group_count(memory_.size(0))), true);
  cache_.reset();
}

/// Begins to decode the pictures of the groups that will be needed, in the order in which they will.
void FeatureLoader::plan_groups(int64_t batches) {
  filled_.assign(static_cast<std::size_t>(group_count(memory_.size(0))), false);
  std::vector<bool> planned = filled_;
  for (int64_t i = 0; i < batches && groups_in_order_of_need_.size() < planned.size(); ++i) {
    for (const int64_t crop : batch_(i)) {
      const int64_t group = crop / kGroup;
      if (planned[static_cast<std::size_t>(group)]) continue;
      planned[static_cast<std::size_t>(group)] = true;
      groups_in_order_of_need_.push_back(group);
    }
  }
  computed_ = std::make_unique<GroupedFeatures>(source_, groups_in_order_of_need_);
}

/// Begins to read features, or to decode pictures, for the batches to come.
void FeatureLoader::read_ahead(int64_t batches) {
  const auto read = [this](int64_t i) {
    return timed(cache_ ? "read" : "decode", [&] {
      const std::vector<int64_t> crops = batch_(i);
      if (!cache_) return images_of(source_, crops);
      auto sizes = feature_shape(source_);
      sizes.insert(sizes.begin(), static_cast<int64_t>(crops.size()));
      // Copied by hand: LibTorch's operators would start threads of their own for each worker.
      const Tensor features = torch::empty(sizes, source_.dtype);
      const auto bytes = static_cast<std::size_t>(features.nbytes()) / crops.size();
      auto* target = static_cast<char*>(features.data_ptr());
      for (const int64_t crop : crops) {
        std::memcpy(target, cache_->features(crop).data_ptr(), bytes);
        target += bytes;
      }
      return smooseg::detail::pinned_for(source_.device, features);
    });
  };
  ahead_ = std::make_unique<Pipeline<Tensor>>(batches, source_.workers, source_.workers + 1, read);
}

Tensor FeatureLoader::next() {
  const int64_t batch = taken_++;
  if (memory_.defined()) return from_memory(batch_(batch));
  const Tensor read = timed("wait", [this] { return ahead_->next(); });
  if (!cache_) return compute(source_, read).to(torch::kFloat32);
  return timed("gather", [&] { return smooseg::detail::to_device(read, source_.device).to(torch::kFloat32); });
}

Tensor FeatureLoader::from_memory(const std::vector<int64_t>& crops) {
  const torch::NoGradGuard no_grad;
  for (const int64_t crop : crops) {
    while (!filled_[static_cast<std::size_t>(crop / kGroup)]) {
      const int64_t group = groups_in_order_of_need_.at(groups_done_++);
      const Tensor features = computed_->next();
      memory_.narrow(0, group * kGroup, features.size(0)).copy_(features);
      filled_[static_cast<std::size_t>(group)] = true;
    }
  }
  return timed("gather", [&] {
    const Tensor indices = smooseg::detail::to_device(torch::tensor(crops, torch::kInt64), source_.device);
    return memory_.index_select(0, indices).to(torch::kFloat32);
  });
}

}  // namespace smooseg::app
