#pragma once

// The dense CRF for tensors: checks, batches, tiles and threads around `mean_field`.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <vector>

#include "smooseg/crf/mean_field.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/detail/tiles.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::crf {

/// Options for `DenseCrf`. The defaults are the paper's.
struct DenseCrfOptions {
  /// Number of updates of the marginals. Default: 10
  TORCH_ARG(int64_t, iterations) = 10;

  /// The kernels of the pairwise potential, any number of them. Default: a Gaussian of sxy 1 and weight 3, and a
  /// bilateral one of sxy 67, srgb 3 and weight 4.
  TORCH_ARG(std::vector<PairwiseTerm>, terms) = MeanFieldOptions().terms;

  /// How each kernel is normalised. Default: symmetrically.
  TORCH_ARG(Normalization, normalization) = Normalization::kSymmetric;

  /// mu, (K,K), floating: what class l (row) pays beside class l' (column). Default, undefined: Potts, 0 for l = l',
  /// else 1.
  TORCH_ARG(Tensor, compatibility);

  /// Smaller probabilities count as this one, so that no class is impossible. Default: 1e-5
  TORCH_ARG(double, min_probability) = 1e-5;

  /// Longest side, in pixels, of the tiles into which larger pictures are cut. Default: 1024
  TORCH_ARG(int64_t, tile) = 1024;

  /// The fewest pixels that neighbouring tiles share; each overlap is split in the middle. Default: 128
  TORCH_ARG(int64_t, overlap) = 128;

  /// Number of threads, each of which works on one picture or tile at a time. Default: 1
  TORCH_ARG(int64_t, threads) = 1;
};

/// The fully connected CRF of Kraehenbuehl and Koltun (2011) with Gaussian edge potentials, which moves the borders of
/// a segmentation to those of the picture:
///
///     crf::DenseCrf crf(crf::DenseCrfOptions().iterations(10));
///     Tensor q = crf(image, probabilities);
///
/// Takes one picture, (H,W,3) with maps (K,H,W), or a batch, (B,H,W,3) with (B,K,H,W). It computes in float32 on the
/// CPU: maps on another device are copied there, and the result back to theirs. There is no gradient. Results do not
/// depend on the number of threads, each of which holds one tile at a time.
class DenseCrf {
 public:
  /// @throws c10::Error for a probability, tile, overlap or number of threads out of range, std::invalid_argument for
  ///   other options (see `mean_field`).
  explicit DenseCrf(const DenseCrfOptions& options_ = {}) : options(options_) {
    TORCH_CHECK(options.min_probability() > 0 && options.min_probability() < 1, kName,
                ": expected min_probability between 0 and 1, got ", options.min_probability());
    TORCH_CHECK(options.overlap() >= 0 && options.tile() > 2 * options.overlap(), kName,
                ": expected a tile of more than twice the overlap, got ", options.tile(), " and ", options.overlap());
    TORCH_CHECK(options.threads() >= 1, kName, ": expected at least 1 thread, got ", options.threads());
    settings_.iterations = options.iterations();
    settings_.terms = options.terms();
    settings_.normalization = options.normalization();
    if (options.compatibility().defined()) {
      const Tensor& given = options.compatibility();
      TORCH_CHECK(given.dim() == 2 && given.size(0) == given.size(1) && given.numel() > 0, kName,
                  ": expected a compatibility of shape (K,K), got ", smooseg::detail::shape_of(given));
      // Transposed, because Eigen goes by columns.
      const Tensor mu = given.detach().to(torch::kCPU, torch::kFloat32).t().contiguous();
      settings_.compatibility = Eigen::Map<const Eigen::MatrixXf>(mu.data_ptr<float>(), mu.size(0), mu.size(1));
    }
    detail::check(settings_, static_cast<std::size_t>(settings_.compatibility.rows()));
  }

  /// Marginals of the classes.
  /// @param image (H,W,3) or (B,H,W,3) uint8, RGB.
  /// @param probabilities (K,H,W) or (B,K,H,W), floating: not negative, each pixel's sum 1.
  /// @return of the probabilities' shape, dtype and device; each pixel's sum is 1.
  /// @throws c10::Error for other shapes, dtypes and values.
  Tensor operator()(const Tensor& image, const Tensor& probabilities) const {
    const torch::NoGradGuard no_grad;
    check_maps(image, probabilities, kName, "probabilities");
    const double least = probabilities.min().item<double>();
    TORCH_CHECK(!std::isnan(least), kName, ": expected probabilities, got NaN");
    TORCH_CHECK(least >= 0, kName, ": expected probabilities of at least 0, got ", least);
    const double error = (probabilities.sum(-3, false, torch::kFloat32) - 1).abs().max().item<double>();
    const double tolerance = probabilities.element_size() < 4 ? 2e-2 : 1e-3;
    TORCH_CHECK(error <= tolerance, kName, ": expected probabilities whose sum over the classes is 1, got a sum ",
                error, " away from it");
    const Tensor energies = probabilities.to(torch::kFloat32).clamp_min(options.min_probability()).log_().neg_();
    return infer(image, energies).to(probabilities.options());
  }

