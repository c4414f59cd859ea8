#include "features/examination.hpp"

#include <torch/cuda.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iomanip>
#include <sstream>
#include <tuple>

#include "smooseg/closeness.hpp"
#include "support/peak_memory.hpp"

namespace smooseg::app {
namespace {

/// Patches of a picture that are compared, at most: evenly spaced ones.
constexpr int64_t kPatches = 512;

double seconds_of(backbone::Backbone& backbone, const Tensor& image, Tensor& features) {
  const auto begin = std::chrono::steady_clock::now();
  features = backbone.features(image);
  if (image.is_cuda()) torch::cuda::synchronize(image.device().index());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

ClosenessStatistics statistics_of(const Tensor& sorted) {
  ClosenessStatistics result;
  result.mean = sorted.mean().item<double>();
  result.deviation = sorted.std(/*unbiased=*/false).item<double>();
  for (std::size_t i = 0; i < result.quantiles.size(); ++i) {
    result.quantiles[i] = ClosenessSamples::quantile(sorted, ClosenessStatistics::kQuantiles[i]);
  }
  return result;
}

void compare(const Tensor& features, Examination& result) {
  const ClosenessSamples samples = closeness_samples(features);
  if (samples.within.numel() > 0) {
    result.within = statistics_of(samples.within);
    result.across = statistics_of(samples.across);
  }
  result.same_place = statistics_of(samples.same_place);
}

void judge(Examination& e) {
  constexpr double kAlike = 0.02, kLittle = 0.02;
  const auto text = [](double value) {
    std::ostringstream out;
    out << std::fixed << std::setprecision(3) << value;
    return out.str();
  };
  if (e.shape[1] * e.shape[2] < 2) {
    e.doubts.emplace_back("a picture is a single patch: take larger pictures, or a backbone of smaller patches");
    return;
  }
  if (e.within.deviation < kAlike) {
    e.doubts.push_back("all patches of a picture are nearly alike (deviation " + text(e.within.deviation) +
                       "): are these the weights of this backbone, and pictures normalised as it wants them?");
  } else if (e.within.mean - e.across.mean < kLittle) {
    e.doubts.push_back("patches of one picture are hardly closer than those of two (" + text(e.within.mean) + " and " +
                       text(e.across.mean) + "): what the pictures show may not be in the features");
  }
  if (e.same_place.mean - e.across.mean > e.across.deviation) {
    e.doubts.push_back("patches at the same place of two pictures are closer (" + text(e.same_place.mean) +
                       ") than others of two pictures (" + text(e.across.mean) +
                       "): the features know the place, or the pictures are alike");
  }
}

}  // namespace

double ClosenessSamples::quantile(const Tensor& sorted, double share) {
  return sorted[std::llround(share * static_cast<double>(sorted.numel() - 1))].item<double>();
}

ClosenessSamples closeness_samples(const Tensor& features) {
  const int64_t pictures = features.size(0), patches = features.size(2) * features.size(3);
  const int64_t step = (patches + kPatches - 1) / kPatches;
  const Tensor chosen = features.flatten(2).slice(2, 0, patches, step).contiguous();
  const int64_t n = chosen.size(2);
  const ClosenessOptions plain = ClosenessOptions().centering(Centering::kNone);
  const Tensor others = torch::eye(n, chosen.options().dtype(torch::kBool)).logical_not();
  std::vector<Tensor> within, across, same_place;
  for (int64_t i = 0; i < pictures; ++i) {
    const Tensor own = chosen.narrow(0, i, 1), other = chosen.narrow(0, (i + 1) % pictures, 1);
    within.push_back(functional::closeness(own, own, plain)[0].masked_select(others));
    const Tensor pairs = functional::closeness(own, other, plain)[0];
    across.push_back(pairs.masked_select(others));
    same_place.push_back(pairs.diagonal().contiguous());
  }
  const auto sorted = [](const std::vector<Tensor>& parts) {
    return std::get<0>(torch::cat(parts).to(torch::kCPU, torch::kFloat64).sort());
  };
  return {sorted(within), sorted(across), sorted(same_place)};
}

Examination examine(backbone::Backbone& backbone, const Tensor& images) {
  constexpr int kRuns = 3;
  TORCH_CHECK(images.size(0) > 1, "examine: expected at least two pictures, got ", images.size(0));
  const torch::NoGradGuard no_grad;
  Examination result;
  const Tensor one = images.narrow(0, 0, 1);
  Tensor features;
  {
    const PeakMemory memory;
    result.first_seconds = seconds_of(backbone, one, features);
    result.memory = memory.bytes();
  }
  for (int run = 0; run < kRuns; ++run) {
    const double seconds = seconds_of(backbone, one, features);
    result.seconds = run == 0 ? seconds : std::min(result.seconds, seconds);
  }
  std::vector<Tensor> all{features};
  for (int64_t i = 1; i < images.size(0); ++i) all.push_back(backbone.features(images.narrow(0, i, 1)));
  features = torch::cat(all).to(torch::kCPU, torch::kFloat32);
  result.shape = features.sizes().slice(1).vec();
  TORCH_CHECK(features.isfinite().all().item<bool>(),
              "the backbone's features are not finite: are its weights damaged?");
  result.lowest = features.min().item<double>();
  result.highest = features.max().item<double>();
  compare(features, result);
  judge(result);
  return result;
}

}  // namespace smooseg::app
