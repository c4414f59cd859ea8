#include "model/baselines.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/optim/adam.h>

#include <algorithm>
#include <iomanip>
#include <numeric>
#include <sstream>
#include <utility>
#include <vector>

#include "smooseg/baselines/kmeans.hpp"
#include "support/progress.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
namespace {

constexpr int64_t kCropsAtOnce = 32;

int64_t batch_size(const BaselineSource& source) {
  return std::min(source.settings.batch, source.features.crops().count());
}

/// The cluster centres of what `code` makes of the features (B,C,h,w): two passes over the training crops, or as many
/// crops of a large set, of which each process takes a part.
template <class Code>
Tensor cluster_centers(const BaselineSource& source, const Code& code) {
  constexpr int64_t kMaxCrops = 4096;
  const torch::NoGradGuard no_grad;
  const uint64_t seed = mix_seed(source.settings.seed, SeedPurpose::kKMeans);
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  baselines::KMeansOptions options(source.settings.classes);
  const auto& processes = source.features.processes();
  if (processes->several()) options.exchange(processes);
  baselines::KMeans kmeans(options, generator);
  const int64_t count = source.features.crops().count(), of_each = std::min(kCropsAtOnce, count);
  const int64_t batch = of_each * processes->size(), steps = (2 * std::min(count, kMaxCrops) + batch - 1) / batch;
  const auto crops_of_step = [&](int64_t step) { return processes->part_of(batch_indices(step, batch, count, seed)); };
  FeatureLoader loader = source.features.loader(source.backbone, steps, crops_of_step, source.err);
  for (int64_t step = 0; step < steps; ++step) kmeans.update(code(loader.next()));
  return kmeans.centers();
}

/// Prototypes (K,D) that are given, not learned.
PrototypePredictor fixed_prototypes(const Tensor& prototypes) {
  const torch::NoGradGuard no_grad;
  PrototypePredictor predictor(prototypes.size(0), prototypes.size(1));
  predictor->to(prototypes.device());
  predictor->student.copy_(prototypes);
  predictor->teacher.copy_(prototypes);
  return predictor;
}

/// A projector that is a linear map. @param weight (D,C). @param bias (D).
Projector linear_projector(const Tensor& weight, const Tensor& bias) {
  const torch::NoGradGuard no_grad;
  Projector projector(ProjectorOptions(weight.size(1), weight.size(0)).dropout(0));
  projector->to(weight.device());
  for (auto& parameter : projector->parameters()) parameter.zero_();
  projector->linear->weight.copy_(weight.view_as(projector->linear->weight));
  projector->linear->bias.copy_(bias);
  return projector;
}

/// The mean features (N,C) of all crops, in their order.
Tensor pooled_features(const BaselineSource& source) {
  const int64_t count = source.features.crops().count(), steps = (count + kCropsAtOnce - 1) / kCropsAtOnce;
  const auto crops_of_step = [&](int64_t step) {
    std::vector<int64_t> crops(static_cast<std::size_t>(std::min(kCropsAtOnce, count - step * kCropsAtOnce)));
    std::iota(crops.begin(), crops.end(), step * kCropsAtOnce);
    return crops;
  };
  FeatureLoader loader = source.features.loader(source.backbone, steps, crops_of_step, source.err);
  std::vector<Tensor> means;
  for (int64_t step = 0; step < steps; ++step) means.push_back(loader.next().flatten(2).mean(2));
  return torch::cat(means);
}

std::string loss_text(const char* method, double loss) {
  std::ostringstream text;
  text << method << std::fixed << std::setprecision(4) << "  loss " << loss;
  return text.str();
}

}  // namespace

SegmenterHead kmeans_head(const BaselineSource& source) {
  const Tensor centers = cluster_centers(source, [](const Tensor& features) { return features; });
  const Tensor identity = torch::eye(centers.size(1), centers.options());
  return {linear_projector(identity, torch::zeros({centers.size(1)}, centers.options())), fixed_prototypes(centers)};
}

SegmenterHead stego_head(const BaselineSource& source, const BaselineSettings& settings, int64_t iterations) {
  const ModelSettings& s = source.settings;
  const int64_t count = source.features.crops().count(), batch = batch_size(source);
  const Tensor neighbors =
      baselines::nearest_neighbors(pooled_features(source), std::min(settings.stego_neighbors, count - 1))
          .to(torch::kCPU);
  torch::manual_seed(mix_seed(s.seed, SeedPurpose::kInitialization));
  Projector projector(ProjectorOptions(source.backbone.channels(), s.embed_dim).dropout(s.dropout));
  projector->to(source.device);
  torch::optim::Adam adam(projector->parameters(), torch::optim::AdamOptions(settings.stego_rate));

  // A step's crops, and behind them one of the nearest neighbours of each.
  const auto crops_of_step = [&](int64_t step) {
    std::vector<int64_t> crops = batch_indices(step, batch, count, s.seed);
    const uint64_t seed = mix_seed(s.seed, SeedPurpose::kStep, static_cast<uint64_t>(step));
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    const Tensor which =
        torch::randint(neighbors.size(1), {batch}, smooseg::detail::torch_generator(generator), torch::kInt64);
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t crop = crops[static_cast<std::size_t>(i)];
      crops.push_back(neighbors[crop][which[i].item<int64_t>()].item<int64_t>());
    }
    return crops;
  };
  FeatureLoader loader = source.features.loader(source.backbone, iterations, crops_of_step, source.err);
  Progress progress(source.err, 0, iterations);
  for (int64_t step = 0; step < iterations; ++step) {
    // Only the patches that the loss sees go through the projector.
    const ProjectorOutput projected = projector(baselines::random_patches(loader.next(), settings.stego_patches));
    const auto half = [&](int64_t first) {
      return baselines::StegoMaps{projected.features.narrow(0, first, batch), projected.code.narrow(0, first, batch)};
    };
    const Tensor pairing = functional::random_pairing(batch);
    const Tensor loss = baselines::stego_loss(half(0), half(batch), pairing, settings.stego).total;
    adam.zero_grad();
    loss.backward();
    adam.step();
    progress.show(step + 1, loss_text("STEGO", loss.item<double>()));
  }
  projector->eval();
  const Tensor centers = cluster_centers(source, [&](const Tensor& features) { return projector->code(features); });
  return {projector, fixed_prototypes(centers)};
}

SegmenterHead linear_head(const BaselineSource& source, const BaselineSettings& settings, int64_t iterations,
                          int64_t classes, const std::function<Tensor(const std::vector<int64_t>&)>& labels) {
  const int64_t count = source.features.crops().count(), batch = batch_size(source);
  const auto options =
      baselines::LinearProbeOptions(source.backbone.channels(), classes).learning_rate(settings.linear_rate);
  baselines::LinearProbe probe(options, source.device);
  const auto crops_of_step = [&](int64_t step) { return batch_indices(step, batch, count, source.settings.seed); };
  FeatureLoader loader = source.features.loader(source.backbone, iterations, crops_of_step, source.err);
  Progress progress(source.err, 0, iterations);
  for (int64_t step = 0; step < iterations; ++step) {
    const double loss = probe.update(loader.next(), labels(crops_of_step(step)).to(source.device));
    progress.show(step + 1, loss_text("linear probe", loss));
  }
  return {linear_projector(probe.weight.detach(), probe.bias.detach()),
          fixed_prototypes(torch::eye(classes, probe.weight.options().requires_grad(false)))};
}

}  // namespace smooseg::app