  /// The same from energies.
  /// @param energies (K,H,W) or (B,K,H,W), floating, finite: -log(p), up to a constant for each pixel.
  /// @return marginals, of the energies' shape, dtype and device.
  /// @throws c10::Error for other shapes, dtypes and values.
  Tensor from_energies(const Tensor& image, const Tensor& energies) const {
    const torch::NoGradGuard no_grad;
    check_energies(image, energies, "smooseg::crf::DenseCrf::from_energies");
    return infer(image, energies).to(energies.options());
  }

  /// The most probable class of each pixel, from energies as `from_energies` takes them. Each thread holds the
  /// marginals of one tile only.
  /// @return (H,W) or (B,H,W) int64, on the energies' device.
  /// @throws c10::Error for other shapes, dtypes and values.
  Tensor labels_from_energies(const Tensor& image, const Tensor& energies) const {
    const torch::NoGradGuard no_grad;
    check_energies(image, energies, "smooseg::crf::DenseCrf::labels_from_energies");
    const Batch batch(image, energies);
    const Tensor labels = torch::empty({batch.maps.size(0), batch.maps.size(2), batch.maps.size(3)}, torch::kInt64);
    for_each_tile(batch, [&](const Tile& tile) {
      std::vector<float> memory;
      const Planes<float> marginals = infer(batch, tile, memory);
      int64_t* const to = labels.data_ptr<int64_t>() + tile.picture * labels.stride(0);
      for (int64_t y = tile.rows.keep_begin; y < tile.rows.keep_end; ++y) {
        for (int64_t x = tile.columns.keep_begin; x < tile.columns.keep_end; ++x) {
          const float* const pixel = marginals.data + (y - tile.rows.start) * marginals.row + x - tile.columns.start;
          int64_t best = 0;
          for (int64_t k = 1; k < batch.maps.size(1); ++k) {
            if (pixel[k * marginals.plane] > pixel[best * marginals.plane]) best = k;
          }
          to[y * labels.stride(1) + x] = best;
        }
      }
    });
    return (energies.dim() == 3 ? labels[0] : labels).to(energies.device());
  }

  void pretty_print(std::ostream& stream) const {
    stream << "smooseg::crf::DenseCrf(iterations=" << options.iterations();
    for (const PairwiseTerm& term : options.terms()) {
      stream << (term.srgb ? ", bilateral(sxy=" : ", gaussian(sxy=") << term.sxy;
      if (term.srgb) stream << ", srgb=" << *term.srgb;
      stream << ", weight=" << term.weight << ")";
    }
    stream << ")";
  }

  DenseCrfOptions options;

 private:
  static constexpr auto kName = "smooseg::crf::DenseCrf";

  /// Pictures and maps on the CPU, with a batch dimension, as the core reads them.
  struct Batch {
    Batch(const Tensor& image, const Tensor& energies)
        : images(batched(image.to(torch::kCPU))), maps(batched(energies.detach().to(torch::kCPU, torch::kFloat32))) {}
    static Tensor batched(const Tensor& t) { return (t.dim() == 3 ? t.unsqueeze(0) : t).contiguous(); }
    Tensor images;  // (B,H,W,3)
    Tensor maps;    // (B,K,H,W)
  };

  struct Tile {
    int64_t picture;
    smooseg::detail::TileSpan rows, columns;
    detail::Size size;
  };

