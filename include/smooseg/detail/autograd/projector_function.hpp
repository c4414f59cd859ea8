#pragma once

// The projector's two branches image by image, while what lies between them stays in cache.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "smooseg/detail/autograd/linear.hpp"
#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/detail/workspace.hpp"

namespace smooseg::detail {

/// SiLU (Elfwing et al., 2018), x / (1 + exp(-x)), and its gradient with one exponential for both.
struct SiluKernel {
  /// out = silu(x), which may be x; where they are not null, kept = x and grad *= silu'(x).
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t n, const T* x, T* out, T* kept, T* grad) {
    constexpr int kVector = kLanes<T, isa>;
    int64_t i = 0;
    for (; i + kVector <= n; i += kVector) apply<kVector>(x + i, out + i, at(kept, i), at(grad, i));
    for (; i < n; ++i) apply<1>(x + i, out + i, at(kept, i), at(grad, i));
  }

 private:
  template <class T>
  SMOOSEG_INLINE static T* at(T* values, int64_t i) {
    return values == nullptr ? nullptr : values + i;
  }

  template <int lanes, class T>
  SMOOSEG_INLINE static void apply(const T* from, T* out, T* kept, T* grad) {
    using W = Wide<T, lanes>;
    W x;
    load(x, from);
    if (kept != nullptr) store(kept, x);
    W sigmoid = x * T{-1};
    lower<T, lanes>(sigmoid, W{} + T{80});  // whose exponential is a number still, far above 1
    exponential<lanes>(sigmoid);
    sigmoid = (W{} + T{1}) / (sigmoid + T{1});
    const W y = x * sigmoid;
    store(out, y);
    if (grad == nullptr) return;
    W g;
    load(g, grad);
    store(grad, g * (sigmoid + y * (W{} + T{1} - sigmoid)));
  }
};

/// out = silu(x), which may be x; where they are defined, kept = x and grad *= silu'(x). All contiguous.
inline void silu_out(const Tensor& out, const Tensor& x, const Tensor& kept, const Tensor& grad) {
  with_scalar(x, [&](auto zero) {
    using T = decltype(zero);
    const auto data = [](const Tensor& t) { return t.defined() ? t.data_ptr<T>() : nullptr; };
    run_kernel<SiluKernel>(machine_isa(), x.numel(), static_cast<const T*>(x.data_ptr<T>()), data(out), data(kept),
                           data(grad));
  });
}

/// Factors for each image's channels before each branch, (B,C); both undefined where all are 1.
struct ChannelMasks {
  Tensor linear, hidden;
};

/// z = linear(x) + out(silu(hidden(x))), with the masks' factors for each image's channels, which go to the matrices:
/// the features are read, and never copied.
struct Projection : torch::autograd::Function<Projection> {
  using Context = torch::autograd::AutogradContext;

