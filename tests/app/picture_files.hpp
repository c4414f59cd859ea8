#pragma once

// Picture files for the tests, of kinds that the program itself does not write.

// clang-format off
#include <csetjmp>
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>  // needs the two before it
// clang-format on
#include <png.h>
#include <torch/types.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "data/image_file.hpp"

using Bytes = std::vector<uint8_t>;

inline void save(const std::filesystem::path& path, const Bytes& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

inline void save(const std::filesystem::path& path, const std::string& text) {
  save(path, Bytes(text.begin(), text.end()));
}

inline Bytes load(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// A PNG as given, row by row: what our own writer does not make.
struct PngSpec {
  uint32_t width = 0, height = 0;
  int depth = 8;
  int color_type = PNG_COLOR_TYPE_GRAY;
  bool interlaced = false;
  std::vector<smooseg::app::Color> palette = {};
  Bytes transparency = {};  // of the palette's entries
};

inline Bytes png_bytes(const PngSpec& spec, Bytes rows) {
  Bytes out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  const auto append = [](png_structp p, png_bytep data, size_t size) {
    auto* target = static_cast<Bytes*>(png_get_io_ptr(p));
    target->insert(target->end(), data, data + size);
  };
  png_set_write_fn(png, &out, append, nullptr);
  png_set_IHDR(png, info, spec.width, spec.height, spec.depth, spec.color_type,
               spec.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  std::vector<png_color> palette;
  for (const smooseg::app::Color& color : spec.palette) palette.push_back({color[0], color[1], color[2]});
  if (!palette.empty()) png_set_PLTE(png, info, palette.data(), static_cast<int>(palette.size()));
  if (!spec.transparency.empty()) {
    png_set_tRNS(png, info, spec.transparency.data(), static_cast<int>(spec.transparency.size()), nullptr);
  }
  png_write_info(png, info);
  std::vector<png_bytep> pointers;
  for (uint32_t y = 0; y < spec.height; ++y) pointers.push_back(rows.data() + y * (rows.size() / spec.height));
  png_write_image(png, pointers.data());
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  return out;
}

/// A JPEG of the rows; `values_per_pixel` in the colour space `space`.
inline Bytes jpeg_bytes(uint32_t width, uint32_t height, int values_per_pixel, J_COLOR_SPACE space, Bytes rows,
                        const std::function<void(j_compress_ptr)>& set = {}) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &memory, &size);
  info.image_width = width;
  info.image_height = height;
  info.input_components = values_per_pixel;
  info.in_color_space = space;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  if (set) set(&info);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < height) {
    JSAMPROW row = rows.data() + info.next_scanline * width * static_cast<size_t>(values_per_pixel);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  Bytes out(memory, memory + size);
  std::free(memory);
  return out;
}

/// Numbers of a file, the low byte first.
inline void append_number(Bytes& bytes, uint64_t value, int count) {
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<uint8_t>(value >> 8 * i));
}

/// A BMP as given: what no program of ours writes.
struct BmpSpec {
  int32_t width = 0, height = 0;  // negative: from the top
  uint16_t bits = 24;
  std::vector<smooseg::app::Color> palette = {};
  uint32_t compression = 0;
};

/// @param rows as they stand in the file, padded to 4 bytes each.
inline Bytes bmp_bytes(const BmpSpec& spec, const Bytes& rows) {
  Bytes file{'B', 'M'};
  const std::size_t offset = 14 + 40 + 4 * spec.palette.size();
  append_number(file, offset + rows.size(), 4);
  append_number(file, 0, 4);
  append_number(file, offset, 4);
  append_number(file, 40, 4);
  append_number(file, static_cast<uint32_t>(spec.width), 4);
  append_number(file, static_cast<uint32_t>(spec.height), 4);
  append_number(file, 1, 2);
  append_number(file, spec.bits, 2);
  append_number(file, spec.compression, 4);
  append_number(file, 0, 12);
  append_number(file, spec.palette.size(), 4);
  append_number(file, 0, 4);
  for (const smooseg::app::Color& color : spec.palette) {
    file.insert(file.end(), {color[2], color[1], color[0], 0});
  }
  file.insert(file.end(), rows.begin(), rows.end());
  return file;
}

/// 5 x 3 pixels whose values are 0, 3, 6, ..., as `cwebp -lossless` encodes them.
inline Bytes webp_bytes() {
  return {82, 73,  70,  70, 64,  0,   0,  0,   87, 69,  66,  80,  86,  80,  56,  76,  51,  0,
          0,  0,   47,  4,  128, 0,   0,  119, 64, 38,  96,  177, 113, 233, 31,  90,  133, 73,
          80, 18,  32,  0,  138, 26,  50, 255, 89, 220, 29,  40,  104, 36,  169, 249, 94,  232,
          90, 240, 132, 22, 60,  161, 5,  97,  17, 253, 143, 181, 229, 220, 124, 127, 0,   0};
}

/// A picture of 20 x 12 pixels, smooth, so that JPEG keeps it within a few levels.
inline Bytes smooth_rgb() {
  Bytes rows;
  for (int y = 0; y < 12; ++y) {
    for (int x = 0; x < 20; ++x) {
      for (const int value : {40 + 8 * x, 60 + 10 * y, 200 - 5 * x}) rows.push_back(static_cast<uint8_t>(value));
    }
  }
  return rows;
}

inline torch::Tensor bytes_tensor(const Bytes& bytes, std::vector<int64_t> shape) {
  return torch::tensor(std::vector<int64_t>(bytes.begin(), bytes.end())).to(torch::kUInt8).view(shape);
}
