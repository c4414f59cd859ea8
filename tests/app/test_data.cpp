// Files, transforms, classes, data sets and scenes of the program.

// clang-format off
#include <csetjmp>
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>  // needs the two before it
// clang-format on
#include <png.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "data/classes.hpp"
#include "data/codec.hpp"
#include "data/dataset.hpp"
#include "data/image_file.hpp"
#include "data/loader.hpp"
#include "data/scenes.hpp"
#include "data/textures.hpp"
#include "data/transforms.hpp"
#include "smooseg/backbone/backbone.hpp"
#include "support.hpp"

namespace {

namespace fs = std::filesystem;
using namespace smooseg::app;
using torch::Tensor;

using Bytes = std::vector<uint8_t>;

void save(const fs::path& path, const Bytes& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

void save(const fs::path& path, const std::string& text) {
  save(path, Bytes(text.begin(), text.end()));
}

Bytes load(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// A PNG as given, row by row: what our own writer does not make.
struct PngSpec {
  uint32_t width = 0, height = 0;
  int depth = 8;
  int color_type = PNG_COLOR_TYPE_GRAY;
  bool interlaced = false;
  std::vector<Color> palette = {};
  Bytes transparency = {};  // of the palette's entries
};

Bytes png_bytes(const PngSpec& spec, Bytes rows) {
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
  for (const Color& color : spec.palette) palette.push_back({color[0], color[1], color[2]});
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
Bytes jpeg_bytes(uint32_t width, uint32_t height, int values_per_pixel, J_COLOR_SPACE space, Bytes rows,
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

/// A picture of 20 x 12 pixels, smooth, so that JPEG keeps it within a few levels.
Bytes smooth_rgb() {
  Bytes rows;
  for (int y = 0; y < 12; ++y) {
    for (int x = 0; x < 20; ++x) {
      for (const int value : {40 + 8 * x, 60 + 10 * y, 200 - 5 * x}) rows.push_back(static_cast<uint8_t>(value));
    }
  }
  return rows;
}

Tensor bytes_tensor(const Bytes& bytes, std::vector<int64_t> shape) {
  return torch::tensor(std::vector<int64_t>(bytes.begin(), bytes.end())).to(torch::kUInt8).view(shape);
}

int64_t largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a.to(torch::kInt64) - b.to(torch::kInt64)).abs().max().item<int64_t>();
}

Tensor image_from(const Bytes& bytes) {
  TempDir dir;
  save(dir.path / "picture", bytes);
  return read_image(dir.path / "picture");
}

Tensor label_from(const Bytes& bytes) {
  TempDir dir;
  save(dir.path / "label", bytes);
  return read_label(dir.path / "label");
}

void add_u32(Bytes& bytes, uint32_t value) {
  for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<uint8_t>(value >> shift));
}

void add_chunk(Bytes& png, const std::string& type, const Bytes& data) {
  add_u32(png, static_cast<uint32_t>(data.size()));
  Bytes body(type.begin(), type.end());
  body.insert(body.end(), data.begin(), data.end());
  uint32_t crc = 0xffffffffu;
  for (const uint8_t byte : body) {
    crc ^= byte;
    for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320u : 0u);
  }
  png.insert(png.end(), body.begin(), body.end());
  add_u32(png, ~crc);
}

/// The beginning of an 8-bit grey PNG that claims a size.
Bytes png_header(uint32_t width, uint32_t height) {
  Bytes png{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  Bytes header;
  add_u32(header, width);
  add_u32(header, height);
  for (const uint8_t byte : Bytes{8, 0, 0, 0, 0}) header.push_back(byte);
  add_chunk(png, "IHDR", header);
  add_chunk(png, "IDAT", {0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01});
  add_chunk(png, "IEND", {});
  return png;
}

const Tensor kGreyRow = torch::tensor({0, 85, 170, 255}, torch::kUInt8).view({1, 4, 1}).expand({1, 4, 3});

}  // namespace

TEST_CASE("PNG pictures of every colour type and depth become RGB", "[image_file]") {
  SECTION("grey of 1, 2, 4, 8 and 16 bits is stretched to 0..255") {
    const Tensor black_white = torch::tensor({0, 255, 255, 0}, torch::kUInt8).view({1, 4, 1}).expand({1, 4, 3});
    CHECK(image_from(png_bytes({4, 1, 1}, {0x60})).equal(black_white));
    CHECK(image_from(png_bytes({4, 1, 2}, {0x1b})).equal(kGreyRow));
    CHECK(image_from(png_bytes({4, 1, 4}, {0x05, 0xaf})).equal(kGreyRow));
    CHECK(image_from(png_bytes({4, 1, 8}, {0, 85, 170, 255})).equal(kGreyRow));
    CHECK(image_from(png_bytes({4, 1, 16}, {0, 0, 0x55, 0x55, 0xaa, 0xaa, 0xff, 0xff})).equal(kGreyRow));
    // 16 bits are rounded, not cut: 0x01ff of 0xffff is 1.99 of 255.
    CHECK(image_from(png_bytes({1, 1, 16}, {0x01, 0xff}))[0][0][0].item<int>() == 2);
  }
  SECTION("a palette of 2, 4 and 8 bits, with transparency") {
    const std::vector<Color> palette{{1, 2, 3}, {40, 50, 60}, {200, 100, 0}};
    const Tensor expected = torch::tensor({200, 100, 0, 1, 2, 3}, torch::kUInt8).view({1, 2, 3});
    CHECK(image_from(png_bytes({2, 1, 2, PNG_COLOR_TYPE_PALETTE, false, palette}, {0x80})).equal(expected));
    CHECK(image_from(png_bytes({2, 1, 4, PNG_COLOR_TYPE_PALETTE, false, palette}, {0x20})).equal(expected));
    CHECK(
        image_from(png_bytes({2, 1, 8, PNG_COLOR_TYPE_PALETTE, false, palette, {0, 9, 128}}, {2, 0})).equal(expected));
  }
  SECTION("RGB, RGBA and grey with alpha, 8 and 16 bits; alpha is ignored") {
    const Tensor expected = torch::tensor({10, 20, 30, 40, 50, 60}, torch::kUInt8).view({1, 2, 3});
    CHECK(image_from(png_bytes({2, 1, 8, PNG_COLOR_TYPE_RGB}, {10, 20, 30, 40, 50, 60})).equal(expected));
    CHECK(image_from(png_bytes({2, 1, 8, PNG_COLOR_TYPE_RGBA}, {10, 20, 30, 0, 40, 50, 60, 128})).equal(expected));
    Bytes wide;
    for (const uint8_t value : Bytes{10, 20, 30, 40, 50, 60}) wide.insert(wide.end(), {value, value});
    CHECK(image_from(png_bytes({2, 1, 16, PNG_COLOR_TYPE_RGB}, wide)).equal(expected));
    CHECK(image_from(png_bytes({4, 1, 8, PNG_COLOR_TYPE_GRAY_ALPHA}, {0, 0, 85, 9, 170, 0, 255, 1})).equal(kGreyRow));
  }
  SECTION("interlaced") {
    const Bytes rows = smooth_rgb();
    CHECK(image_from(png_bytes({20, 12, 8, PNG_COLOR_TYPE_RGB, true}, rows)).equal(bytes_tensor(rows, {12, 20, 3})));
  }
}

TEST_CASE("JPEG pictures of every kind become RGB", "[image_file]") {
  const Bytes rows = smooth_rgb();
  const Tensor expected = bytes_tensor(rows, {12, 20, 3});
  const auto full_chroma = [](j_compress_ptr info) {
    info->comp_info[0].h_samp_factor = info->comp_info[0].v_samp_factor = 1;
  };
  SECTION("baseline, progressive, and RGB without conversion") {
    CHECK(largest_difference(image_from(jpeg_bytes(20, 12, 3, JCS_RGB, rows, full_chroma)), expected) <= 3);
    CHECK(largest_difference(image_from(jpeg_bytes(20, 12, 3, JCS_RGB, rows, jpeg_simple_progression)), expected) <=
          12);
    const auto keep_rgb = [](j_compress_ptr info) { jpeg_set_colorspace(info, JCS_RGB); };
    CHECK(largest_difference(image_from(jpeg_bytes(20, 12, 3, JCS_RGB, rows, keep_rgb)), expected) <= 2);
  }
  SECTION("grey") {
    const Tensor grey = image_from(jpeg_bytes(8, 8, 1, JCS_GRAYSCALE, Bytes(64, 77)));
    CHECK(grey.equal(torch::full({8, 8, 3}, 77, torch::kUInt8)));
  }
  SECTION("CMYK and YCCK as Adobe stores them: 255 is no ink") {
    Bytes cmyk;
    for (int p = 0; p < 64; ++p) cmyk.insert(cmyk.end(), {255, 128, 0, 204});  // red 1, green 0.5, blue 0; black 0.8
    const Tensor color = torch::tensor({204, 102, 0}, torch::kUInt8).expand({8, 8, 3});
    CHECK(largest_difference(image_from(jpeg_bytes(8, 8, 4, JCS_CMYK, cmyk)), color) <= 2);
    const auto ycck = [](j_compress_ptr info) { jpeg_set_colorspace(info, JCS_YCCK); };
    CHECK(largest_difference(image_from(jpeg_bytes(8, 8, 4, JCS_CMYK, cmyk, ycck)), color) <= 3);
  }
  SECTION("bytes after the end do not matter") {
    Bytes longer = jpeg_bytes(20, 12, 3, JCS_RGB, rows, full_chroma);
    longer.insert(longer.end(), 100, 0);
    CHECK(largest_difference(image_from(longer), expected) <= 3);
  }
}

TEST_CASE("label maps are read as indices", "[image_file]") {
  const auto row = [](std::vector<int64_t> values) { return torch::tensor(values).view({1, -1}); };
  CHECK(label_from(png_bytes({4, 1, 1}, {0x60})).equal(row({0, 1, 1, 0})));
  CHECK(label_from(png_bytes({4, 1, 2}, {0x1b})).equal(row({0, 1, 2, 3})));
  CHECK(label_from(png_bytes({3, 1, 4}, {0x5a, 0xf0})).equal(row({5, 10, 15})));
  CHECK(label_from(png_bytes({3, 1, 8}, {0, 11, 255})).equal(row({0, 11, 255})));
  CHECK(label_from(png_bytes({2, 1, 16}, {0x01, 0x02, 0xff, 0xff})).equal(row({258, 65535})));
  CHECK(label_from(png_bytes({2, 1, 8, PNG_COLOR_TYPE_GRAY_ALPHA}, {7, 0, 9, 255})).equal(row({7, 9})));
  const std::vector<Color> palette{{9, 9, 9}, {9, 9, 9}, {200, 0, 0}};
  CHECK(label_from(png_bytes({2, 1, 8, PNG_COLOR_TYPE_PALETTE, false, palette, {0}}, {2, 1})).equal(row({2, 1})));
  CHECK(label_from(png_bytes({3, 1, 2, PNG_COLOR_TYPE_PALETTE, true, palette}, {0x24})).equal(row({0, 2, 1})));

  CHECK_ERROR(label_from(png_bytes({1, 1, 8, PNG_COLOR_TYPE_RGB}, {1, 2, 3})),
              "label: expected a label map of class indices (grey or palette PNG), found a PNG of RGB colours");
  CHECK_ERROR(label_from(png_bytes({1, 1, 8, PNG_COLOR_TYPE_RGBA}, {1, 2, 3, 4})), "found a PNG of RGBA colours");
  CHECK_ERROR(label_from(jpeg_bytes(8, 8, 1, JCS_GRAYSCALE, Bytes(64, 77))),
              "found a JPEG, whose compression changes the values");
}

TEST_CASE("PNG pictures are written and read back", "[image_file]") {
  const TempDir dir;
  const Tensor image = bytes_tensor(smooth_rgb(), {12, 20, 3});
  write_png(dir.path / "rgb.png", image.flip(1));
  CHECK(read_image(dir.path / "rgb.png").equal(image.flip(1)));
  const Tensor grey = image.select(2, 0);
  write_png(dir.path / "grey.png", grey);
  CHECK(read_label(dir.path / "grey.png").equal(grey.to(torch::kInt64)));

  const Tensor indices = torch::tensor({{0, 1, 2}, {2, 0, 1}});
  const std::vector<Color> colors{{255, 0, 0}, {0, 255, 0}, {10, 20, 30}};
  write_palette_png(dir.path / "indices.png", indices, colors);
  CHECK(read_label(dir.path / "indices.png").equal(indices));
  CHECK(read_image(dir.path / "indices.png")[1][0].equal(torch::tensor({10, 20, 30}, torch::kUInt8)));
  CHECK(std::distance(fs::directory_iterator(dir.path), fs::directory_iterator()) == 3);  // no temporaries left

  CHECK_ERROR(write_png(dir.path / "x.png", image.to(torch::kFloat32)),
              "write_png: expected a picture of shape (H,W,3) or (H,W), uint8, on the CPU, got (12, 20, 3), Float");
  CHECK_ERROR(write_png(dir.path / "x.png", image.unsqueeze(0)), "got (1, 12, 20, 3)");
  CHECK_ERROR(write_palette_png(dir.path / "x.png", indices, {{1, 2, 3}}), "expected indices 0..0, got 0..2");
  CHECK_ERROR(write_palette_png(dir.path / "x.png", indices - 1, colors), "expected indices 0..2, got -1..1");
  CHECK_ERROR(write_palette_png(dir.path / "x.png", indices, std::vector<Color>(257)), "1 to 256 colours, got 257");
  CHECK_ERROR(write_palette_png(dir.path / "x.png", image.to(torch::kFloat32), colors), "an integral dtype");
  CHECK_ERROR(write_png(dir.path / "no folder" / "x.png", image), "x.png: cannot write");
  CHECK_ERROR(write_png(dir.path / "x.png", Raster{2, 2, 3, {1, 2}}), "write_png: expected values for (H,W,3)");
}

TEST_CASE("files that are no pictures are refused", "[image_file]") {
  const TempDir dir;
  CHECK_ERROR(read_image(dir.path / "none.png"), "none.png: expected a JPEG or PNG picture, found no such file");
  CHECK_ERROR(read_image(dir.path), "found a folder");
  save(dir.path / "empty.jpg", Bytes{});
  CHECK_ERROR(read_image(dir.path / "empty.jpg"), "empty.jpg: expected a JPEG or PNG picture, found an empty file");
  CHECK_ERROR(read_label(dir.path / "empty.jpg"), "expected a label map (grey or palette PNG), found an empty file");
  save(dir.path / "text.png", std::string("hello"));
  CHECK_ERROR(read_image(dir.path / "text.png"), "found a file of another format");
  save(dir.path / "a.gif", std::string("GIF89a......"));
  CHECK_ERROR(read_image(dir.path / "a.gif"), "found a GIF file");
  save(dir.path / "a.tif", std::string("II*\0....", 8));
  CHECK_ERROR(read_image(dir.path / "a.tif"), "found a TIFF file");
  CHECK_ERROR(read_image("/dev/zero"), "found something that is not a file");
}

TEST_CASE("claims of a huge size are refused before memory is taken", "[image_file]") {
  CHECK_ERROR(image_from(png_header(60000, 60000)),
              "expected a picture of at most 100000000 pixels, found 60000 x 60000 pixels");
  CHECK_ERROR(label_from(png_header(60000, 60000)), "found 60000 x 60000 pixels");
  CHECK_ERROR(image_from(png_header(9000, 9000)), "expected at least 78488 bytes for 9000 x 9000 pixels, found 65");

  Bytes jpeg = jpeg_bytes(8, 8, 1, JCS_GRAYSCALE, Bytes(64, 77));
  const Bytes frame{0xff, 0xc0, 0, 11, 8, 0, 8, 0, 8};
  const auto at = std::search(jpeg.begin(), jpeg.end(), frame.begin(), frame.end());
  REQUIRE(at != jpeg.end());
  const auto claim = [&](int size) {
    for (const int offset : {5, 7}) {
      at[offset] = static_cast<uint8_t>(size >> 8);
      at[offset + 1] = static_cast<uint8_t>(size & 255);
    }
    return jpeg;
  };
  CHECK_ERROR(image_from(claim(60000)), "found 60000 x 60000 pixels");
  CHECK_ERROR(image_from(claim(9000)), "expected at least 158203 bytes for 9000 x 9000 pixels");
  CHECK_ERROR(image_from(claim(64)), "expected an intact JPEG, found an error: ");
}

TEST_CASE("damaged pictures are refused", "[image_file]") {
  const Bytes rows = smooth_rgb();
  Bytes png = png_bytes({20, 12, 8, PNG_COLOR_TYPE_RGB}, rows);
  Bytes short_png(png.begin(), png.begin() + static_cast<std::ptrdiff_t>(png.size() / 2));
  CHECK_ERROR(image_from(short_png),
              "picture: expected an intact PNG, found an error: the end of the file (truncated)");
  png[png.size() / 2] ^= 0xff;
  CHECK_ERROR(image_from(png), "expected an intact PNG, found an error: ");

  const Bytes jpeg = jpeg_bytes(20, 12, 3, JCS_RGB, rows);
  CHECK_ERROR(image_from({jpeg.begin(), jpeg.end() - 20}), "expected an intact JPEG, found an error: Premature end");
  CHECK_ERROR(image_from({jpeg.begin(), jpeg.end() - 2}), "expected an intact JPEG, found an error: Premature end");
}

TEST_CASE("every prefix of a picture and every changed byte is refused or read", "[image_file]") {
  const Bytes rows = smooth_rgb();
  const std::vector<Bytes> files{
      png_bytes({20, 12, 8, PNG_COLOR_TYPE_RGB}, rows), png_bytes({20, 12, 8, PNG_COLOR_TYPE_RGB, true}, rows),
      png_bytes({3, 2, 2, PNG_COLOR_TYPE_PALETTE, false, {{1, 2, 3}, {4, 5, 6}}, {3}}, {0x10, 0x44}),
      jpeg_bytes(20, 12, 3, JCS_RGB, rows), jpeg_bytes(20, 12, 3, JCS_RGB, rows, jpeg_simple_progression)};
  const TempDir dir;
  const fs::path path = dir.path / "picture";
  for (const Bytes& file : files) {
    for (size_t length = 0; length < file.size(); ++length) {
      save(path, Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(length)));
      INFO("length " << length << " of " << file.size());
      CHECK(!error_of([&] { read_rgb(path); }).empty());
      CHECK(!error_of([&] { read_indices(path); }).empty());
    }
    for (size_t at = 0; at < file.size(); ++at) {
      Bytes changed = file;
      changed[at] ^= static_cast<uint8_t>(1 + at % 255);
      save(path, changed);
      const std::string error = error_of([&] {
        const Raster raster = read_rgb(path);
        CHECK(raster.values.size() == static_cast<size_t>(raster.height * raster.width * 3));
      });
      CHECK((error.empty() || error.find("picture: expected ") != std::string::npos));
      error_of([&] { read_indices(path); });
    }
  }
}

