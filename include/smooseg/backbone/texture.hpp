#pragma once

// A backbone without weights: colour and texture statistics of patches, described by the textons that they resemble.
// With it everything runs with nothing to download.

#include <ATen/Functions.h>
#include <ATen/core/Generator.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/baselines/kmeans.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/exchange.hpp"

namespace smooseg::backbone {

/// sRGB to CIE L*a*b* under D65 (IEC 61966-2-1; CIE 15).
/// @param rgb (B,3,H,W), floating, in [0,1].
/// @return (B,3,H,W): L* in [0,100], a*, b*.
inline Tensor rgb_to_lab(const Tensor& rgb) {
  const auto matrix = [&](const std::array<double, 9>& values) {
    return smooseg::detail::numbers_on(rgb.device(), values, rgb.scalar_type()).view({3, 3});
  };
  const Tensor xyz = matrix({0.412453, 0.357580, 0.180423, 0.212671, 0.715160, 0.072169, 0.019334, 0.119193, 0.950227});
  const Tensor relative_xyz = xyz / xyz.sum({1}, /*keepdim=*/true);  // white is (1, 1, 1)
  const Tensor linear = at::where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055).pow(2.4));
  const Tensor t = at::matmul(relative_xyz, linear.flatten(2));
  constexpr double kDelta = 6.0 / 29;
  const Tensor f = at::where(t > kDelta * kDelta * kDelta, t.pow(1.0 / 3), t / (3 * kDelta * kDelta) + 4.0 / 29);
  const Tensor lab = at::matmul(matrix({0, 116, 0, 500, -500, 0, 0, 200, -200}), f);
  lab.select(1, 0).sub_(16);
  return lab.view(rgb.sizes());
}

/// Options for `Texture`.
struct TextureOptions {
  /// Number of textons, the feature channels. Default: 128
  TORCH_ARG(int64_t, textons) = 128;

  /// Weight of a patch's position: 1 for scenes with an up and a down that are seen along a way, such as streets; 0
  /// where pictures have no up, such as those from the air. Default: 1
  TORCH_ARG(double, position) = 1.0;

  /// Sharpness of the assignment to textons: the factor of the cosines in the softmax. Default: 10
  TORCH_ARG(double, sharpness) = 10.0;

  /// The processes that share the pictures of `fit`, and all find the same textons; null: this process looks at all.
  TORCH_ARG(std::shared_ptr<Exchange>, exchange) = nullptr;
};

/// Statistics of patches of 8 x 8 pixels, compared with the textons (Malik et al., 2001) of the pictures that it was
/// fitted to. In four steps:
/// 1. Per patch: mean and deviation of the three CIE Lab channels, and the log energy of lightness gradients in 4
///    orientations at 3 scales (Gaussian derivatives with sigma of 0.7, 1.4 and 2.8 pixels); 18 numbers.
/// 2. The same averaged over 5 x 5 and over 11 x 11 patches, 54 in all; each standardised by its mean and deviation
///    over the pictures.
/// 3. The position: height from -1 at the top to 1 at the bottom, times `position` x sqrt(54); distance from the
///    vertical middle line, from -1 on it to 1 at the sides, times half of that.
/// 4. The square root of the softmax of `sharpness` x the cosine with each texton: a unit vector of non-negative
///    numbers. The cosine of two such (Eq. 2) is the overlap of two assignments, sparse and in [0,1] as closeness from
///    DINO's features is.
///
///     Texture texture(TextureOptions().position(0));
///     texture->fit([&](int64_t i) { return load_picture(i); }, count);
///     Tensor features = texture->features(images);
///
/// Its state is in the buffers `mean` (54), `deviation` (54) and `textons` (K,56), all zeros before `fit` or a load. They
/// determine the dtype and device of the results; images are converted.
class TextureImpl : public CloneableBackbone<TextureImpl> {
 public:
  /// The most pictures that `fit` looks at, and the most patches that it keeps.
  static constexpr int64_t kFitPictures = 1000, kFitPatches = 60000;

