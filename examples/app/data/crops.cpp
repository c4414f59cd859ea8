#include "data/crops.hpp"

#include "smooseg/detail/parallel.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {

Tensor Crops::images(const std::vector<int64_t>& crops) const {
  const auto count = static_cast<int64_t>(crops.size());
  const Tensor images = torch::empty({count, 3, resolution_, resolution_}, torch::kFloat32);
  for (std::size_t i = 0; i < crops.size();) {
    const int64_t picture = picture_of(crops[i]);
    std::vector<Transform> transforms;
    for (std::size_t end = i; end < crops.size() && picture_of(crops[end]) == picture; ++end) {
      transforms.push_back({resolution_, /*square=*/true});
      if (five_) transforms.back().five_crop = crops[end] % Transform::kFive;
    }
    const auto& path = dataset_.samples.at(static_cast<std::size_t>(picture)).image;
    for (const Tensor& pixels : read_transformed(path, transforms).pixels) {
      normalize(pixels, images[static_cast<int64_t>(i++)]);
    }
  }
  return images;
}

std::vector<Hash> Crops::picture_hashes(int threads) const {
  std::vector<Hash> hashes(dataset_.samples.size());
  smooseg::detail::parallel_for(static_cast<int64_t>(hashes.size()), threads, [&](int64_t i) {
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