TEST_CASE("transforms agree with torchvision over PIL to the pixel", "[transforms]") {
  const auto g = golden("transforms.safetensors");
  for (const std::string n : {"0.", "1.", "2.", "3."}) {
    INFO("case " << n);
    const auto res = g.at(n + "res").item<int64_t>();
    const Tensor image = center_crop(resize_shorter(g.at(n + "image"), res), res, res);
    CHECK(image.equal(g.at(n + "image_out")));
    CHECK(center_crop(resize_shorter(g.at(n + "label"), res), res, res).equal(g.at(n + "label_out")));
    CHECK(normalize(image).equal(g.at(n + "normalized")));
    const auto crops = five_crop(g.at(n + "image"));
    for (size_t k = 0; k < 5; ++k) CHECK(crops[k].equal(g.at(n + "five_crop." + std::to_string(k))));
  }
}

TEST_CASE("grids are the pixels of resized and cropped pictures", "[transforms]") {
  const auto pixels = [](const Tensor& picture, const Grid& grid) {
    return picture.index_select(0, torch::tensor(grid.rows)).index_select(1, torch::tensor(grid.columns));
  };
  const auto g = golden("transforms.safetensors");
  for (const std::string n : {"0.", "1.", "2.", "3."}) {
    INFO("case " << n);
    const auto res = g.at(n + "res").item<int64_t>();
    const Tensor image = g.at(n + "image");
    const Tensor cropped = pixels(image, center_grid(image.size(0), image.size(1), res));
    CHECK(cropped.equal(g.at(n + "image_out")));
    const Tensor normalized = torch::empty({3, res, res});
    const Tensor bytes = cropped.contiguous();
    normalize(Raster{res, res, 3, {bytes.data_ptr<uint8_t>(), bytes.data_ptr<uint8_t>() + bytes.numel()}},
              normalized.data_ptr<float>());
    CHECK(normalized.equal(g.at(n + "normalized")));
  }
  for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{
           {2, 2}, {3, 2}, {2, 9}, {37, 101}, {101, 37}, {64, 64}, {359, 480}, {480, 361}, {225, 224}, {200, 1999}}) {
    const Tensor picture = torch::arange(height * width).view({height, width});
    for (const int64_t side : {1, 7, 64, 224}) {
      INFO(height << " x " << width << " to " << side);
      const auto transformed = [&](const Tensor& t) { return center_crop(resize_shorter(t, side), side, side); };
      CHECK(pixels(picture, center_grid(height, width, side)).equal(transformed(picture)));
      const auto crops = five_crop(picture);
      const auto grids = five_grids(height, width, side);
      for (size_t k = 0; k < 5; ++k) CHECK(pixels(picture, grids[k]).equal(transformed(crops[k])));
    }
  }
  CHECK_ERROR(center_grid(10, 10, 0), "resize_shorter: expected a size of 1 to 100000000, got 0");
  CHECK_ERROR(center_grid(1, 4, 30000), "resize: expected at most 100000000 pixels, got 30000 x 120000");
  CHECK_ERROR(five_grids(1, 4, 8), "five_crop: expected a picture of at least 2 x 2 pixels, got 1 x 4");
  CHECK_ERROR(normalize(Raster{1, 1, 1, {0}}, nullptr), "normalize: expected an image of 3 channels, got 1");
}

