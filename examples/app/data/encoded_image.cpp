#include "data/encoded_image.hpp"

// clang-format off
#include <csetjmp>
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>  // needs the two before it
// clang-format on

#include <png.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "smooseg/detail/check.hpp"

namespace smooseg::app {
namespace {

struct Escape {
  std::jmp_buf target;
  std::array<char, JMSG_LENGTH_MAX> message{};
};

[[noreturn]] void escape(j_common_ptr info) {
  auto* const escape = static_cast<Escape*>(info->client_data);
  info->err->format_message(info, escape->message.data());
  std::longjmp(escape->target, 1);
}

/// Fills `bytes`, which the caller frees. libjpeg's errors come by longjmp, so nothing here has a destructor.
/// @return whether it went well; else `escape_to.message` says why not.
bool compress(const uint8_t* pixels, JDIMENSION height, JDIMENSION width, int quality, Escape& escape_to,
              unsigned char*& bytes, unsigned long& size) {
  jpeg_error_mgr errors;
  jpeg_compress_struct info;
  info.err = jpeg_std_error(&errors);
  errors.error_exit = escape;
  info.client_data = &escape_to;
  if (setjmp(escape_to.target) != 0) {
    jpeg_destroy_compress(&info);
    return false;
  }
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, &bytes, &size);
  info.image_height = height;
  info.image_width = width;
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  info.optimize_coding = TRUE;
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < height) {
    auto* row = const_cast<JSAMPROW>(pixels + std::size_t{3} * width * info.next_scanline);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  return true;
}

}  // namespace

std::string encode_jpeg(const Tensor& picture, int quality) {
  smooseg::detail::check_defined(picture, "encode_jpeg", "picture");
  TORCH_CHECK(picture.dim() == 3 && picture.size(2) == 3 && picture.numel() > 0 &&
                  picture.scalar_type() == torch::kUInt8 && picture.is_cpu(),
              "encode_jpeg: expected a picture of shape (H,W,3), uint8, on the CPU, got ",
              smooseg::detail::shape_of(picture), ", ", picture.scalar_type(), ", on ", picture.device());
  TORCH_CHECK(quality >= 1 && quality <= 100, "encode_jpeg: expected a quality within 1..100, got ", quality);
  const Tensor pixels = picture.contiguous();
  Escape escape_to;
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  const bool good = compress(pixels.data_ptr<uint8_t>(), static_cast<JDIMENSION>(pixels.size(0)),
                             static_cast<JDIMENSION>(pixels.size(1)), quality, escape_to, bytes, size);
  const std::unique_ptr<unsigned char, void (*)(void*)> owned(bytes, std::free);
  if (!good) throw std::runtime_error(std::string("encode_jpeg: ") + escape_to.message.data());
  return {reinterpret_cast<const char*>(bytes), size};
}

std::string encode_palette_png(const Tensor& indices, const std::vector<Color>& colors) {
  smooseg::detail::check_defined(indices, "encode_palette_png", "indices");
  TORCH_CHECK(indices.dim() == 2 && indices.numel() > 0 && at::isIntegralType(indices.scalar_type(), false),
              "encode_palette_png: expected indices of shape (H,W) and an integral dtype, got ",
              smooseg::detail::shape_of(indices), ", ", indices.scalar_type());
  const auto count = static_cast<int64_t>(colors.size());
  TORCH_CHECK(count >= 1 && count <= 255, "encode_palette_png: expected 1 to 255 colours, got ", count);
  const auto highest = indices.max().item<int64_t>();
  TORCH_CHECK(highest < count, "encode_palette_png: expected indices below ", count, ", got ", highest);

  // Entry 0 is what is transparent, entry k + 1 colour k.
  const Tensor entries = indices.to(torch::kCPU, torch::kInt64).clamp_min(-1).add(1).to(torch::kUInt8).contiguous();
  std::vector<uint8_t> palette{0, 0, 0, 0};
  for (const Color& color : colors) palette.insert(palette.end(), {color[0], color[1], color[2], 255});
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(indices.size(0));
  image.width = static_cast<png_uint_32>(indices.size(1));
  image.format = PNG_FORMAT_RGBA_COLORMAP;
  image.colormap_entries = static_cast<png_uint_32>(count + 1);
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = bytes.size();
  if (png_image_write_to_memory(&image, bytes.data(), &size, 0, entries.data_ptr<uint8_t>(), 0, palette.data()) == 0) {
    throw std::runtime_error(std::string("encode_palette_png: ") + image.message);
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace smooseg::app