  /// @throws c10::Error for fewer than 2 textons, a negative position or a sharpness that is not positive.
  explicit TextureImpl(const TextureOptions& options_ = {}) : options(options_) {
    TORCH_CHECK(options.textons() >= 2, "Texture: expected at least 2 textons, got ", options.textons());
    TORCH_CHECK(options.position() >= 0, "Texture: expected a position of at least 0, got ", options.position());
    TORCH_CHECK(options.sharpness() > 0, "Texture: expected a positive sharpness, got ", options.sharpness());
    reset();
  }

  /// Forgets what `fit` found.
  void reset() override {
    mean = register_buffer("mean", at::zeros({kStatistics}));
    deviation = register_buffer("deviation", at::zeros({kStatistics}));
    textons = register_buffer("textons", at::zeros({options.textons(), kStatistics + 2}));
  }

  /// How much each patch resembles each texton.
  /// @param images as `Backbone::features` takes them, on the device of the textons. Pictures of any size: little more
  ///   memory is used than the result takes.
  /// @return (B,K,H/8,W/8), non-negative, of unit length along K.
  /// @throws c10::Error for other shapes, dtypes or devices; on the CPU, where that needs no wait, before `fit` or a load.
  Tensor features(const Tensor& images) override {
    check_images(images, kFeatures, textons);
    return window_features(images, {0, 0, images.size(2), images.size(3)});
  }

  /// The same of a window, whose patches have their places in the picture.
  Tensor window_features(const Tensor& images, const Window& window) override {
    check_images(images, kFeatures, textons);
    TORCH_CHECK(!textons.device().is_cpu() || textons.any().item<bool>(), kFeatures,
                ": there are no textons yet; call `fit` with pictures, or load a fitted state");
    const torch::NoGradGuard no_grad;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Tensor x = with_position(statistics(images), window).flatten(2);
    const Tensor result = at::empty({x.size(0), options.textons(), x.size(2)}, textons.options());
    for (int64_t image = 0; image < x.size(0); ++image) {
      const auto parts = [&](const Tensor& t) { return t.narrow(0, image, 1).split(kPatchesAtATime, 2); };
      const std::vector<Tensor> from = parts(x), to = parts(result);
      for (std::size_t i = 0; i < from.size(); ++i) to[i].copy_(resemblance(from[i]));
    }
    return result.view({images.size(0), options.textons(), images.size(2) / kPatch, images.size(3) / kPatch});
  }

  /// Finds the statistics and textons of training pictures. Of more than `kFitPictures`, a random choice is looked at,
  /// and of all patches at most `kFitPatches` are kept, so that memory is bounded.
  /// @return mean cosine of patches and their nearest textons.
  /// @throws c10::Error for pictures that `features` would not take, for fewer patches than textons, and for fewer
  ///   pictures than processes.
  double fit(const ImageSource& images, int64_t count, const std::optional<at::Generator>& generator) override {
    constexpr auto kFunction = "Texture::fit";
    TORCH_CHECK(count >= 1, kFunction, ": expected at least 1 picture, got ", count);
    const torch::NoGradGuard no_grad;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    Tensor order = random_order(count, generator).narrow(0, 0, std::min(count, kFitPictures));
    int64_t wanted = kFitPatches;
    if (options.exchange() != nullptr) {
      const int64_t processes = options.exchange()->size();
      TORCH_CHECK(count >= processes, kFunction, ": expected at least 1 picture for each of ", processes,
                  " processes, got ", count);
      order = order.slice(0, options.exchange()->rank(), order.numel(), processes).contiguous();
      wanted /= processes;
    }
    const ImageStream next_image = images({order.data_ptr<int64_t>(), order.data_ptr<int64_t>() + order.numel()});
    const Tensor patches = sample(next_image, order.numel(), wanted, generator, kFunction);
    TORCH_CHECK(patches.size(0) >= options.textons(), kFunction, ": expected at least as many patches as textons, ",
                options.textons(), ", got ", patches.size(0), " from ", count, " pictures");
    const Tensor found = patches.narrow(1, 0, kStatistics);
    standardise(found);
    baselines::KMeans kmeans(baselines::KMeansOptions(options.textons()).exchange(options.exchange()), generator);
    const double similarity = kmeans.fit(described(patches.unsqueeze(2)));
    textons.copy_(kmeans.centers());
    return similarity;
  }

