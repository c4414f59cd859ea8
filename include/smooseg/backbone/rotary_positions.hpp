#pragma once

// Rotary positions (Su et al., 2021) on a plane, as DINOv3 (Siméoni et al., 2025) has them.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "smooseg/detail/kernels/rotation.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::backbone {

/// The angles by which the queries and keys of patches are turned. With d/4 periods for heads of d channels, and the
/// centres of patches from -1 to 1 along each side of the picture, the angles are 2 pi y / period, then
/// 2 pi x / period. Pair i of channels, i and i + d/2, is turned by angle i.
///
/// Buffers periods (d/4), float32, and bfloat16 (), bool: whether all is rounded to bfloat16 on the way, as DINOv3's
/// program does where its periods have that dtype. Files of that dtype set it. Both stay on the CPU and in their
/// dtypes, whatever the module is moved or converted to.
class RotaryPositionsImpl : public torch::nn::Module {
 public:
  /// Periods base^(2 i / (d/2)), i from 0 to d/4 - 1.
  /// @param head_size d, a multiple of 4. @param base positive.
  RotaryPositionsImpl(int64_t head_size, double base) {
    const Tensor exponents = torch::arange(head_size / 4, torch::kFloat64) / (static_cast<double>(head_size) / 4);
    periods_ = register_buffer("periods", at::pow(base, exponents).to(torch::kFloat32));
    bfloat16_ = register_buffer("bfloat16", torch::zeros({}, torch::kBool));
  }

  /// The rotation of tokens of which the first belong to no patch and are not turned; computed once for each size, of
  /// which some are kept. Safe to be called by several threads.
  /// @param others number of tokens before the patches. @param rows, columns of patches.
  /// @param like a tensor on the device where it is wanted; in float64 if this is, else in float32.
  detail::Rotation rotation(int64_t others, int64_t rows, int64_t columns, const Tensor& like) {
    const Key key{others, rows, columns, like.device(),
                  like.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32};
    const std::lock_guard<std::mutex> lock(mutex_);
    forget_other_periods();
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) { return kept.key == key; });
    if (found != kept_.end()) return found->rotation;
    constexpr std::size_t kMost = 16;  // the sizes of a data set's pictures without end
    if (kept_.size() == kMost) kept_.pop_front();
    kept_.push_back({key, compute(key)});
    return kept_.back().rotation;
  }

  void to(torch::Device /*device*/, torch::Dtype /*dtype*/, bool /*non_blocking*/ = false) override {}
  void to(torch::Dtype /*dtype*/, bool /*non_blocking*/ = false) override {}
  void to(torch::Device /*device*/, bool /*non_blocking*/ = false) override {}

 private:
  struct Key {
    int64_t others, rows, columns;
    torch::Device device;
    torch::ScalarType dtype;

    bool operator==(const Key& o) const {
      return others == o.others && rows == o.rows && columns == o.columns && device == o.device && dtype == o.dtype;
    }
  };
  struct Kept {
    Key key;
    detail::Rotation rotation;
  };

  /// Loading a file changes the buffers without a word.
  void forget_other_periods() {
    for (Tensor* buffer : {&periods_, &bfloat16_}) {
      if (!buffer->is_cpu()) buffer->set_data(buffer->cpu());  // cloned to another device
    }
    const float* const now = periods_.data_ptr<float>();
    const bool rounds = *bfloat16_.data_ptr<bool>();
    const auto count = static_cast<std::size_t>(periods_.numel());
    if (rounds == rounds_ && std::equal(made_from_.begin(), made_from_.end(), now, now + count)) return;
    kept_.clear();
    made_from_.assign(now, now + count);
    rounds_ = rounds;
  }

  detail::Rotation compute(const Key& key) const {
    const torch::NoGradGuard no_grad;
    const auto round = [this](const Tensor& t) { return rounds_ ? t.to(torch::kBFloat16).to(torch::kFloat64) : t; };
    const Tensor periods = periods_.to(torch::kFloat64);
    // 2 pi c / period of the centres c along a side: (n, d/4).
    const auto angles = [&](int64_t n) {
      const Tensor unit = round(round(torch::arange(n, torch::kFloat64) + 0.5) / static_cast<double>(n));
      const Tensor centres = round(round(unit * 2) - 1);
      return round(round(centres * (2 * std::acos(-1.0))).unsqueeze(1) / periods);
    };
    const std::vector<int64_t> grid{key.rows, key.columns, periods.numel()};
    const Tensor of_patches =
        at::cat({angles(key.rows).unsqueeze(1).expand(grid), angles(key.columns).expand(grid)}, 2);
    const Tensor all =
        at::cat({at::zeros({key.others, 2 * periods.numel()}, torch::kFloat64), of_patches.flatten(0, 1)});
    const auto finished = [&](const Tensor& t) { return round(t).to(key.device, key.dtype).contiguous(); };
    return {finished(all.cos()), finished(all.sin()), rounds_};
  }

  Tensor periods_, bfloat16_;
  std::mutex mutex_;
  std::vector<float> made_from_;  // the periods of all that is kept
  bool rounds_ = false;
  std::deque<Kept> kept_;
};
TORCH_MODULE(RotaryPositions);

}  // namespace smooseg::backbone
