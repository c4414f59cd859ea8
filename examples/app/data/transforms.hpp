#pragma once

// What happens to a picture between the file and the backbone, to the pixel as torchvision does it over PIL. All but
// `normalize` take pictures (H,W,3) and label maps (H,W) of any dtype alike, so that the two stay together.

#include <array>
#include <cstdint>

#include "data/codec.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// Nearest-neighbour resizing: output pixel i takes input pixel floor((i + 1/2) size_in / size_out).
/// @return (height,width[,3]).
/// @throws c10::Error for other shapes, sizes below 1, and more than `kMaxPixels` pixels.
Tensor resize(const Tensor& picture, int64_t height, int64_t width);

/// Resizes so that the shorter side has `size` pixels; the longer one has size * longer / shorter, rounded down.
/// @throws c10::Error as `resize`.
Tensor resize_shorter(const Tensor& picture, int64_t size);

/// The middle (height,width); an odd remainder is halved to the even number, as Python rounds.
/// @throws c10::Error where the crop is larger than the picture.
Tensor center_crop(const Tensor& picture, int64_t height, int64_t width);

/// Five crops of half the height and half the width, rounded down: top left, top right, bottom left, bottom right,
/// centre.
/// @throws c10::Error for pictures of less than 2 x 2 pixels.
std::array<Tensor, 5> five_crop(const Tensor& picture);

/// The pixels that `center_crop(resize_shorter(picture, side), side, side)` consists of: nearest-neighbour resizing and
/// cropping only choose, so that a decoder can leave out what nobody sees.
/// @return rows and columns of a picture (height,width), `side` of each.
/// @throws c10::Error as `resize_shorter`.
Grid center_grid(int64_t height, int64_t width, int64_t side);

/// The same of each of `five_crop(picture)`.
/// @throws c10::Error as `five_crop` and `resize_shorter`.
std::array<Grid, 5> five_grids(int64_t height, int64_t width, int64_t side);

/// A picture as the backbones take it: value / 255, less the mean of ImageNet, by its standard deviation.
/// @param image (H,W,3), uint8, RGB, on any device.
/// @return (3,H,W), float32.
/// @throws c10::Error for other shapes and dtypes.
Tensor normalize(const Tensor& image);

/// The same to the bit for a picture that is not in a tensor.
/// @param image 3 channels. @param target room for 3 x H x W values.
void normalize(const Raster& image, float* target);

}  // namespace smooseg::app