  void check_maps(const Tensor& image, const Tensor& maps, const char* function, const char* argument) const {
    using smooseg::detail::shape_of;
    smooseg::detail::check_defined(image, function, "image");
    smooseg::detail::check_floating(maps, function, argument);
    TORCH_CHECK(image.scalar_type() == torch::kUInt8 && (image.dim() == 3 || image.dim() == 4) && image.size(-1) == 3 &&
                    image.numel() > 0,
                function, ": expected an image of shape (H,W,3) or (B,H,W,3), uint8, got ", shape_of(image), ", ",
                image.scalar_type());
    TORCH_CHECK(maps.dim() == image.dim() && maps.numel() > 0 && maps.size(-2) == image.size(-3) &&
                    maps.size(-1) == image.size(-2) && (maps.dim() == 3 || maps.size(0) == image.size(0)),
                function, ": expected ", argument, " of shape (K,H,W), or (B,K,H,W) for a batch, of the image's size ",
                shape_of(image), ", got ", shape_of(maps));
    const int64_t classes = settings_.compatibility.rows();
    TORCH_CHECK(classes == 0 || maps.size(-3) == classes, function, ": expected ", argument, " of ", classes,
                " classes, as the compatibility has, got ", shape_of(maps));
  }

  void check_energies(const Tensor& image, const Tensor& energies, const char* function) const {
    check_maps(image, energies, function, "energies");
    // NaN comes out of either; `isfinite` would take as much memory again.
    const double least = energies.min().item<double>(), greatest = energies.max().item<double>();
    TORCH_CHECK(std::isfinite(least) && std::isfinite(greatest), function,
                ": expected finite energies, got NaN or infinity");
  }

  /// Calls f(tile) for all tiles of all pictures, on the threads.
  template <class F>
  void for_each_tile(const Batch& batch, const F& f) const {
    const int64_t height = batch.maps.size(2), width = batch.maps.size(3);
    const detail::Size size{static_cast<std::size_t>(std::min(height, options.tile())),
                            static_cast<std::size_t>(std::min(width, options.tile()))};
    std::vector<Tile> tiles;
    for (int64_t b = 0; b < batch.maps.size(0); ++b) {
      for (const auto& r : smooseg::detail::tile_spans(height, options.tile(), options.overlap())) {
        for (const auto& c : smooseg::detail::tile_spans(width, options.tile(), options.overlap())) {
          tiles.push_back({b, r, c, size});
        }
      }
    }
    smooseg::detail::parallel_for(static_cast<int64_t>(tiles.size()), options.threads(),
                                  [&](int64_t i) { f(tiles[static_cast<std::size_t>(i)]); });
  }

  /// The marginals of one tile.
  void infer(const Batch& batch, const Tile& tile, const Planes<float>& marginals) const {
    const Tensor& maps = batch.maps;
    const int64_t width = maps.size(3), first = tile.rows.start * width + tile.columns.start;
    const std::uint8_t* const image = batch.images.data_ptr<std::uint8_t>() + tile.picture * batch.images.stride(0);
    const float* const energies = maps.data_ptr<float>() + tile.picture * maps.stride(0);
    mean_field(settings_, {image + 3 * first, 3 * width}, tile.size.height, tile.size.width,
               static_cast<std::size_t>(maps.size(1)), {energies + first, maps.stride(1), width}, marginals);
  }

  /// The same, in `memory`.
  Planes<float> infer(const Batch& batch, const Tile& tile, std::vector<float>& memory) const {
    const auto row = static_cast<std::ptrdiff_t>(tile.size.width);
    const auto plane = static_cast<std::ptrdiff_t>(tile.size.height) * row;
    memory.resize(static_cast<std::size_t>(batch.maps.size(1) * plane));
    const Planes<float> marginals{memory.data(), plane, row};
    infer(batch, tile, marginals);
    return marginals;
  }

  /// The marginals of all pictures, of the energies' shape.
  Tensor infer(const Tensor& image, const Tensor& energies) const {
    const Batch batch(image, energies);
    const Tensor result = torch::empty(batch.maps.sizes(), torch::kFloat32);
    const int64_t plane = result.stride(1), row = result.stride(2);
    for_each_tile(batch, [&](const Tile& tile) {
      float* const to = result.data_ptr<float>() + tile.picture * result.stride(0);
      if (static_cast<int64_t>(tile.size.height * tile.size.width) == plane) {
        return infer(batch, tile, Planes<float>{to, plane, row});
      }
      std::vector<float> memory;
      const Planes<float> from = infer(batch, tile, memory);
      const auto [begin, keep_begin, keep_end] = tile.columns;
      for (int64_t k = 0; k < result.size(1); ++k) {
        for (int64_t y = tile.rows.keep_begin; y < tile.rows.keep_end; ++y) {
          const float* const line = from.data + k * from.plane + (y - tile.rows.start) * from.row;
          std::copy(line + keep_begin - begin, line + keep_end - begin, to + k * plane + y * row + keep_begin);
        }
      }
    });
    return result.view(energies.sizes());
  }

  MeanFieldOptions settings_;
};

}  // namespace smooseg::crf
