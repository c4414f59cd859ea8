#pragma once

#include <torch/arg.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <ostream>

#include "smooseg/backbone/backbone.hpp"

namespace smooseg::backbone {

struct PrecomputedOptions {
  /* implicit */ PrecomputedOptions(int64_t channels) : channels_(channels) {}

  /// Number of feature channels C, at least 1.
  TORCH_ARG(int64_t, channels);
};

/// Features that come from elsewhere (another program, files, other sensors) in the place of a network: what it takes
/// for images are the feature maps themselves, a pixel a patch. So a `Segmenter` with it trains on and labels maps, and
/// `SegmenterImpl::labels(maps, height, width)` gives labels in the size of the pictures that the maps show as a whole.
class PrecomputedImpl : public CloneableBackbone<PrecomputedImpl> {
 public:
  /// @throws c10::Error if the number of channels is not positive.
  explicit PrecomputedImpl(const PrecomputedOptions& options_) : options(options_) {
    TORCH_CHECK(options.channels() >= 1, "smooseg::backbone::Precomputed: expected at least one channel, got ",
                options.channels());
  }

  void reset() override {}

  /// @param maps (B,C,h,w), floating. @return the same.
  Tensor features(const Tensor& maps) override {
    check_images(maps, "smooseg::backbone::Precomputed::features");
    return maps;
  }

  int64_t patch_size() const override { return 1; }
  int64_t channels() const override { return options.channels(); }
  int64_t input_channels() const override { return options.channels(); }
  bool takes_whole_pictures() const override { return true; }

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::backbone::Precomputed(channels=" << options.channels() << ")";
  }

  PrecomputedOptions options;
};
TORCH_MODULE(Precomputed);

}  // namespace smooseg::backbone