TEST_CASE("crops are decoded to the bits of the whole picture's", "[loader]") {
  const uint32_t width = 150, height = 117;
  const auto noisy = [&](size_t channels) {
    Bytes rows(size_t{width} * height * channels);
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i] = static_cast<uint8_t>(128 + (textures::mix(i) % 64) + 60 * ((i / 700) % 2));
    }
    return rows;
  };
  const auto sampling = [](int h, int v, bool progressive) {
    return [=](j_compress_ptr info) {
      info->comp_info[0].h_samp_factor = h;
      info->comp_info[0].v_samp_factor = v;
      info->restart_in_rows = v;
      if (progressive) jpeg_simple_progression(info);
    };
  };
  const TempDir dir;
  for (const bool progressive : {false, true}) {
    const std::string kind = progressive ? "progressive" : "baseline";
    for (const auto& [h, v] : {std::pair<int, int>{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}}) {
      save(dir.path / (kind + std::to_string(h) + std::to_string(v) + ".jpg"),
           jpeg_bytes(width, height, 3, JCS_RGB, noisy(3), sampling(h, v, progressive)));
    }
  }
  save(dir.path / "cmyk.jpg", jpeg_bytes(width, height, 4, JCS_CMYK, noisy(4)));
  save(dir.path / "grey.jpg", jpeg_bytes(width, height, 1, JCS_GRAYSCALE, noisy(1)));
  for (const bool interlaced : {false, true}) {
    save(dir.path / (interlaced ? "interlaced.png" : "rows.png"),
         png_bytes({width, height, 8, PNG_COLOR_TYPE_RGB, interlaced}, noisy(3)));
  }
  const Dataset dataset = open_dataset(dir.path, "train");
  const auto picture_count = static_cast<int64_t>(dataset.samples.size());
  REQUIRE(picture_count == 14);
  for (const int64_t side : {8, 40, 117, 200}) {
    const Crops center(dataset, side, false), five(dataset, side, true);
    REQUIRE(five.count() == 5 * picture_count);
    for (int64_t i = 0; i < picture_count; ++i) {
      const fs::path path = dataset.samples[static_cast<size_t>(i)].image;
      INFO(path << " to " << side);
      const Tensor whole = read_image(path);
      const auto expected = [&](const Tensor& t) {
        return normalize(center_crop(resize_shorter(t, side), side, side));
      };
      CHECK(center.image(i).equal(expected(whole)));
      // All five in one pass through the file, in any order, and one twice.
      const Tensor images = five.images({5 * i + 4, 5 * i, 5 * i + 1, 5 * i + 1, 5 * i + 3, 5 * i + 2});
      const auto crops = five_crop(whole);
      size_t k = 0;
      for (const size_t crop : {4u, 0u, 1u, 1u, 3u, 2u}) {
        CHECK(images[static_cast<int64_t>(k++)].equal(expected(crops[crop])));
      }
    }
    CHECK(center.images({3, 1, 1})[2].equal(center.image(1)));
  }
  // What nobody sees is checked all the same.
  Bytes cut = load(dir.path / "baseline22.jpg");
  cut.resize(cut.size() - 20);
  save(dir.path / "baseline22.jpg", cut);
  const Crops corner(dataset, 8, true);
  for (int64_t i = 0; i < picture_count; ++i) {
    const auto error = error_of([&] { corner.image(5 * i); });
    const bool damaged = dataset.samples[static_cast<size_t>(i)].name == "baseline22";
    CHECK(error.empty() != damaged);
    if (damaged) CHECK(error.find("baseline22.jpg: expected an intact JPEG") != std::string::npos);
  }
}

