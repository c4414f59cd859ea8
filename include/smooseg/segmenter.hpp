#pragma once

#include <ATen/Functions.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/closeness.hpp"
#include "smooseg/detail/blended_rows.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/predictor.hpp"
#include "smooseg/projector.hpp"

namespace smooseg {

struct SegmenterOptions {
  /// Whether codes are averaged over a picture and its mirror image.
  TORCH_ARG(bool, flip) = false;
  /// Side in pixels of the tiles into which larger pictures are cut for a backbone that does not take whole ones.
  TORCH_ARG(int64_t, tile) = 512;
  /// Pixels that neighbouring tiles share, at least; codes go over linearly from one to the next.
  TORCH_ARG(int64_t, overlap) = 64;
};

namespace detail {

/// Bilinear sampling along one axis: output i is lower * (1 - weight) + upper * weight of the cells named.
struct AxisSamples {
  int64_t begin, end;  ///< the cells that are needed; `lower` and `upper` count from the first of them
  Tensor lower, upper, weight;

  /// @param outputs number of samples over the whole axis. @param first, last those wanted, `last` excluded.
  /// @param extent what the axis measures in cells (may end within the last cell). @param cells number of cells.
  AxisSamples(int64_t outputs, int64_t first, int64_t last, double extent, int64_t cells) {
    const Tensor at =
        ((torch::arange(first, last, torch::kFloat64) + 0.5) * (extent / static_cast<double>(outputs)) - 0.5)
            .clamp(0, static_cast<double>(cells - 1));
    const Tensor floor = at.floor();
    weight = at - floor;
    lower = floor.to(torch::kInt64);
    upper = (lower + 1).clamp_max(cells - 1);
    begin = lower[0].item<int64_t>();
    end = upper[-1].item<int64_t>() + 1;
    lower -= begin;
    upper -= begin;
  }

  /// @param map of the cells from `begin` to `end` along the dimension.
  Tensor interpolate(const Tensor& map, int64_t dim) const {
    std::vector<int64_t> sizes(static_cast<std::size_t>(map.dim()), 1);
    sizes[static_cast<std::size_t>(dim)] = weight.numel();
    const auto there = [&](const Tensor& t) { return to_device(t, map.device()); };
    return at::lerp(map.index_select(dim, there(lower)), map.index_select(dim, there(upper)),
                    there(weight.to(map.scalar_type())).view(sizes));
  }

  /// The same of a map of all cells.
  Tensor operator()(const Tensor& map, int64_t dim) const { return interpolate(map.slice(dim, begin, end), dim); }
};

/// Calls f(first, last) for the rows begin to end of an output, few enough at a time that a strip of a map (B,C,h,w)
/// upsampled to them is small.
template <class F>
void for_each_strip(int64_t batch, int64_t channels, int64_t begin, int64_t end, int64_t out_width, const F& f) {
  constexpr int64_t kElements = int64_t{1} << 23;
  const int64_t rows = std::max<int64_t>(1, kElements / (batch * channels * out_width));
  for (int64_t first = begin; first < end; first += rows) f(first, std::min(first + rows, end));
}

/// A module's deep copy, of its own type.
template <class Module>
std::shared_ptr<Module> clone_of(const Module& module, const OptionalDevice& device) {
  return std::dynamic_pointer_cast<Module>(module.clone(device));
}

}  // namespace detail

/// Backbone, projector and predictor as one: pictures in, labels out. Pictures may have any size of at least a patch:
/// they are padded to whole patches by repeating the border, and large ones cut into tiles where the backbone needs it.
/// Its labels are those of evaluation, without dropout, whatever the mode of its parts; the backbone, which is frozen, is
/// kept in evaluation mode.
class SegmenterImpl : public torch::nn::Module {
 public:
  /// @throws c10::Error if the parts do not fit each other or the tile holds no patch.
  SegmenterImpl(std::shared_ptr<backbone::Backbone> backbone_, Projector projector_, PrototypePredictor predictor_,
                const SegmenterOptions& options_ = {})
      : options(options_),
        backbone(std::move(backbone_)),
        projector(std::move(projector_)),
        predictor(std::move(predictor_)) {
    constexpr auto kName = "smooseg::Segmenter";
    TORCH_CHECK(backbone != nullptr, kName, ": the backbone is null");
    TORCH_CHECK(projector->options.in_channels() == backbone->channels(), kName,
                ": expected a projector for the backbone's ", backbone->channels(), " channels, got one for ",
                projector->options.in_channels());
    TORCH_CHECK(projector->options.embed_dim() == predictor->options.embed_dim(), kName,
                ": expected projector and predictor of one embed_dim, got ", projector->options.embed_dim(), " and ",
                predictor->options.embed_dim());
    TORCH_CHECK(options.overlap() >= 0 && tile_cells() > overlap_cells(), kName,
                ": expected a tile of more pixels than the overlap plus a patch of ", backbone->patch_size(), ", got ",
                options.tile(), " and ", options.overlap());
    backbone->eval();
    register_module("backbone", backbone);
    register_module("projector", projector);
    register_module("predictor", predictor);
  }

