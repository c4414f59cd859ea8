#include "data/loader.hpp"

#include <algorithm>
#include <utility>

#include "data/image_file.hpp"
#include "data/transforms.hpp"

namespace smooseg::app {
namespace {

// Features are computed in fixed groups of neighbouring crops: the rounding of a batched product may depend on what is
// in the batch, and a resumed run must get the same bits.
constexpr int64_t kChunk = 16;

}  // namespace

Tensor Crops::image(int64_t index) const {
  const int64_t crops = five_ ? 5 : 1;
  const Sample& sample = dataset_.samples.at(static_cast<std::size_t>(index / crops));
  Tensor picture = read_image(sample.image);
  if (five_) {
    if (picture.size(0) < 2 || picture.size(1) < 2) {
      throw std::runtime_error(sample.image.string() + ": expected a picture of at least 2 x 2 pixels for five crops");
    }
    picture = five_crop(picture)[static_cast<std::size_t>(index % crops)];
  }
  return normalize(center_crop(resize_shorter(picture, resolution_), resolution_, resolution_));
}

Tensor Crops::images(const std::vector<int64_t>& indices) const {
  std::vector<Tensor> pictures(indices.size());
  parallel_for(static_cast<int64_t>(indices.size()), threads_,
               [&](int64_t i) { pictures[static_cast<std::size_t>(i)] = image(indices[static_cast<std::size_t>(i)]); });
  return torch::stack(pictures);
}

uint64_t mix_seed(uint64_t seed, uint64_t purpose, uint64_t step) {
  const auto mix = [](uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  };
  return mix(mix(mix(seed) ^ purpose) ^ step);
}

std::vector<int64_t> batch_indices(int64_t step, int64_t batch, int64_t count, uint64_t seed) {
  constexpr uint64_t kOrder = 1;
  std::vector<int64_t> indices;
  Tensor order;
  for (int64_t position = step * batch; position < (step + 1) * batch; ++position) {
    const int64_t epoch = position / count;
    if (!order.defined() || position % count == 0) {
      const auto generator =
          at::make_generator<at::CPUGeneratorImpl>(mix_seed(seed, kOrder, static_cast<uint64_t>(epoch)));
      order = at::randperm(count, detail::torch_generator(generator), torch::kInt64);
    }
    indices.push_back(order[position % count].item<int64_t>());
  }
  return indices;
}

FeatureCache::FeatureCache(Crops crops, backbone::Backbone& backbone, torch::Device device, int64_t max_bytes)
    : crops_(std::move(crops)), backbone_(backbone), device_(device) {
  const int64_t side = crops_.resolution() / backbone.patch_size();
  const int64_t bytes = crops_.count() * backbone.channels() * side * side * static_cast<int64_t>(sizeof(float));
  if (bytes > max_bytes) return;
  cache_ =
      torch::empty({crops_.count(), backbone.channels(), side, side}, torch::device(device).dtype(torch::kFloat32));
  filled_.resize(static_cast<std::size_t>((crops_.count() + kChunk - 1) / kChunk));
}

void FeatureCache::fill(int64_t chunk) {
  std::vector<int64_t> members;
  for (int64_t i = chunk * kChunk; i < std::min((chunk + 1) * kChunk, crops_.count()); ++i) members.push_back(i);
  const Tensor features = backbone_.features(crops_.images(members).to(device_));
  cache_.narrow(0, members.front(), features.size(0)).copy_(features);
  filled_[static_cast<std::size_t>(chunk)] = true;
}

Tensor FeatureCache::features(const std::vector<int64_t>& indices) {
  const torch::NoGradGuard no_grad;
  if (!cache_.defined()) return backbone_.features(crops_.images(indices).to(device_));
  for (const int64_t index : indices) {
    if (!filled_[static_cast<std::size_t>(index / kChunk)]) fill(index / kChunk);
  }
  return cache_.index_select(0, torch::tensor(indices, torch::kInt64).to(device_));
}

}  // namespace smooseg::app
