#pragma once

#include <ATen/core/Generator.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::backbone {

/// A number for each of red, green and blue.
using Rgb = std::array<double, 3>;

/// Mean and standard deviation of ImageNet's channels, for pixels in [0,1]. Most backbones take images normalised with
/// them; `Backbone::mean` and `Backbone::std` tell.
inline constexpr Rgb kImageNetMean{0.485, 0.456, 0.406};
inline constexpr Rgb kImageNetStd{0.229, 0.224, 0.225};

/// Images one after another, each call the next, as `Backbone::features` takes them.
using ImageStream = std::function<Tensor()>;

/// Opens a stream of the images of these numbers, in their order, so that they can be read ahead.
using ImageSource = std::function<ImageStream(const std::vector<int64_t>& numbers)>;

/// Where a window lies in its picture, in pixels; the picture's size is that after padding to whole patches.
struct Window {
  int64_t top, left, picture_height, picture_width;
};

/// A frozen feature extractor: pictures in, one feature vector per patch out. Implementations are LibTorch modules, so
/// that their state (weights, or the statistics of `Texture`) is saved, loaded and moved between devices as usual. Those
/// here always compute as in evaluation, and their parameters require no gradient until asked to. Images are converted
/// to the dtype of the state, and so are the results.
class Backbone : public torch::nn::Module {
 public:
  /// Features of each patch.
  /// @param images (B,3,H,W), floating, RGB in [0,1] less `mean()`, divided by `std()`; H and W multiples of
  ///   `patch_size()`. Of another number of channels where `input_channels()` says so.
  /// @return (B,C,H/p,W/p) with C = `channels()` and p = `patch_size()`.
  /// @throws c10::Error for other shapes or dtypes.
  virtual Tensor features(const Tensor& images) = 0;

  /// Features of a window of a picture that is not looked at as a whole. Default: those of the window by itself, which
  /// a backbone overrides where a patch's place in the picture matters (`Texture`).
  /// @param images the window's pixels, as `features` takes them. @param window begins at a multiple of the patch.
  virtual Tensor window_features(const Tensor& images, const Window& /*window*/) { return features(images); }

  /// How many pixels beyond a patch its features depend on, where a backbone looks no farther: with so many around a
  /// window, the features within are those of the whole picture. A multiple of the patch. Default: 0, where all of a
  /// picture matters.
  virtual int64_t reach() const { return 0; }

  /// Learns from training images what this backbone has in place of weights; nothing by default. Those that come with
  /// weights or need none have nothing to learn.
  /// @param images opened once at most, with numbers from 0 to count - 1.
  /// @param count number of images there are.
  /// @param generator source of randomness (CPU); the default one where none is given. With the same one and the same
  ///   images, the result is the same.
  /// @return how well what was learnt fits the images, by the backbone's own measure; 0 where it learns nothing.
  virtual double fit(const ImageSource& /*images*/, int64_t /*count*/,
                     const std::optional<at::Generator>& /*generator*/) {
    return 0;
  }

  /// Side of a patch in pixels.
  virtual int64_t patch_size() const = 0;

  /// Number of feature channels C.
  virtual int64_t channels() const = 0;

  /// Mean and standard deviation that images are normalised with, of pixels in [0,1]. Default: ImageNet's
  virtual Rgb mean() const { return kImageNetMean; }
  virtual Rgb std() const { return kImageNetStd; }

  /// Number of channels of its images: 3, but for a backbone that does not look at colours (`Precomputed`).
  virtual int64_t input_channels() const { return 3; }

  /// Whether `features` of a picture of any size stays within bounded memory and needs the whole picture at once
  /// (`Texture`). Where false (attention grows with the square of the patches), large pictures are cut into tiles.
  virtual bool takes_whole_pictures() const { return false; }

  /// A deep copy, which `CloneableBackbone` provides. @throws c10::Error otherwise.
  std::shared_ptr<torch::nn::Module> clone(const detail::OptionalDevice& = {}) const override {
    TORCH_CHECK(false, name(), " has no clone(): derive it from smooseg::backbone::CloneableBackbone to give it one");
  }

 protected:
  /// Checks what `features` demands of its images, also that they lie where the backbone's weights do, if these are
  /// given; `function` names the caller in the error.
  void check_images(const Tensor& images, const char* function, const Tensor& weights = {}) const {
    const int64_t p = patch_size();
    detail::check_map(images, function, "images", "(B,3,H,W)", 4);
    TORCH_CHECK(images.size(1) == input_channels(), function, ": expected images of shape (B,", input_channels(),
                ",H,W), got ", detail::shape_of(images));
    TORCH_CHECK(images.size(2) % p == 0 && images.size(3) % p == 0, function,
                ": expected a height and width that are multiples of the patch size ", p, ", got ", images.size(2),
                " x ", images.size(3));
    if (weights.defined()) detail::check_same_device(images, weights, function, "images", "the weights");
  }
};

/// The base of a backbone's implementation: `Backbone` with what `torch::nn::Cloneable` gives to other modules. (The
/// two cannot be combined: Cloneable derives from Module virtually in LibTorch 1.13, and not so in 2.x.) `Derived` is
/// constructed from its member `options`, registers everything in `reset()`, and keeps its state in parameters and
/// buffers alone.
template <typename Derived>
class CloneableBackbone : public Backbone {
 public:
  /// Creates and registers parameters, buffers and submodules anew.
  virtual void reset() = 0;

  /// A deep copy; unlike Cloneable's, its parameters require gradients only where this module's do.
  /// @param device where the copy lives; where this module lives if not given.
  std::shared_ptr<torch::nn::Module> clone(const detail::OptionalDevice& device = {}) const override {
    const torch::NoGradGuard no_grad;
    const auto copy = std::make_shared<Derived>(static_cast<const Derived&>(*this).options);
    const auto copy_tensors = [&](const auto& from, auto to) {
      for (const auto& item : from) {
        auto tensor = item.value().clone();
        to[item.key()].set_data(device ? tensor.to(*device) : tensor);
        to[item.key()].set_requires_grad(item.value().requires_grad());
      }
    };
    copy_tensors(named_parameters(), copy->named_parameters());
    copy_tensors(named_buffers(), copy->named_buffers());
    copy->train(is_training());
    return copy;
  }

 private:
  void clone_(torch::nn::Module& other, const detail::OptionalDevice& device) final {
    const auto copy = std::dynamic_pointer_cast<Derived>(other.clone(device));
    TORCH_CHECK(copy != nullptr, "clone: a backbone of another type was registered under this name");
    static_cast<Derived&>(*this) = *copy;
  }
};

}  // namespace smooseg::backbone
