#include "report/embedding.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "report/patches.hpp"
#include "report/projection.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
namespace {

using Json = nlohmann::json;

/// Some patches of a gallery, one a row.
struct Patches {
  Tensor features, code;                   // (N,C) and (N,D) float32 on the CPU
  std::vector<int64_t> classes, pictures;  // of each
};

/// Rows as unit vectors.
Tensor directions(const Tensor& rows) {
  return rows / rows.norm(2, 1, /*keepdim=*/true).clamp_min(1e-12);
}

/// What the page calls each cluster.
std::vector<int64_t> classes_of_clusters(const Gallery& gallery, const RunFolder& run, int64_t clusters) {
  std::vector<int64_t> classes(static_cast<std::size_t>(clusters));
  std::iota(classes.begin(), classes.end(), int64_t{0});
  if (!gallery.labelled) return classes;
  for (std::size_t k = 0; k < classes.size(); ++k) {
    const auto& matched = run.scores->class_of_cluster;
    classes[k] = k < matched.size() && matched[k] >= 0 ? matched[k] : gallery.classes.size() - 1;
  }
  return classes;
}

Patches patches_of(const Gallery& gallery, SegmenterImpl& segmenter, torch::Device device, int64_t points,
                   uint64_t seed, const std::vector<int64_t>& classes) {
  const torch::NoGradGuard no_grad;
  const auto pictures = static_cast<int64_t>(gallery.pictures.size());
  Patches patches;
  std::vector<Tensor> features, codes;
  for (int64_t i = 0; i < pictures; ++i) {
    const auto maps = patch_maps(segmenter, gallery.pictures[static_cast<std::size_t>(i)].pixels, device);
    if (!maps) continue;
    const Tensor clusters =
        functional::prototype_logits(segmenter.predictor->teacher, maps->code).argmax(1).flatten().to(torch::kCPU);
    std::vector<int64_t> order(static_cast<std::size_t>(clusters.numel()));
    std::iota(order.begin(), order.end(), int64_t{0});
    const auto key = [&](int64_t p) {
      return mixed(mixed(mixed(seed) ^ static_cast<uint64_t>(i)) ^ static_cast<uint64_t>(p));
    };
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });
    order.resize(std::min(order.size(), static_cast<std::size_t>(std::max<int64_t>(1, points / pictures))));
    const Tensor chosen = torch::tensor(order, torch::kInt64);
    const auto rows = [&](const Tensor& map) {
      return map.flatten(2)[0].t().to(torch::kCPU, torch::kFloat32).index_select(0, chosen);
    };
    features.push_back(rows(maps->features));
    codes.push_back(rows(maps->code));
    for (const int64_t p : order) {
      patches.classes.push_back(classes[static_cast<std::size_t>(clusters[p].item<int64_t>())]);
      patches.pictures.push_back(i);
    }
  }
  if (features.empty()) return patches;
  patches.features = directions(torch::cat(features));
  patches.code = directions(torch::cat(codes));
  return patches;
}

/// Coordinates from -1 to 1, with as many digits as can be seen.
Json coordinates(const Tensor& plane, int64_t row, double extent) {
  const auto rounded = [&](int64_t c) { return std::round(plane[row][c].item<double>() / extent * 1e4) / 1e4; };
  return {rounded(0), rounded(1)};
}

Json map_of(const std::string& method, const std::string& title, const Tensor& plane, const Patches& patches,
            const std::vector<int64_t>& classes) {
  const auto count = static_cast<int64_t>(patches.classes.size());
  const double extent = std::max(plane.abs().max().item<double>(), 1e-30);
  Json points = Json::array(), stars = Json::array();
  for (int64_t i = 0; i < plane.size(0); ++i) {
    Json point = coordinates(plane, i, extent);
    const auto at = static_cast<std::size_t>(i < count ? i : i - count);
    point.push_back(i < count ? patches.classes[at] : classes[at]);
    if (i < count) point.push_back(patches.pictures[at]);
    (i < count ? points : stars).push_back(point);
  }
  return {{"method", method}, {"title", title}, {"hint", method}, {"points", points}, {"stars", stars}};
}

}  // namespace

Json embedding_maps(const Gallery& gallery, const RunFolder& run, SegmenterImpl& segmenter, torch::Device device,
                    int64_t points, uint64_t seed, int threads, const std::function<void(int64_t, int64_t)>& progress) {
  Json maps = Json::array();
  if (gallery.pictures.empty() || points == 0 || (gallery.labelled && !run.scores)) return maps;
  const auto classes = classes_of_clusters(gallery, run, segmenter.predictor->options.num_classes());
  const Patches patches = patches_of(gallery, segmenter, device, points, seed, classes);
  if (patches.classes.empty()) return maps;
  const Tensor prototypes = directions(segmenter.predictor->teacher.detach().to(torch::kCPU, torch::kFloat32));
  const Tensor learnt = torch::cat({patches.code, prototypes});
  TsneOptions options;
  options.threads = threads;
  const int64_t all = 2 * options.iterations;
  int64_t done = 0;
  if (progress) options.progress = [&] { progress(++done, all); };
  for (const char* method : {"t-SNE", "PCA"}) {
    const auto plane = [&](const Tensor& x) {
      return method == std::string("PCA") ? principal_components(x) : tsne(x, options);
    };
    maps.push_back(map_of(method, run.name + ": backbone's features", plane(patches.features), patches, classes));
    maps.push_back(map_of(method, run.name + ": learnt embedding", plane(learnt), patches, classes));
  }
  Json names = Json::array();
  for (const GalleryPicture& picture : gallery.pictures) names.push_back(picture.sample.name);
  for (Json& map : maps) map["pictures"] = names;
  return maps;
}

}  // namespace smooseg::app