TEST_CASE("a picture without such crops is named", "[loader]") {
  const TempDir dir;
  save(dir.path / "thin.png", png_bytes({3, 1, 8, PNG_COLOR_TYPE_RGB}, Bytes(9)));
  save(dir.path / "wide.png", png_bytes({90000, 2, 8, PNG_COLOR_TYPE_RGB}, Bytes(540000)));
  const Dataset dataset = open_dataset(dir.path, "train");
  CHECK_ERROR(Crops(dataset, 8, true).image(0),
              "thin.png: five_crop: expected a picture of at least 2 x 2 pixels, got 1 x 3");
  CHECK_ERROR(Crops(dataset, 224, false).image(1), "wide.png: resize: expected at most 100000000 pixels, got 224 x ");
}

TEST_CASE("transforms by hand", "[transforms]") {
  const Tensor label = torch::arange(12).view({3, 4});
  // Columns 0..3 at (i + 1/2) 4/2 = 1, 3; rows 0..2 at (i + 1/2) 3/2 = 0.75, 2.25.
  CHECK(resize(label, 2, 2).equal(torch::tensor({{1, 3}, {9, 11}})));
  CHECK(resize_shorter(label, 6).sizes() == torch::IntArrayRef({6, 8}));
  CHECK(resize_shorter(label.t(), 2).sizes() == torch::IntArrayRef({2, 2}));  // 2 * 4 / 3, rounded down
  CHECK(center_crop(label, 2, 1).equal(torch::tensor({{2}, {6}})));           // top round(0.5) = 0, left round(1.5) = 2
  CHECK(center_crop(label, 3, 4).equal(label));
  CHECK(five_crop(label)[3].equal(torch::tensor({{10, 11}})));
  CHECK(five_crop(label)[4].equal(torch::tensor({{5, 6}})));

  const Tensor pixel = torch::tensor({0, 255, 51}, torch::kUInt8).view({1, 1, 3});
  const Tensor expected = torch::tensor({-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225}).view({3, 1, 1});
  CHECK(relative_error(normalize(pixel), expected) < 1e-6);
  CHECK(normalize(pixel.expand({5, 4, 3})).is_contiguous());

  CHECK_ERROR(center_crop(label, 4, 4),
              "center_crop: expected a crop of 1 x 1 to 3 x 4 pixels, the size of the picture, got 4 x 4");
  CHECK_ERROR(center_crop(label, 1, 0), "got 1 x 0");
  CHECK_ERROR(five_crop(label.narrow(0, 0, 1)), "five_crop: expected a picture of at least 2 x 2 pixels, got 1 x 4");
  CHECK_ERROR(resize(label, 0, 3), "resize: expected a height and width of at least 1, got 0 x 3");
  CHECK_ERROR(resize_shorter(label.narrow(0, 0, 1), 30000),
              "resize: expected at most 100000000 pixels, got 30000 x 120000");
  CHECK_ERROR(resize_shorter(label, 0), "resize_shorter: expected a size of 1 to 100000000, got 0");
  CHECK_ERROR(resize(label.view({1, 3, 4}), 2, 2), "expected a picture of shape (H,W,3) or (H,W), got (1, 3, 4)");
  CHECK_ERROR(normalize(label), "normalize: expected an image of shape (H,W,3), uint8, got (3, 4), Long");
  CHECK_ERROR(five_crop(Tensor()), "five_crop: picture is undefined");
}

