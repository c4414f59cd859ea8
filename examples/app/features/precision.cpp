#include "features/precision.hpp"

#include <torch/cuda.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

#include "smooseg/detail/kernels/bfloat16_attention.hpp"

namespace smooseg::app {
namespace {

/// A backbone whose features are rounded to a dtype, and given in that of the images.
class RoundedBackbone : public backbone::Backbone {
 public:
  RoundedBackbone(std::shared_ptr<backbone::Backbone> original, torch::ScalarType dtype)
      : original_(register_module("rounded", std::move(original))), dtype_(dtype) {}

  Tensor features(const Tensor& images) override {
    return original_->features(images).to(dtype_).to(images.scalar_type());
  }
  Tensor window_features(const Tensor& images, const backbone::Window& window) override {
    return original_->window_features(images, window).to(dtype_).to(images.scalar_type());
  }
  int64_t reach() const override { return original_->reach(); }
  int64_t patch_size() const override { return original_->patch_size(); }
  int64_t channels() const override { return original_->channels(); }
  backbone::Rgb mean() const override { return original_->mean(); }
  backbone::Rgb std() const override { return original_->std(); }
  int64_t input_channels() const override { return original_->input_channels(); }
  bool takes_whole_pictures() const override { return original_->takes_whole_pictures(); }

 private:
  std::shared_ptr<backbone::Backbone> original_;
  torch::ScalarType dtype_;
};

/// The least of some times that features of two pictures take, in seconds.
double time_of(backbone::Backbone& backbone, const Tensor& images) {
  constexpr int kRuns = 3;
  const torch::NoGradGuard no_grad;
  double least = 0;
  for (int run = -1; run < kRuns; ++run) {  // the first prepares memory and kernels, and does not count
    const auto begin = std::chrono::steady_clock::now();
    backbone.features(images);
    if (images.is_cuda()) torch::cuda::synchronize(images.device().index());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (run >= 0) least = run == 0 ? seconds : std::min(least, seconds);
  }
  return least;
}

}  // namespace

std::shared_ptr<backbone::Backbone> in_precision(const RuntimeSettings& settings,
                                                 const std::shared_ptr<backbone::Backbone>& backbone,
                                                 torch::Device device, int64_t side, std::ostream& err,
                                                 Processes& processes) {
  // Clearly faster, so that a run and its continuation decide alike.
  constexpr double kFaster = 0.8;
  const bool has_weights = !backbone->parameters().empty(), is_auto = settings.precision == "auto";
  if (settings.precision == "bfloat16" && !has_weights) {
    throw std::runtime_error("--precision: this backbone has no weights that could be bfloat16");
  }
  const bool may_be_faster = device.is_cpu() ? smooseg::detail::machine_has_bfloat16() : device.is_cuda();
  const bool measures = is_auto && processes.highest(processes.is_first() && may_be_faster ? 1 : 0) > 0;
  if (settings.precision == "float32" || !has_weights || (is_auto && !measures)) return backbone;
  const auto copy = std::dynamic_pointer_cast<backbone::Backbone>(backbone->clone());
  copy->to(torch::kBFloat16);
  const auto narrow = std::make_shared<RoundedBackbone>(copy, torch::kBFloat16);
  if (is_auto) {
    double ratio = 0;
    if (processes.is_first()) {
      const Tensor images = torch::zeros({2, 3, side, side}, device);
      ratio = time_of(*narrow, images) / time_of(*backbone, images);
    }
    if (processes.highest(processes.is_first() && ratio < kFaster ? 1 : 0) == 0) return backbone;
    err << "precision: bfloat16, which takes " << static_cast<int>(100 * ratio) << " % of float32's time" << std::endl;
  }
  return narrow;
}

std::shared_ptr<backbone::Backbone> rounded(const std::shared_ptr<backbone::Backbone>& backbone,
                                            torch::ScalarType dtype) {
  return dtype == torch::kFloat32 ? backbone : std::make_shared<RoundedBackbone>(backbone, dtype);
}

std::string set_precision(const RuntimeSettings& settings, SegmenterImpl& segmenter, torch::Device device, int64_t side,
                          std::ostream& err, Processes& processes) {
  const auto chosen = in_precision(settings, segmenter.backbone, device, side, err, processes);
  if (chosen == segmenter.backbone) return "float32";
  segmenter.backbone = segmenter.replace_module("backbone", chosen);
  return "bfloat16";
}

}  // namespace smooseg::app
