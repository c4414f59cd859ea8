#include "data/crops.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>

#include "data/codec.hpp"
#include "smooseg/detail/parallel.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {

Crops::Crops(const Dataset& dataset, const FeatureFiles& features)
    : dataset_(dataset), features_(features), resolution_(0), five_(false) {
  std::set<std::string> names;
  for (const Sample& sample : dataset_.samples) {
    if (!names.insert(sample.name).second) {
      throw std::runtime_error(sample.image.string() + ": another picture, of another ending, has the same features: " +
                               features.path_of(feature_name(dataset, sample)).string());
    }
  }
  const Tensor first = features.read(feature_name(dataset, dataset.samples.front()));
  channels_ = first.size(0);
  features_->expect_channels(channels_, "the first picture's");
  resolution_ = std::min(first.size(1), first.size(2));
}

Tensor Crops::square_of(int64_t picture) const {
  const std::string name = feature_name(dataset_, dataset_.samples.at(static_cast<std::size_t>(picture)));
  const Tensor map = features_->read(name);
  const int64_t height = map.size(1), width = map.size(2);
  if (std::min(height, width) != resolution_) {
    const std::string side = std::to_string(resolution_);
    codec::fail(features_->path_of(name),
                "a map whose shorter side has " + side +
                    " cells, as that of the first picture, since training compares "
                    "squares of one size",
                std::to_string(height) + " x " + std::to_string(width));
  }
  const Tensor square = torch::empty({channels_, resolution_, resolution_}, torch::kFloat32);
  const int64_t top = middle_of(height, resolution_), left = middle_of(width, resolution_);
  const auto* const from = map.data_ptr<float>();
  auto* to = square.data_ptr<float>();
  for (int64_t c = 0; c < channels_; ++c) {
    for (int64_t y = 0; y < resolution_; ++y, to += resolution_) {
      std::copy_n(from + (c * height + top + y) * width + left, resolution_, to);
    }
  }
  return square;
}

Tensor Crops::images(const std::vector<int64_t>& crops, const Normalization& with) const {
  const auto count = static_cast<int64_t>(crops.size());
  if (features_) {
    const Tensor maps = torch::empty({count, channels_, resolution_, resolution_}, torch::kFloat32);
    auto* to = static_cast<char*>(maps.data_ptr());
    for (const int64_t crop : crops) {
      const Tensor square = square_of(crop);
      std::memcpy(to, square.data_ptr(), square.nbytes());
      to += square.nbytes();
    }
    return maps;
  }
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
      normalize(pixels, with, images[static_cast<int64_t>(i++)]);
    }
  }
  return images;
}

Tensor Crops::labels(const std::vector<int64_t>& crops, int64_t side, int threads) const {
  std::vector<Tensor> maps(crops.size());
  smooseg::detail::parallel_for(static_cast<int64_t>(crops.size()), threads, [&](int64_t i) {
    const int64_t crop = crops[static_cast<std::size_t>(i)];
    Transform transform{side, /*square=*/true};
    if (five_) transform.five_crop = crop % Transform::kFive;
    const Sample& sample = dataset_.samples.at(static_cast<std::size_t>(picture_of(crop)));
    maps[static_cast<std::size_t>(i)] = *load_sample(sample, dataset_.classes, transform).label;
  });
  return torch::stack(maps);
}

std::vector<Hash> Crops::picture_hashes(int threads) const {
  std::vector<Hash> hashes(dataset_.samples.size());
  smooseg::detail::parallel_for(static_cast<int64_t>(hashes.size()), threads, [&](int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    if (features_) {
      const Tensor square = square_of(i);
      hashes[at] = hash_of(square.data_ptr(), square.nbytes());
    } else {
      hashes[at] = hash_of_file(dataset_.samples[at].image);
    }
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