TEST_CASE("classes.json", "[classes]") {
  const std::string text =
      R"({"source": "x", "classes": ["sky", "road"], "colors": [[1,2,3],[4,5,255]], "ignore": [11, -1], "first_id": 7})";
  const ClassTable classes = classes_from_json(text, "classes.json");
  CHECK(classes.names == std::vector<std::string>{"sky", "road"});
  CHECK((classes.colors == std::vector<Color>{{1, 2, 3}, {4, 5, 255}}));
  CHECK(classes.ignore == std::vector<int64_t>{11, -1});
  const ClassTable again = classes_from_json(classes_to_json(classes), "model");
  CHECK(again.names == classes.names);
  CHECK((again.colors == classes.colors));
  CHECK(again.ignore == classes.ignore);

  const ClassTable plain = classes_from_json(R"({"classes": ["a", "b", "c"]})", "f");
  CHECK((plain.colors == default_colors(3)));
  CHECK(plain.ignore.empty());

  const auto error = [](const std::string& json) { return error_of([&] { classes_from_json(json, "c.json"); }); };
  CHECK(error("{\"classes\": [") == "c.json: expected JSON, found an error at byte 14");
  CHECK(error("[1]") == "c.json: expected an object with the key \"classes\", found [1]");
  CHECK(error("{}") == "c.json: expected the key \"classes\", found none");
  CHECK(error(R"({"classes": "a"})") == "c.json: expected \"classes\": a list of at least 2 names, found \"a\"");
  CHECK(error(R"({"classes": ["a"]})") == "c.json: expected \"classes\": a list of at least 2 names, found [\"a\"]");
  CHECK(error(R"({"classes": ["a", 1]})") == "c.json: expected \"classes\": a list of at least 2 names, found 1");
  CHECK(error(R"({"classes": ["a", "b"], "colors": [[1,2,3]]})") ==
        "c.json: expected \"colors\" for 2 classes, found 1");
  for (const std::string color : {"[1,2,256]", "[1,2,-1]", "[1,2]", "[1,2,3.5]", "\"red\""}) {
    CHECK(error(R"({"classes": ["a", "b"], "colors": [[1,2,3],)" + color + "]}") ==
          "c.json: expected \"colors\": [r, g, b] of whole numbers 0..255 each, found " + color);
  }
  CHECK(error(R"({"classes": ["a", "b"], "ignore": 255})") ==
        "c.json: expected \"ignore\": a list of label values, found 255");

  const TempDir dir;
  CHECK_ERROR(read_classes(dir.path / "classes.json"),
              "classes.json: expected the classes as JSON, found no readable file");
}

