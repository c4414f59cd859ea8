#pragma once

// What happens to a picture between its file and the backbone, the same for training, evaluation and segmentation; to
// the pixel as torchvision does it over PIL.

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "data/image_file.hpp"
#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// Which pixels of a picture are seen: torchvision's FiveCrop, Resize (nearest neighbour) and CenterCrop, in this
/// order, each only where it is asked for. All three choose pixels and compute none, so that a decoder can leave out
/// what nobody sees, and a label map stays with its picture.
struct Transform {
  /// The number of crops that FiveCrop makes of a picture.
  static constexpr int64_t kFive = 5;

  /// Output pixel i of a resized side shows input pixel floor((i + 1/2) size_in / size_out). The shorter side gets
  /// this many pixels, the longer one side * longer / shorter, rounded down; 0: not resized.
  int64_t side = 0;

  /// Whether only the middle square is kept; an odd remainder is halved to the even number, as Python rounds.
  bool square = false;

  /// One of five crops of half the height and half the width, rounded down, before anything else: top left, top right,
  /// bottom left, bottom right, centre.
  std::optional<int64_t> five_crop = std::nullopt;

  bool is_identity() const { return side == 0 && !square && !five_crop; }
};

/// The pixels of a transformed picture: (i,j) is the original's pixel where row rows[i] and column columns[j] cross. Both
/// ascend, and one may stand several times.
struct Grid {
  std::vector<int64_t> rows, columns;
};

/// @param most_pixels that it may have.
/// @throws c10::Error as `transformed`.
Grid grid_of(const Transform& transform, int64_t height, int64_t width, int64_t most_pixels = kMaxPixels);

/// Where the middle `size` of `of` pixels begin, as torchvision's CenterCrop has it: halves go to the even number.
int64_t middle_of(int64_t of, int64_t size);

/// A picture (H,W,3) or label map (H,W) in memory, of any dtype, after the transform.
/// @return (h,w[,3]).
/// @throws c10::Error for other shapes, a side out of range, fewer than 2 x 2 pixels for five crops, or more than
///   `kMaxPixels` after resizing.
Tensor transformed(const Tensor& picture, const Transform& transform);

/// A picture file, decoded once, after each of several transforms.
struct TransformedImage {
  int64_t height, width;       ///< of the file's picture, in pixels
  std::vector<Tensor> pixels;  ///< (h,w,3) uint8, RGB, for each transform
};

/// Takes memory for a few rows of the file's picture and for what it returns, however large the former.
/// @throws std::runtime_error beginning with the path for files that `open_picture` refuses, and for what `transformed`
///   refuses.
TransformedImage read_transformed(const std::filesystem::path& path, const std::vector<Transform>& transforms);

/// The same of a picture of which no row was read yet. @param path for errors.
TransformedImage read_transformed(PictureRows& picture, const std::filesystem::path& path,
                                  const std::vector<Transform>& transforms);

/// A label map after a transform, in the memory that the result takes. All of its rows are read.
/// @return (h,w) int64.
/// @throws c10::Error as `transformed`, and what the label map throws.
Tensor read_transformed(LabelRows& label, const Transform& transform);

/// What pixels from 0 to 1 are normalised with.
struct Normalization {
  backbone::Rgb mean = backbone::kImageNetMean, std = backbone::kImageNetStd;
};

/// What this backbone wants.
inline Normalization normalization_of(const backbone::Backbone& backbone) {
  return {backbone.mean(), backbone.std()};
}

/// A picture as a backbone takes it: value / 255, less the mean, divided by the standard deviation. Uses the calling
/// thread alone.
/// @param pixels (h,w,3), uint8, RGB, on the CPU.
/// @param target (3,h,w), float32, contiguous: where the result goes, which is also returned. Default: a new tensor.
/// @throws c10::Error for other shapes and dtypes.
Tensor normalize(const Tensor& pixels, const Normalization& with, Tensor target = {});

}  // namespace smooseg::app
