#include "data/loader.hpp"

#include <c10/util/Exception.h>

#include <array>
#include <stdexcept>

#include "data/codec.hpp"
#include "data/transforms.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {

Tensor Crops::image(int64_t crop) const {
  return images({crop})[0];
}

Tensor Crops::images(const std::vector<int64_t>& crops) const {
  const auto count = static_cast<int64_t>(crops.size());
  const Tensor result = torch::empty({count, 3, resolution_, resolution_}, torch::kFloat32);
  float* target = result.data_ptr<float>();
  for (std::size_t first = 0, end = 0; first < crops.size(); first = end) {
    const int64_t picture = picture_of(crops[first]);
    while (end < crops.size() && picture_of(crops[end]) == picture) ++end;
    const auto choose_grids = [&](int64_t height, int64_t width) {
      if (!five_) return std::vector<Grid>(end - first, center_grid(height, width, resolution_));
      const std::array<Grid, 5> all = five_grids(height, width, resolution_);
      std::vector<Grid> wanted;
      for (std::size_t i = first; i < end; ++i) wanted.push_back(all.at(static_cast<std::size_t>(crops[i] % 5)));
      return wanted;
    };
    const auto& path = dataset_.samples.at(static_cast<std::size_t>(picture)).image;
    try {
      for (const Raster& pixels : read_rgb(path, choose_grids)) {
        normalize(pixels, target);
        target += pixels.values.size();
      }
    } catch (const c10::Error& e) {
      throw std::runtime_error(path.string() + ": " + e.what_without_backtrace());
    }
  }
  return result;
}

std::vector<Hash> Crops::picture_hashes(int threads) const {
  std::vector<Hash> hashes(dataset_.samples.size());
  parallel_for(static_cast<int64_t>(hashes.size()), threads, [&](int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    hashes[at] = hash_of_file(dataset_.samples[at].image);
  });
  return hashes;
}

std::vector<int64_t> batch_indices(int64_t step, int64_t batch, int64_t count, uint64_t seed) {
  std::vector<int64_t> indices;
  Tensor order;
  for (int64_t position = step * batch; position < (step + 1) * batch; ++position) {
    const int64_t epoch = position / count;
    if (!order.defined() || position % count == 0) {
      const auto generator =
          at::make_generator<at::CPUGeneratorImpl>(mix_seed(seed, SeedPurpose::kOrder, static_cast<uint64_t>(epoch)));
      order = at::randperm(count, detail::torch_generator(generator), torch::kInt64);
    }
    indices.push_back(order[position % count].item<int64_t>());
  }
  return indices;
}

}  // namespace smooseg::app