TEST_CASE("default classes have names and colours of their own", "[classes]") {
  const ClassTable classes = default_classes(64);
  CHECK(classes.names.front() == "class 0");
  CHECK(classes.names.back() == "class 63");
  CHECK(classes.size() == 64);
  auto colors = classes.colors;
  std::sort(colors.begin(), colors.end());
  CHECK((std::unique(colors.begin(), colors.end()) == colors.end()));
  CHECK((default_colors(30) == std::vector<Color>(classes.colors.begin(), classes.colors.begin() + 30)));
}

TEST_CASE("data sets with the layout images, labels, classes.json", "[dataset]") {
  const TempDir dir;
  const fs::path root = dir.path / "set";
  const Bytes picture = png_bytes({2, 1, 8, PNG_COLOR_TYPE_RGB}, {1, 2, 3, 4, 5, 6});
  save(root / "images/train/b.png", picture);
  save(root / "images/train/a/z.JPG", picture);
  save(root / "images/train/.hidden.png", picture);
  save(root / "images/train/.cache/x.png", picture);
  save(root / "images/train/notes.txt", std::string("x"));
  save(root / "images/test/c.jpeg", picture);
  save(root / "labels/train/b.png", png_bytes({2, 1, 8}, {1, 255}));
  save(root / "labels/train/a/z.png", png_bytes({2, 1, 8}, {0, 2}));
  save(root / "classes.json", std::string(R"({"classes": ["x", "y", "z"], "ignore": [255]})"));

  const Dataset train = open_dataset(root, "train");
  REQUIRE(train.samples.size() == 2);
  CHECK(train.labelled());
  CHECK(train.samples[0].name == "a/z");
  CHECK(train.samples[0].label == root / "labels/train/a/z.png");
  CHECK(train.samples[1].image == root / "images/train/b.png");
  CHECK(train.classes->names.size() == 3);
  const LabelledImage loaded = load_sample(train.samples[1], train.classes);
  CHECK(loaded.image.equal(torch::tensor({1, 2, 3, 4, 5, 6}, torch::kUInt8).view({1, 2, 3})));
  CHECK(loaded.label->equal(torch::tensor({{1, -1}})));
  CHECK(load_label(train.samples[0], *train.classes).equal(torch::tensor({{0, 2}})));

  const Dataset test = open_dataset(root, "test");  // no labels/test
  CHECK_FALSE(test.labelled());
  CHECK(test.samples.at(0).name == "c");
  CHECK_FALSE(load_sample(test.samples[0], test.classes).label);

  SECTION("a split that is not there") {
    CHECK_ERROR(open_dataset(root, "val"),
                "images/val: expected this folder with the pictures of 'val', found test, train in ");
  }
  SECTION("an empty split") {
    fs::create_directories(root / "images/val");
    CHECK_ERROR(open_dataset(root, "val"), "images/val: expected pictures (.jpg, .jpeg, .png), found none");
  }
  SECTION("a picture without label") {
    save(root / "images/train/new.png", picture);
    CHECK_ERROR(open_dataset(root, "train"), "labels/train/new.png: expected the label map of " +
                                                 (root / "images/train/new.png").string() + ", found no file");
  }
  SECTION("labels without classes") {
    fs::remove(root / "classes.json");
    CHECK_ERROR(open_dataset(root, "train"), "classes.json: expected the names of the classes");
    CHECK_FALSE(open_dataset(root, "test").classes);
  }
  SECTION("a value that is no class") {
    save(root / "labels/train/b.png", png_bytes({2, 1, 8}, {1, 3}));
    CHECK_ERROR(
        load_sample(train.samples[1], train.classes),
        "labels/train/b.png: expected label values 0..2 for 3 classes, or one to ignore (255), found the value 3");
  }
  SECTION("a label map of another size") {
    save(root / "labels/train/b.png", png_bytes({1, 2, 8}, {1, 1}));
    CHECK_ERROR(
        load_sample(train.samples[1], train.classes),
        "b.png: expected the size of " + (root / "images/train/b.png").string() + ", 2 x 1 pixels, found 1 x 2 pixels");
  }
  SECTION("a label map of colours") {
    save(root / "labels/train/b.png", picture);
    CHECK_ERROR(load_sample(train.samples[1], train.classes), "expected a label map of class indices");
  }
}

