#pragma once

// k-means under the cosine distance: a baseline of the paper, and what finds the textons of `backbone::Texture`.

#include <ATen/Functions.h>
#include <ATen/core/Generator.h>
#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/exchange.hpp"

namespace smooseg::baselines {

/// Options for `KMeans`.
struct KMeansOptions {
  /* implicit */ KMeansOptions(int64_t num_clusters) : num_clusters_(num_clusters) {}

  /// Number of clusters K.
  TORCH_ARG(int64_t, num_clusters);

  /// The share of earlier batches' weight that each `update` keeps, in [0,1]: a centre is the mean direction of its
  /// vectors, those of n batches ago weighted by decay^n. Default: 0.95
  TORCH_ARG(double, decay) = 0.95;

  /// The most passes that `fit` makes over the vectors. Default: 50
  TORCH_ARG(int64_t, iterations) = 50;

  /// `fit` stops when a pass improves the mean similarity to the nearest centre by less than this. Default: 1e-5
  TORCH_ARG(double, tolerance) = 1e-5;

  /// The processes that each have a part of the vectors, which may differ in size, and all get the same centres; null:
  /// this process has all. The sums of clusters travel, and centres are seeded from the vectors of process 0.
  TORCH_ARG(std::shared_ptr<Exchange>, exchange) = nullptr;
};

/// k-means under the cosine distance 1 - cos (spherical k-means: Dhillon and Modha, 2001). Centres are unit vectors:
/// the directions of the sums of their clusters' unit vectors. They are seeded by k-means++ (Arthur and Vassilvitskii,
/// 2007). A cluster that lost its vectors is seeded again, with a vector far from all centres.
///
/// `update` takes a stream of mini-batches, `fit` vectors in memory:
///
///     KMeans kmeans(KMeansOptions(27));
///     for (const auto& batch : batches) kmeans.update(backbone.features(batch.images));
///     Tensor clusters = kmeans.assign(backbone.features(images));
///
/// Features may be of any device and floating dtype (half precision is computed in float32), the same in every call.
class KMeans {
 public:
  /// @param generator source of randomness (CPU); the default one where none is given. With the same one and the same
  ///   features, the centres are the same.
  /// @throws c10::Error for fewer than 1 cluster, or a decay outside [0,1].
  explicit KMeans(const KMeansOptions& options_, std::optional<at::Generator> generator = {})
      : options(options_), generator_(std::move(generator)) {
    TORCH_CHECK(options.num_clusters() >= 1, kName, ": expected num_clusters of at least 1, got ",
                options.num_clusters());
    TORCH_CHECK(options.decay() >= 0 && options.decay() <= 1, kName, ": expected decay in [0,1], got ",
                options.decay());
  }

  /// Moves the centres towards one mini-batch. The first one also seeds them: make it a fair sample of many images.
  /// @param features (B,C,...), floating: the vectors along dimension 1, so a matrix (N,C) holds N of them. At least
  ///   `num_clusters` in the first call (of process 0).
  /// @return mean similarity of the vectors to their nearest centres, before the move.
  /// @throws c10::Error for other shapes or dtypes, too few vectors, or values that are not finite.
  double update(const Tensor& features) {
    const torch::NoGradGuard no_grad;
    const Tensor vectors = unit_vectors(features, "smooseg::baselines::KMeans::update");
    if (!centers_.defined()) seed(vectors);
    return step(vectors, options.decay());
  }

  /// Seeds the centres anew and moves them until they settle (Lloyd's iterations).
  /// @param features as `update` takes them, all at once.
  /// @return mean similarity of the vectors to their nearest centres.
  /// @throws c10::Error as `update`.
  double fit(const Tensor& features) {
    const torch::NoGradGuard no_grad;
    const Tensor vectors = unit_vectors(features, "smooseg::baselines::KMeans::fit");
    seed(vectors);
    double similarity = -1;
    for (int64_t i = 0; i < options.iterations(); ++i) {
      const double before = std::exchange(similarity, step(vectors, 0));
      if (similarity - before < options.tolerance()) break;
    }
    return similarity;
  }