  /// The same for pictures that are read as they are asked for.
  /// @param picture gives number i of the pictures, 0 to count - 1, as `features` takes them: (B,3,H,W).
  double fit(const std::function<Tensor(int64_t)>& picture, int64_t count,
             const std::optional<at::Generator>& generator = {}) {
    const ImageSource images = [&](const std::vector<int64_t>& numbers) {
      return [&picture, numbers, next = std::size_t{0}]() mutable { return picture(numbers.at(next++)); };
    };
    return fit(images, count, generator);
  }

  int64_t patch_size() const override { return kPatch; }
  int64_t channels() const override { return options.textons(); }
  bool takes_whole_pictures() const override { return true; }
  int64_t reach() const override { return (kWidest / 2 + 2) * kPatch; }  // two more patches for the widest filter

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::backbone::Texture(textons=" << options.textons() << ", position=" << options.position()
           << ", sharpness=" << options.sharpness() << ")";
  }

  TextureOptions options;
  Tensor mean;       ///< (54), of each statistic
  Tensor deviation;  ///< (54), of each statistic
  Tensor textons;    ///< (K,56), unit vectors

 private:
  static constexpr int64_t kPatch = 8;
  static constexpr std::array<double, 3> kSigmas{0.7, 1.4, 2.8};
  static constexpr int64_t kPerPatch = 6 + 4 * static_cast<int64_t>(kSigmas.size());
  static constexpr int64_t kStatistics = 3 * kPerPatch;

  /// The largest number of patches a side over which statistics are averaged.
  static constexpr int64_t kWidest = 11;

  static constexpr auto kFeatures = "Texture::features";

  /// Added to energies before their logarithm: a step of 1 in lightness L* is hardly visible.
  static constexpr double kEnergyFloor = 1.0;

  /// Pixels worked on at a time, few enough to stay in cache.
  static constexpr int64_t kPixelsAtATime = int64_t{1} << 16;

  /// The fewest rows of patches worked on at a time: with fewer, the margins would cost too much.
  static constexpr int64_t kLeastRows = 8;

  /// Patches compared with the textons at a time.
  static constexpr int64_t kPatchesAtATime = int64_t{1} << 12;

  static Tensor random_order(int64_t count, const std::optional<at::Generator>& generator) {
    return at::randperm(count, smooseg::detail::torch_generator(generator), torch::kInt64);
  }

  /// Mean and deviation of statistics (N,54), over all processes.
  void standardise(const Tensor& found) {
    Tensor average, spread;
    if (options.exchange() == nullptr) {
      average = found.mean(0);
      spread = found.std(0);
    } else {
      Exchange& exchange = *options.exchange();
      const Tensor count = exchange.all_reduce(at::full({1}, found.size(0), found.options()));
      average = exchange.all_reduce(found.sum(0)) / count;
      spread = (exchange.all_reduce((found - average).square().sum(0)) / (count - 1)).sqrt();
    }
    mean.copy_(average);
    // The bound keeps rounding errors of grey or plain pictures from being blown up.
    deviation.copy_(spread.clamp_min(0.01));
  }