TEST_CASE("any folder of pictures is a data set without labels", "[dataset]") {
  const TempDir dir;
  save(dir.path / "set/2/b.png", std::string("not read yet"));
  save(dir.path / "set/10.JPEG", std::string("not read yet"));
  const Dataset data = open_dataset(dir.path / "set", "train");
  REQUIRE(data.samples.size() == 2);
  CHECK(data.samples[0].name == "10");
  CHECK(data.samples[1].name == "2/b");
  CHECK_FALSE(data.labelled());
  CHECK_FALSE(data.classes);
  CHECK(open_dataset(dir.path / "set", "test").samples.size() == 2);

  CHECK_ERROR(open_dataset(dir.path / "none", "train"), "none: expected a folder of pictures, found nothing");
  CHECK_ERROR(open_dataset(dir.path / "set/10.JPEG", "train"), "10.JPEG: expected a folder of pictures, found a file");
  fs::create_directories(dir.path / "empty");
  CHECK_ERROR(open_dataset(dir.path / "empty", "train"), "empty: expected pictures (.jpg, .jpeg, .png), found none");
}

TEST_CASE("scenes are the same on every platform and labelled to the pixel", "[scenes]") {
  const auto hash = [](const Bytes& bytes) {
    uint64_t value = 0;
    for (const uint8_t byte : bytes) value = textures::mix(value ^ byte);
    return value;
  };
  const Scene scene = make_scene(96, 128, 5);
  CHECK(scene.image.values.size() == 96 * 128 * 3);
  CHECK(hash(scene.image.values) == 2632088337619266563u);
  CHECK(hash(scene.labels.values) == 14917712443655417816u);
  CHECK(make_scene(96, 128, 6).labels.values != scene.labels.values);
}