  /// @return (K,C), unit vectors.
  /// @throws c10::Error before the first `update` or `fit`.
  Tensor centers() const {
    TORCH_CHECK(centers_.defined(), kName, "::centers: there are none before `update` or `fit`");
    return centers_;
  }

  /// The cosine of each vector and each centre.
  /// @param features (B,C,...), floating.
  /// @return (B,K,...) in [-1,1].
  /// @throws c10::Error for other shapes or dtypes, and before the first `update` or `fit`.
  Tensor similarities(const Tensor& features) const {
    check_features(features, "smooseg::baselines::KMeans::similarities");
    const Tensor x = features.reshape({features.size(0), features.size(1), -1}).to(centers().scalar_type());
    auto sizes = features.sizes().vec();
    sizes[1] = options.num_clusters();
    return (at::matmul(centers_, x) / norm(x)).view(sizes);
  }

  /// The cluster of each vector: that of the most similar centre.
  /// @param features (B,C,...), floating.
  /// @return (B,...) int64 in [0,K).
  /// @throws c10::Error as `similarities`.
  Tensor assign(const Tensor& features) const { return similarities(features).argmax(1); }

  /// What vectors are divided by to become unit vectors: their lengths, or a little where these are 0.
  /// @param x (B,C,...), floating.
  /// @return (B,1,...).
  static Tensor norm(const Tensor& x) { return x.norm(2, {1}, /*keepdim=*/true).clamp_min(ClosenessOptions().eps()); }

  KMeansOptions options;

 private:
  static constexpr auto kName = "smooseg::baselines::KMeans";

  /// Whether this is the process that seeds centres.
  bool seeds() const { return options.exchange() == nullptr || options.exchange()->rank() == 0; }

  /// The sum over the processes.
  Tensor over_processes(const Tensor& t) const {
    return options.exchange() == nullptr ? t : options.exchange()->all_reduce(t.contiguous());
  }

  /// Number of vectors whose similarities with all centres may be held at a time.
  int64_t part_size() const { return std::max<int64_t>(1, (int64_t{1} << 22) / options.num_clusters()); }

  void check_features(const Tensor& features, const char* function) const {
    detail::check_floating(features, function, "features");
    TORCH_CHECK(features.dim() >= 2 && features.numel() > 0, function,
                ": expected features of shape (B,C,...) with no dimension of size 0, got ", detail::shape_of(features));
    TORCH_CHECK(!centers_.defined() || features.size(1) == centers_.size(1), function, ": expected features of ",
                centers_.size(1), " channels, as before, got ", detail::shape_of(features));
  }

  /// (B,C,...) -> (N,C), each of length 1.
  Tensor unit_vectors(const Tensor& features, const char* function) const {
    check_features(features, function);
    const Tensor vectors = features.movedim(1, -1).reshape({-1, features.size(1)});
    TORCH_CHECK(centers_.defined() || !seeds() || vectors.size(0) >= options.num_clusters(), function,
                ": expected at least ", options.num_clusters(), " vectors, one for each cluster, got ",
                vectors.size(0));
    const Tensor wide = vectors.to(c10::promoteTypes(vectors.scalar_type(), torch::kFloat));
    TORCH_CHECK(at::isfinite(wide.sum()).item<bool>(), function, ": features hold values that are not finite");
    return wide / norm(wide);
  }

  /// A vector's index drawn with a probability that grows with its distance (N) from the nearest centre; evenly where
  /// all distances are 0.
  int64_t draw(const Tensor& distances) const {
    const double u = at::rand({1}, detail::torch_generator(generator_), torch::kFloat64).item<double>();
    const Tensor cumulative = distances.to(torch::kFloat64).cumsum(0);
    const int64_t n = distances.size(0);
    const double total = cumulative[n - 1].item<double>();
    if (!(total > 0)) return std::min(n - 1, static_cast<int64_t>(u * static_cast<double>(n)));
    return std::min(n - 1, (cumulative <= u * total).sum().item<int64_t>());
  }