  void train(bool on = true) override {
    torch::nn::Module::train(on);
    backbone->eval();
  }

  /// A deep copy, if the backbone can be cloned: those that derive from `backbone::CloneableBackbone` can.
  std::shared_ptr<torch::nn::Module> clone(const detail::OptionalDevice& device = {}) const override {
    const auto copy = std::make_shared<SegmenterImpl>(
        detail::clone_of(*backbone, device), Projector(detail::clone_of(*projector, device)),
        PrototypePredictor(detail::clone_of(*predictor, device)), options);
    copy->train(is_training());
    return copy;
  }

  /// The code z of a picture.
  /// @param images (B,3,H,W), floating, normalised as `backbone::Backbone` says; H and W at least a patch.
  /// @return (B,D,h,w), h and w being H and W in patches, rounded up.
  Tensor code(const Tensor& images) {
    constexpr auto kName = "smooseg::Segmenter::code";
    detail::check_map(images, kName, "images", "(B,3,H,W)", 4);
    const int64_t p = backbone->patch_size(), height = images.size(2), width = images.size(3);
    TORCH_CHECK(images.size(1) == backbone->input_channels() && height >= p && width >= p, kName,
                ": expected images of shape (B,", backbone->input_channels(), ",H,W) of at least a patch of ", p, " x ",
                p, " pixels, got ", detail::shape_of(images));
    const torch::NoGradGuard no_grad;
    const int64_t right = (p - width % p) % p, below = (p - height % p) % p;
    const Tensor padded = right + below == 0 ? images : at::replication_pad2d(images, {0, right, 0, below});
    const int64_t padded_height = padded.size(2), padded_width = padded.size(3);
    const int64_t size = tile_cells() * p;
    if (backbone->takes_whole_pictures() || (padded_height <= size && padded_width <= size)) {
      return window_code(padded, {0, 0, padded_height, padded_width});
    }
    detail::BlendedRows rows(
        padded_height / p, padded_width / p, tile_cells(), overlap_cells(),
        [&](int64_t row, int64_t column, int64_t tile_rows, int64_t tile_columns) {
          const Tensor tile =
              padded.narrow(2, row * p, tile_rows * p).narrow(3, column * p, tile_columns * p).contiguous();
          return window_code(tile, {row * p, column * p, padded_height, padded_width});
        });
    return rows.read(0, rows.height());
  }

  /// The code of a window of a picture, which is seen as a whole.
  /// @param images (B,3,H,W), the window's pixels, as `code`, but H and W multiples of the patch.
  /// @param window where it lies, at multiples of the patch. @return (B,D,h,w).
  Tensor window_code(const Tensor& images, const backbone::Window& window) {
    const torch::NoGradGuard no_grad;
    const Tensor z = projector->code(features(images, window));
    if (!options.flip()) return z;
    const backbone::Window mirrored{window.top, window.picture_width - window.left - images.size(3),
                                    window.picture_height, window.picture_width};
    return (z + projector->code(features(images.flip({3}), mirrored)).flip({3})) / 2;
  }

  /// Side of the tiles and least overlap, in patches.
  int64_t tile_cells() const { return options.tile() / backbone->patch_size(); }
  int64_t overlap_cells() const { return (options.overlap() + backbone->patch_size() - 1) / backbone->patch_size(); }

  /// Similarities of the upsampled code to the teacher's prototypes, what the CRF's probabilities are made of.
  /// @param images as `code`. @return (B,K,H,W), cosines in [-1,1].
  Tensor logits(const Tensor& images) { return logits(images, images.size(-2), images.size(-1)); }

  /// The same at another size than the pictures'. Works in strips, so that a large output takes little more memory than
  /// its similarities.
  Tensor logits(const Tensor& images, int64_t out_height, int64_t out_width) {
    check_size(out_height, out_width, "smooseg::Segmenter::logits");
    return logits_of_rows(code(images), images, out_height, out_width, 0, out_height);
  }

