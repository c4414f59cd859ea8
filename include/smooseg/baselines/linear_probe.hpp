#pragma once

// The linear probe: how much of the labels a linear classifier finds in frozen features. It learns from labels, so it is
// no rival of methods without them, but an upper mark.

#include <ATen/Functions.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/optim/adam.h>
#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::baselines {

/// Options for `LinearProbe`.
struct LinearProbeOptions {
  LinearProbeOptions(int64_t in_channels, int64_t num_classes) : in_channels_(in_channels), num_classes_(num_classes) {}

  /// C, the channels of the features or codes.
  TORCH_ARG(int64_t, in_channels);

  /// Number of classes K, at least 2.
  TORCH_ARG(int64_t, num_classes);

  /// Adam's learning rate. Default: 5e-3, as STEGO's protocol has it
  TORCH_ARG(double, learning_rate) = 5e-3;
};

/// A linear classifier of patches, that is, a 1x1 convolution, trained with cross-entropy on labelled pixels: its logits
/// are upsampled (bilinearly, corners not aligned) to the size of the label maps. It begins at 0, so that nothing is
/// drawn at random.
///
///     LinearProbe probe(LinearProbeOptions(384, 27));
///     for (const auto& batch : batches) probe.update(backbone.features(batch.images), batch.labels);
///     Tensor classes = probe.logits(backbone.features(images)).argmax(1);
class LinearProbe {
 public:
  /// @param device where features and labels will be.
  /// @throws c10::Error for no channel, fewer than 2 classes, or a learning rate that is not positive.
  explicit LinearProbe(const LinearProbeOptions& options_, torch::Device device = torch::kCPU) : options(options_) {
    TORCH_CHECK(options.in_channels() >= 1 && options.num_classes() >= 2, kName,
                ": expected in_channels of at least 1 and num_classes of at least 2, got ", options.in_channels(),
                " and ", options.num_classes());
    TORCH_CHECK(options.learning_rate() > 0, kName, ": expected learning_rate > 0, got ", options.learning_rate());
    const auto parameters = torch::device(device).dtype(torch::kFloat32).requires_grad(true);
    weight = torch::zeros({options.num_classes(), options.in_channels()}, parameters);
    bias = torch::zeros({options.num_classes()}, parameters);
    adam_.emplace(std::vector<Tensor>{weight, bias}, torch::optim::AdamOptions(options.learning_rate()));
  }

  LinearProbe(const LinearProbe&) = delete;
  LinearProbe& operator=(const LinearProbe&) = delete;

  /// One step of Adam on a batch. A batch without a labelled pixel changes nothing.
  /// @param features (B,C,h,w), floating; they get no gradient.
  /// @param labels (B,H,W) int64, the class of each pixel, 0..K-1, or -1 where it does not count.
  /// @return mean cross-entropy of the labelled pixels before the step; 0 where there are none.
  /// @throws c10::Error for other shapes, dtypes, devices or labels.
  double update(const Tensor& features, const Tensor& labels) {
    constexpr auto kUpdate = "smooseg::baselines::LinearProbe::update";
    check_features(features, kUpdate);
    detail::check_defined(labels, kUpdate, "labels");
    TORCH_CHECK(labels.scalar_type() == torch::kInt64 && labels.dim() == 3 && labels.size(0) == features.size(0) &&
                    labels.numel() > 0,
                kUpdate, ": expected labels of shape (", features.size(0), ",H,W) and dtype Long, got ",
                detail::shape_of(labels), " and ", labels.scalar_type());
    detail::check_same_device(features, labels, kUpdate, "features", "labels");
    const int64_t lowest = labels.min().item<int64_t>(), highest = labels.max().item<int64_t>();
    TORCH_CHECK(lowest >= kIgnored && highest < options.num_classes(), kUpdate, ": expected labels of 0 to ",
                options.num_classes() - 1, ", or -1 where a pixel does not count, got ", lowest, " to ", highest);
    if (highest == kIgnored) return 0;
    const torch::AutoGradMode with_grad(true);
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Tensor upsampled =
        at::upsample_bilinear2d(logits(features.detach()), {labels.size(1), labels.size(2)}, /*align_corners=*/false);
    const Tensor loss = at::cross_entropy_loss(upsampled, labels, {}, at::Reduction::Mean, kIgnored);
    adam_->zero_grad();
    loss.backward();
    adam_->step();
    return loss.item<double>();
  }

  /// @param features (B,C,h,w), floating. @return (B,K,h,w) float32.
  /// @throws c10::Error for other shapes, dtypes or devices.
  Tensor logits(const Tensor& features) const {
    check_features(features, "smooseg::baselines::LinearProbe::logits");
    return at::conv2d(features.to(torch::kFloat32), weight.unsqueeze(2).unsqueeze(3), bias);
  }

  LinearProbeOptions options;
  Tensor weight;  ///< (K,C), float32.
  Tensor bias;    ///< (K), float32.

 private:
  static constexpr auto kName = "smooseg::baselines::LinearProbe";
  static constexpr int64_t kIgnored = -1;

  void check_features(const Tensor& features, const char* function) const {
    detail::check_map(features, function, "features", "(B,C,h,w)", 4);
    TORCH_CHECK(features.size(1) == options.in_channels(), function, ": expected features of ", options.in_channels(),
                " channels, got ", detail::shape_of(features));
    detail::check_same_device(features, weight, function, "features", "parameters");
  }

  std::optional<torch::optim::Adam> adam_;
};

}  // namespace smooseg::baselines