TEST_CASE("in scenes the classes of a family share their colours", "[scenes]") {
  // Mean colour of each class over some scenes: alike within a family, apart between families.
  const ClassTable classes = scene_classes();
  const auto count = static_cast<size_t>(classes.size());
  std::vector<std::array<double, 3>> sum(count, {0, 0, 0});
  std::vector<double> pixels(count, 0);
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Scene scene = make_scene(120, 160, seed);
    for (size_t p = 0; p < scene.labels.values.size(); ++p) {
      const size_t k = scene.labels.values[p];
      REQUIRE(k < count);
      pixels[k] += 1;
      for (size_t c = 0; c < 3; ++c) sum[k][c] += scene.image.values[3 * p + c];
    }
  }
  const auto difference = [&](size_t a, size_t b) {
    double largest = 0;
    for (size_t c = 0; c < 3; ++c) largest = std::max(largest, std::abs(sum[a][c] / pixels[a] - sum[b][c] / pixels[b]));
    return largest;
  };
  for (size_t k = 0; k < count; ++k) CHECK(pixels[k] > 0.02 * 30 * 120 * 160);
  CHECK(difference(0, 1) < 20);
  for (const size_t plant : {3u, 4u}) CHECK(difference(2, plant) < 20);
  for (const size_t stone : {6u, 7u}) CHECK(difference(5, stone) < 20);
  CHECK(difference(0, 2) > 30);
}

TEST_CASE("scenes are written as a data set", "[scenes]") {
  const TempDir dir;
  SceneOptions options;
  options.train = 3;
  options.test = 2;
  options.height = options.width = 64;
  write_scenes(dir.path / "scenes", options);
  const Dataset train = open_dataset(dir.path / "scenes", "train");
  REQUIRE(train.samples.size() == 3);
  CHECK(open_dataset(dir.path / "scenes", "test").samples.size() == 2);
  CHECK(train.classes->names == scene_classes().names);
  const LabelledImage sample = load_sample(train.samples[2], train.classes);
  CHECK(sample.image.sizes() == torch::IntArrayRef({64, 64, 3}));
  CHECK(sample.label->min().item<int64_t>() >= 0);

  options.train = 4;  // scene 2 stays what it is
  write_scenes(dir.path / "more", options);
  CHECK(load(dir.path / "more/images/train/0002.png") == load(train.samples[2].image));
  options.seed = 2;
  write_scenes(dir.path / "other", options);
  CHECK(load(dir.path / "other/images/train/0002.png") != load(train.samples[2].image));

  options.height = 8;
  CHECK_ERROR(write_scenes(dir.path, options), "write_scenes: expected a height of 64 to 4096 pixels, got 8");
  options = {};
  options.train = 0;
  CHECK_ERROR(write_scenes(dir.path, options), "expected 1 to 100000 pictures to train on, got 0");
}
