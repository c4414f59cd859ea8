#pragma once

#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>

#include "smooseg/detail/autograd/projector_function.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/exchange.hpp"

namespace smooseg {

struct ProjectorOptions {
  ProjectorOptions(int64_t in_channels, int64_t embed_dim) : in_channels_(in_channels), embed_dim_(embed_dim) {}
  /// C, the channels of the backbone's features.
  TORCH_ARG(int64_t, in_channels);
  /// D, the channels of the code.
  TORCH_ARG(int64_t, embed_dim);
  /// Probability with which a whole channel is dropped in training, in [0,1).
  TORCH_ARG(double, dropout) = 0.2;
  /// The processes that have a batch of one size each: from equal generators all draw the masks of all images, those of
  /// process 0 first, and take their own. Null: this process alone.
  TORCH_ARG(std::shared_ptr<Exchange>, exchange) = nullptr;
};

struct ProjectorOutput {
  Tensor features;  ///< (B,C,h,w): the input, in training after channel dropout; what closeness is computed from.
  Tensor code;      ///< (B,D,h,w): z.
};

/// From backbone features to the code z: a 1x1 convolution plus a two-layer SiLU MLP of 1x1 convolutions, summed. In
/// training, channels are dropped with a mask of its own for each branch and for the returned features.
class ProjectorImpl : public torch::nn::Cloneable<ProjectorImpl> {
 public:
  ProjectorImpl(int64_t in_channels, int64_t embed_dim) : ProjectorImpl(ProjectorOptions(in_channels, embed_dim)) {}

  /// @throws c10::Error for sizes below 1 or a dropout outside [0,1).
  explicit ProjectorImpl(const ProjectorOptions& options_) : options(options_) {
    TORCH_CHECK(options.in_channels() >= 1 && options.embed_dim() >= 1,
                "smooseg::Projector: expected in_channels and embed_dim of at least 1, got ", options.in_channels(),
                " and ", options.embed_dim());
    TORCH_CHECK(options.dropout() >= 0 && options.dropout() < 1, "smooseg::Projector: expected dropout in [0,1), got ",
                options.dropout());
    reset();
  }

  void reset() override {
    using torch::nn::Conv2d;
    using torch::nn::Conv2dOptions;
    const int64_t c = options.in_channels(), d = options.embed_dim();
    linear = register_module("linear", Conv2d(Conv2dOptions(c, d, 1)));
    mlp = register_module("mlp", torch::nn::Sequential(Conv2d(Conv2dOptions(c, c, 1)), torch::nn::SiLU(),
                                                       Conv2d(Conv2dOptions(c, d, 1))));
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::Projector(in_channels=" << options.in_channels() << ", embed_dim=" << options.embed_dim()
           << ", dropout=" << options.dropout() << ")";
  }

  /// @param features (B,C,h,w), of the parameters' dtype and device; half precision on the CPU only under autocast.
  /// @param generator source of the dropout masks; the default one of the features' device where none is given. One on
  ///   the CPU draws the same masks for any device, to which they are then copied without a wait.
  /// @throws c10::Error for other shapes, dtypes or devices.
  ProjectorOutput forward(const Tensor& features, std::optional<at::Generator> generator = {}) {
    check(features, "smooseg::Projector");
    const detail::ChannelMasks masks{draw_mask(features, generator), draw_mask(features, generator)};
    const Tensor z = project(features, masks);
    return {dropped(features, draw_mask(features, generator)), z};
  }

  /// z alone and without dropout, whatever the module's mode. @param features as `forward`.
  Tensor code(const Tensor& features) {
    check(features, "smooseg::Projector::code");
    return project(features, {});
  }

  ProjectorOptions options;
  torch::nn::Conv2d linear{nullptr};
  torch::nn::Sequential mlp{nullptr};

 private:
  /// A factor for each image's channels, (B,C): 0, or what keeps the mean. Undefined where all are 1.
  Tensor draw_mask(const Tensor& x, const std::optional<at::Generator>& generator) const {
    if (!is_training() || options.dropout() == 0) return {};
    const double keep = 1 - options.dropout();
    const torch::Device device = generator ? generator->device() : x.device();
    const Exchange* const exchange = options.exchange().get();
    const int64_t images = x.size(0), processes = exchange == nullptr ? 1 : exchange->size();
    Tensor mask = torch::empty({images * processes, x.size(1)}, x.options().requires_grad(false).device(device));
    mask.bernoulli_(keep, detail::torch_generator(generator)).div_(keep);
    if (processes > 1) mask = mask.narrow(0, exchange->rank() * images, images);
    return detail::to_device(mask, x.device());
  }

  static Tensor masked(const Tensor& x, const Tensor& mask) {
    return mask.defined() ? x * mask.unsqueeze(2).unsqueeze(3) : x;
  }

  /// `masked` for the loss, whose features seldom want a gradient.
  static Tensor dropped(const Tensor& x, const Tensor& mask) {
    const bool has_kernels = detail::has_kernels(x) && x.is_contiguous() && !x.requires_grad();
    return mask.defined() && has_kernels ? detail::scaled_rows(x.flatten(2), mask).view(x.sizes()) : masked(x, mask);
  }

  void check(const Tensor& features, const char* function) const {
    detail::check_map(features, function, "features", "(B,C,h,w)", 4);
    TORCH_CHECK(features.size(1) == options.in_channels(), function, ": expected features of ", options.in_channels(),
                " channels, got ", detail::shape_of(features));
    detail::check_same_device(features, linear->weight, function, "features", "parameters");
    if (detail::is_autocast(features)) return;
    const auto dtype = features.scalar_type(), own = linear->weight.scalar_type();
    TORCH_CHECK(dtype == own, function, ": expected features of the parameters' dtype ", own, ", got ", dtype,
                "; convert one of them with to()");
    TORCH_CHECK(!features.device().is_cpu() || dtype != torch::kHalf, function,
                ": half precision is not for the CPU: expected Float, Double or BFloat16, got Half");
  }

  Tensor project(const Tensor& features, const detail::ChannelMasks& masks) {
    const bool records = torch::GradMode::is_enabled();
    if (!detail::has_kernels(features) || detail::is_autocast(features) || (records && features.requires_grad())) {
      return linear(masked(features, masks.linear)) + mlp->forward(masked(features, masks.hidden));
    }
    const auto& hidden = *mlp->ptr<torch::nn::Conv2dImpl>(0);
    const auto& out = *mlp->ptr<torch::nn::Conv2dImpl>(2);
    const auto matrix = [](const torch::nn::Conv2dImpl& layer) { return layer.weight.flatten(1); };
    const auto all = parameters();
    const bool keeps = records && std::any_of(all.begin(), all.end(), [](auto& t) { return t.requires_grad(); });
    const Tensor code =
        detail::ProjectorFunction::apply(features.flatten(2).contiguous(), masks, matrix(*linear), linear->bias,
                                         matrix(hidden), hidden.bias, matrix(out), out.bias, keeps);
    return code.unflatten(2, {features.size(2), features.size(3)});
  }
};
TORCH_MODULE(Projector);

}  // namespace smooseg