  /// Distance (N) of each vector from one centre (C).
  static Tensor distances(const Tensor& vectors, const Tensor& center) {
    return (1 - at::mv(vectors, center)).clamp_min_(0);
  }

  /// k-means++: each centre a vector, drawn by its distance from those before it.
  void seed(const Tensor& vectors) {
    centers_ = at::zeros({options.num_clusters(), vectors.size(1)}, vectors.options());
    Tensor nearest = at::zeros({vectors.size(0)}, vectors.options());
    for (int64_t k = 0; seeds() && k < options.num_clusters(); ++k) {
      centers_[k].copy_(vectors[draw(nearest)]);
      const Tensor d = distances(vectors, centers_[k]);
      nearest = k == 0 ? d : at::minimum(nearest, d);
    }
    centers_ = over_processes(centers_);
    sums_ = at::zeros_like(centers_);
    weights_ = at::zeros({options.num_clusters()}, vectors.options());
  }

  /// Weights what the clusters hold by `decay`, adds each vector to the cluster with the nearest centre, and moves the
  /// centres. Returns the mean similarity before the move.
  double step(const Tensor& vectors, double decay) {
    const double earlier = seeds() ? decay : 0;  // what came before counts once
    sums_ *= earlier;
    weights_ *= earlier;
    double total = 0, count = static_cast<double>(vectors.size(0));
    for (const Tensor& part : vectors.split(part_size())) {
      const auto [similarity, cluster] = at::mm(part, centers_.t()).max(1);
      // As a product, because index_add_ sums in no fixed order on a GPU.
      const Tensor member = at::one_hot(cluster, options.num_clusters()).to(part.scalar_type());
      sums_ += at::mm(member.t(), part);
      weights_ += member.sum(0);
      total += similarity.sum(torch::kFloat64).item<double>();
    }
    if (options.exchange() != nullptr) {
      const Tensor sums = over_processes(at::cat({sums_, weights_.unsqueeze(1)}, 1));
      sums_ = sums.narrow(1, 0, sums_.size(1)).contiguous();
      weights_ = sums.select(1, sums_.size(1)).contiguous();
      const Tensor totals = over_processes(at::tensor({total, count}, torch::kFloat64));
      total = totals[0].item<double>();
      count = totals[1].item<double>();
    }
    centers_ = sums_ / norm(sums_);
    reseed_empty(vectors);
    return total / count;
  }

  /// Seeds again the clusters that hold the weight of less than one vector.
  void reseed_empty(const Tensor& vectors) {
    const Tensor empty = (weights_ < 1).nonzero().flatten().to(torch::kCPU);
    if (empty.numel() == 0) return;
    std::vector<Tensor> parts;
    for (const Tensor& part : vectors.split(part_size())) {
      parts.push_back((1 - std::get<0>(at::mm(part, centers_.t()).max(1))).clamp_min_(0));
    }
    Tensor nearest = at::cat(parts);
    Tensor chosen = at::zeros({empty.size(0), vectors.size(1)}, vectors.options());
    for (int64_t i = 0; seeds() && i < empty.size(0); ++i) {
      const Tensor vector = vectors[draw(nearest)];
      chosen[i].copy_(vector);
      nearest = at::minimum(nearest, distances(vectors, vector));
    }
    chosen = over_processes(chosen);
    for (int64_t i = 0; i < empty.size(0); ++i) {
      const int64_t k = empty[i].item<int64_t>();
      centers_[k].copy_(chosen[i]);
      sums_[k].copy_(chosen[i]);
      weights_[k].fill_(1);
    }
  }

  std::optional<at::Generator> generator_;
  Tensor centers_;  // (K,C), unit vectors
  Tensor sums_;     // (K,C), weighted sums of the clusters' unit vectors
  Tensor weights_;  // (K), the same sums of 1
};

}  // namespace smooseg::baselines