  /// The statistics of up to `wanted` patches drawn from `count` pictures, with their positions: (N,56).
  Tensor sample(const ImageStream& next_image, int64_t count, int64_t wanted,
                const std::optional<at::Generator>& generator, const char* function) const {
    std::vector<Tensor> kept;
    for (int64_t i = 0; i < count; ++i) {
      const Tensor images = next_image();
      check_images(images, function);
      const Window whole{0, 0, images.size(2), images.size(3)};
      const Tensor all = with_position(statistics(images.to(textons.device())), whole).movedim(1, -1).flatten(0, 2);
      const int64_t share = std::min(all.size(0), wanted / (count - i));
      kept.push_back(all.index_select(0, random_order(all.size(0), generator).narrow(0, 0, share).to(all.device())));
      wanted -= share;
    }
    return at::cat(kept);
  }

  /// Step 3, not weighted: (B,54,h,w) -> (B,56,h,w).
  static Tensor with_position(const Tensor& statistics, const Window& window) {
    const auto centres = [&](int64_t begin, int64_t count, int64_t pixels) {
      const Tensor patches = at::arange(begin / kPatch, begin / kPatch + count, statistics.options());
      return (patches * 2 + 1) / (pixels / kPatch) - 1;
    };
    const Tensor height = centres(window.top, statistics.size(2), window.picture_height).view({1, 1, -1, 1});
    const Tensor aside =
        centres(window.left, statistics.size(3), window.picture_width).abs().mul(2).sub(1).view({1, 1, 1, -1});
    const Tensor shape = statistics.narrow(1, 0, 1);
    return at::cat({statistics, height.expand_as(shape), aside.expand_as(shape)}, 1);
  }

  /// What textons are compared with: statistics standardised, positions weighted, (B,56,P) to the same.
  Tensor described(const Tensor& x) const {
    const double weight = options.position() * std::sqrt(static_cast<double>(kStatistics));
    const Tensor weights = smooseg::detail::numbers_on(mean.device(), {weight, weight / 2}, mean.scalar_type());
    const auto per_channel = [&](const Tensor& v) { return v.to(x.scalar_type()).view({-1, 1}); };
    return (x - per_channel(at::cat({mean, at::zeros_like(weights)}))) *
           per_channel(at::cat({deviation.reciprocal(), weights}));
  }

  /// Step 4 for patches of one or more images: (B,56,P) -> (B,K,P).
  Tensor resemblance(const Tensor& patches) const {
    const Tensor x = described(patches);
    const Tensor cosines = at::matmul(textons.to(x.scalar_type()), x).div_(baselines::KMeans::norm(x));
    return cosines.mul_(options.sharpness()).softmax(1).sqrt_();
  }

  /// Steps 1 and 2, not standardised: (B,3,H,W) -> (B,54,H/8,W/8), in the textons' dtype, at least float32.
  Tensor statistics(const Tensor& images) const {
    const auto dtype = c10::promoteTypes(textons.scalar_type(), torch::kFloat);
    const int64_t rows = images.size(2) / kPatch, width = images.size(3);
    const int64_t images_at_a_time = std::max<int64_t>(1, kPixelsAtATime / (images.size(2) * width));
    const int64_t rows_at_a_time = std::max<int64_t>(kLeastRows, kPixelsAtATime / (kPatch * width));
    std::vector<Tensor> batches;
    for (const Tensor& batch : images.split(images_at_a_time)) {
      std::vector<Tensor> strips;
      for (int64_t row = 0; row < rows; row += rows_at_a_time) {
        strips.push_back(patch_statistics(batch, row, std::min(row + rows_at_a_time, rows), dtype));
      }
      batches.push_back(at::cat(strips, 2));
    }
    const Tensor own = at::cat(batches);
    return at::cat({own, box_average(own, 5), box_average(own, kWidest)}, 1);
  }

  /// Means over windows of side x side, of what lies inside the map. Rows and columns in turn, which is the same.
  static Tensor box_average(const Tensor& x, int64_t side) {
    const auto average = [](const Tensor& t, int64_t height, int64_t width) {
      return at::avg_pool2d(t, {height, width}, 1, {height / 2, width / 2}, /*ceil_mode=*/false,
                            /*count_include_pad=*/false);
    };
    return average(average(x, side, 1), 1, side);
  }