  /// @param features (B,C,N). @param linear_weight, out_weight (D,C). @param hidden_weight (C,C).
  /// @param linear_bias, out_bias (D). @param hidden_bias (C). @param keeps whether a backward pass may follow.
  /// @return z, (B,D,N).
  static Tensor forward(Context* context, const Tensor& features, const ChannelMasks& masks,
                        const Tensor& linear_weight, const Tensor& linear_bias, const Tensor& hidden_weight,
                        const Tensor& hidden_bias, const Tensor& out_weight, const Tensor& out_bias,
                        Workspace* workspace) {
    const int64_t batch = features.size(0), d = linear_weight.size(0), c = hidden_weight.size(0);
    const Tensor bias = at::cat({linear_bias + out_bias, hidden_bias});
    Tensor code = torch::empty({batch, d, features.size(2)}, features.options());
    Tensor hidden;  // before its activation
    if (workspace != nullptr) hidden = workspace->take(features.sizes(), features.options());
    const Weights weights{linear_weight, hidden_weight, masks};
    for_images(batch, [&](int64_t b) {
      const Tensor both = linear_of_columns(weights.of_image(b), features[b], bias);
      const Tensor activated = both.narrow(0, d, c);
      silu_out(activated, activated, hidden.defined() ? hidden[b] : Tensor(), {});
      Tensor z = code[b];
      at::add_out(z, both.narrow(0, 0, d), linear_of_columns(out_weight, activated));
    });
    if (workspace != nullptr) {
      context->save_for_backward(
          {features, masks.linear, masks.hidden, linear_weight, hidden_weight, out_weight, hidden});
    }
    return code;
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::Projector");
    const auto saved = context->get_saved_variables();
    const Tensor &features = saved[0], &out_weight = saved[5], &hidden = saved[6];
    const ChannelMasks masks{saved[1], saved[2]};
    const Weights weights{saved[3], saved[4], masks};
    const Tensor grad = grads[0].contiguous(), out_transposed = out_weight.t().contiguous();
    const int64_t batch = features.size(0), d = out_weight.size(0), c = out_weight.size(1);
    const bool wants_features = context->needs_input_grad(0);
    const Tensor grad_features = wants_features ? torch::empty_like(features, at::MemoryFormat::Contiguous) : Tensor();
    // Sums over a few images at a time, added up in order: the result does not depend on the number of threads.
    std::vector<Sums> sums(static_cast<std::size_t>((batch + kImages - 1) / kImages));
    for_images(batch, [&](int64_t b) {
      // Of linear's result and of hidden's.
      const Tensor grad_both = at::cat({grad[b], linear_of_columns(out_transposed, grad[b])});
      const Tensor activated = torch::empty_like(hidden[b]);
      silu_out(activated, hidden[b], {}, grad_both.narrow(0, d, c));
      Sums& sum = sums[static_cast<std::size_t>(b / kImages)];
      const Tensor grad_weights = detail::linear(grad_both, features[b]);  // (D+C,C)
      sum.add(0, grad_weights.narrow(0, 0, d), masks.linear, b);
      sum.add(1, grad_weights.narrow(0, d, c), masks.hidden, b);
      sum.add(2, detail::linear(grad[b], activated), {}, b);
      sum.add(3, grad_both.sum(1), {}, b);
      if (wants_features) grad_features[b].copy_(linear_of_columns(weights.of_image(b).t(), grad_both));
    });
    for (std::size_t i = 1; i < sums.size(); ++i) {
      for (std::size_t part = 0; part < kParts; ++part) sums[0].parts[part] += sums[i].parts[part];
    }
    const auto& [linear_weight, hidden_weight, out, bias] = sums[0].parts;
    const Tensor linear_bias = bias.narrow(0, 0, d);
    return {grad_features,        Tensor(), linear_weight, linear_bias, hidden_weight,
            bias.narrow(0, d, c), out,      linear_bias,   Tensor()};
  }

 private:
  static constexpr int64_t kImages = 2;  // of a task
  static constexpr std::size_t kParts = 4;

  /// Gradients summed over images.
  struct Sums {
    Tensor parts[kParts];

    /// Adds a gradient, whose channels are multiplied with the mask's factors for an image.
    void add(std::size_t part, const Tensor& gradient, const Tensor& mask, int64_t image) {
      Tensor& sum = parts[part];
      if (!sum.defined()) {
        sum = mask.defined() ? gradient * mask[image] : gradient.clone();
      } else if (mask.defined()) {
        sum.addcmul_(gradient, mask[image]);
      } else {
        sum += gradient;
      }
    }
  };

  struct Weights {
    const Tensor &linear, &hidden;
    const ChannelMasks& masks;

    /// The matrices of both branches, (D+C,C), their channels multiplied with the masks' factors for an image.
    Tensor of_image(int64_t b) const {
      if (!masks.linear.defined()) return at::cat({linear, hidden});
      const int64_t d = linear.size(0), c = hidden.size(0);
      Tensor both = torch::empty({d + c, linear.size(1)}, linear.options());
      Tensor first = both.narrow(0, 0, d), second = both.narrow(0, d, c);
      at::mul_out(first, linear, masks.linear[b]);
      at::mul_out(second, hidden, masks.hidden[b]);
      return both;
    }
  };

  /// Calls f for each image, on all threads.
  template <class F>
  static void for_images(int64_t batch, const F& f) {
    const bool inference = c10::InferenceMode::is_enabled();
    at::parallel_for(0, (batch + kImages - 1) / kImages, 1, [&](int64_t begin, int64_t end) {
      const c10::InferenceMode mode(inference);  // each thread has its own
      const torch::NoGradGuard no_grad;
      for (int64_t b = begin * kImages; b < std::min(batch, end * kImages); ++b) f(b);
    });
  }
};

}  // namespace smooseg::detail