  /// Some rows of the same, for those who have no room for all of them.
  /// @param code what `code(images)` gave. @param begin, end the rows, 0 <= begin < end <= out_height.
  /// @return (B,K,end-begin,out_width).
  Tensor logits_of_rows(const Tensor& code, const Tensor& images, int64_t out_height, int64_t out_width, int64_t begin,
                        int64_t end) {
    constexpr auto kName = "smooseg::Segmenter::logits_of_rows";
    check_size(out_height, out_width, kName);
    detail::check_map(code, kName, "code", "(B,D,h,w)", 4);
    detail::check_map(images, kName, "images", "(B,3,H,W)", 4);
    TORCH_CHECK(0 <= begin && begin < end && end <= out_height, kName, ": expected rows within 0..", out_height,
                ", got ", begin, " to ", end);
    const torch::NoGradGuard no_grad;
    const Tensor result =
        torch::empty({code.size(0), predictor->options.num_classes(), end - begin, out_width}, code.options());
    detail::for_each_strip(code.size(0), code.size(1), begin, end, out_width, [&](int64_t first, int64_t last) {
      const Tensor strip = upsample(code, images, out_height, out_width, first, last);
      result.slice(2, first - begin, last - begin).copy_(functional::prototype_logits(predictor->teacher, strip));
    });
    return result;
  }

  /// The most similar class of each pixel. @param images as `code`. @return (B,H,W) int64.
  Tensor labels(const Tensor& images) { return labels(images, images.size(-2), images.size(-1)); }

  /// The same at another size than the pictures'. Works in strips, so that a large output takes little more memory than
  /// its labels.
  Tensor labels(const Tensor& images, int64_t out_height, int64_t out_width) {
    check_size(out_height, out_width, "smooseg::Segmenter::labels");
    const torch::NoGradGuard no_grad;
    const Tensor z = code(images);
    const Tensor dots = similarities(z);
    const Tensor result = torch::empty({z.size(0), out_height, out_width}, z.options().dtype(torch::kInt64));
    detail::for_each_strip(z.size(0), dots.size(1), 0, out_height, out_width, [&](int64_t first, int64_t last) {
      result.slice(1, first, last).copy_(upsample(dots, images, out_height, out_width, first, last).argmax(1));
    });
    return result;
  }

  /// What labels are the arg max of, before upsampling: p_k . z, with the teacher's prototypes p_k of unit length. It is
  /// linear in z, so that upsampling these K maps instead of D channels gives the same labels.
  /// @param code (B,D,h,w). @return (B,K,h,w).
  Tensor similarities(const Tensor& code) const {
    const torch::NoGradGuard no_grad;
    const Tensor unit = CosineCloseness{}.embed(predictor->teacher.t().unsqueeze(0)).transpose(1, 2);
    return unit.matmul(code.flatten(2)).view({code.size(0), -1, code.size(2), code.size(3)});
  }

  SegmenterOptions options;
  std::shared_ptr<backbone::Backbone> backbone;
  Projector projector;
  PrototypePredictor predictor;

 private:
  static void check_size(int64_t out_height, int64_t out_width, const char* function) {
    TORCH_CHECK(out_height >= 1 && out_width >= 1, function, ": expected a size of at least 1 x 1, got ", out_height,
                " x ", out_width);
  }

  /// The backbone's features, their shape checked.
  Tensor features(const Tensor& images, const backbone::Window& window) {
    const Tensor x = backbone->window_features(images, window);
    const int64_t p = backbone->patch_size();
    const std::vector<int64_t> expected{images.size(0), backbone->channels(), images.size(2) / p, images.size(3) / p};
    TORCH_CHECK(x.defined() && x.sizes() == torch::IntArrayRef(expected),
                "smooseg::Segmenter: expected the backbone to give features of shape ", torch::IntArrayRef(expected),
                " for images of ", detail::shape_of(images), ", since its patch_size() is ", p, " and channels() ",
                backbone->channels(), "; got ", detail::shape_of(x));
    return x;
  }

  /// Rows begin to end of a map (B,C,h,w) of the images' patches, upsampled bilinearly (corners not aligned) to
  /// out_height x out_width.
  Tensor upsample(const Tensor& map, const Tensor& images, int64_t out_height, int64_t out_width, int64_t begin,
                  int64_t end) const {
    const auto cells = [&](int64_t pixels) {
      return static_cast<double>(pixels) / static_cast<double>(backbone->patch_size());
    };
    const detail::AxisSamples y(out_height, begin, end, cells(images.size(2)), map.size(2));
    const detail::AxisSamples x(out_width, 0, out_width, cells(images.size(3)), map.size(3));
    return x(y(map, 2), 3);
  }
};
TORCH_MODULE(Segmenter);

}  // namespace smooseg