  /// Step 1 for some rows of patches: (B,18,end - begin,W/8).
  static Tensor patch_statistics(const Tensor& images, int64_t begin, int64_t end, torch::ScalarType dtype) {
    // Two more rows of patches on either side hold all that the widest filter reaches.
    const int64_t first = std::max<int64_t>(begin - 2, 0);
    const int64_t rows = std::min(end + 2, images.size(2) / kPatch) - first;
    const Tensor lab = rgb_to_lab(pixels(images.narrow(2, first * kPatch, rows * kPatch).to(dtype)));
    const auto wanted = [&](const Tensor& t) { return t.narrow(2, (begin - first) * kPatch, (end - begin) * kPatch); };
    const Tensor inside = wanted(lab);
    const Tensor average = at::avg_pool2d(inside, kPatch);
    std::vector<Tensor> found{average, deviations(inside, average)};
    const Tensor lightness = lab.narrow(1, 0, 1).contiguous();
    for (const double sigma : kSigmas) {
      const Tensor squares = wanted(gradient_products(lightness, sigma));
      found.push_back(log_energies(at::avg_pool2d(squares, kPatch)));
    }
    return at::cat(found, 1);
  }

  /// RGB in [0,1] of normalised images.
  static Tensor pixels(const Tensor& images) {
    const auto per_channel = [&](const std::array<double, 3>& values) {
      return smooseg::detail::numbers_on(images.device(), values, images.scalar_type()).view({1, 3, 1, 1});
    };
    return at::addcmul(per_channel(kImageNetMean), images, per_channel(kImageNetStd)).clamp_(0, 1);
  }

  /// Standard deviation within each patch, given its mean: (B,3,H,W), (B,3,h,w) -> (B,3,h,w).
  static Tensor deviations(const Tensor& x, const Tensor& average) {
    const int64_t h = average.size(2), w = average.size(3);
    const Tensor centred = x.reshape({-1, h, kPatch, w, kPatch}) - average.reshape({-1, h, 1, w, 1});
    return at::avg_pool2d(centred.square_().view(x.sizes()), kPatch).sqrt_();
  }

  /// gx^2, gy^2 and gx gy, (B,3,H,W), of the gradients of a Gaussian-smoothed image (B,1,H,W), borders repeated.
  static Tensor gradient_products(const Tensor& image, double sigma) {
    const auto radius = static_cast<int64_t>(std::ceil(3 * sigma));
    const Tensor t = at::arange(-radius, radius + 1, image.options());
    const Tensor gauss = (t * t / (-2 * sigma * sigma)).exp();
    const Tensor smooth = gauss / gauss.sum();
    const Tensor slope = t * gauss / (t * t * gauss).sum();  // 1 for a ramp of 1 per pixel
    const Tensor padded = at::replication_pad2d(image, {radius, radius, radius, radius});
    const Tensor down = at::stack({smooth, slope}).view({2, 1, -1, 1});    // for gx, gy
    const Tensor across = at::stack({slope, smooth}).view({2, 1, 1, -1});  // the same
    const Tensor g = at::conv2d(at::conv2d(padded, down), across, {}, 1, "valid", 1, /*groups=*/2);
    return at::cat({g * g, g.narrow(1, 0, 1) * g.narrow(1, 1, 1)}, 1);
  }

  /// Log energies at 0, 45, 90 and 135 degrees from the mean products of gradients (the structure tensor), since the
  /// derivative at angle a is gx cos a + gy sin a: (B,3,h,w) -> (B,4,h,w).
  static Tensor log_energies(const Tensor& products) {
    const Tensor xx = products.select(1, 0), yy = products.select(1, 1), xy = products.select(1, 2);
    const Tensor half = (xx + yy) / 2;
    return at::stack({xx, half + xy, yy, half - xy}, 1).clamp_min_(0).add_(kEnergyFloor).log_();
  }
};
TORCH_MODULE(Texture);

}  // namespace smooseg::backbone
