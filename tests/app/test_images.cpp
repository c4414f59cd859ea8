// Picture files of every kind, good and bad.

#include <torch/types.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include "app/dataset_trees.hpp"
#include "app/picture_files.hpp"
#include "data/image_file.hpp"
#include "data/transforms.hpp"
#include "support.hpp"

namespace {

namespace fs = std::filesystem;
using namespace smooseg::app;
using torch::Tensor;

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

TEST_CASE("chosen rows of a picture", "[image_file]") {
  const Bytes rows = smooth_rgb();
  const TempDir dir;
  save(dir.path / "a.png", png_bytes({20, 12, 8, PNG_COLOR_TYPE_RGB}, rows));
  save(dir.path / "b.png", png_bytes({20, 12, 8, PNG_COLOR_TYPE_RGB, true}, rows));
  save(dir.path / "c.jpg", jpeg_bytes(20, 12, 3, JCS_RGB, rows));
  for (const char* name : {"a.png", "b.png", "c.jpg"}) {
    INFO(name);
    const Tensor whole = read_image(dir.path / name);
    for (const std::vector<int64_t>& chosen :
         {std::vector<int64_t>{}, {0}, {11}, {3, 4, 9}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}) {
      const Tensor kept = read_image(dir.path / name, [&](int64_t height, int64_t width) {
        CHECK(height == 12);
        CHECK(width == 20);
        return chosen;
      });
      CHECK(kept.equal(whole.index_select(0, torch::tensor(chosen, torch::kInt64))));
    }
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
}

TEST_CASE("files that are no pictures are refused", "[image_file]") {
  const TempDir dir;
  CHECK_ERROR(read_image(dir.path / "none.png"),
              "none.png: expected a JPEG, PNG, TIFF, BMP, WebP or MATLAB picture, found no such file");
  CHECK_ERROR(read_image(dir.path), "found a folder");
  save(dir.path / "empty.jpg", Bytes{});
  CHECK_ERROR(read_image(dir.path / "empty.jpg"),
              "empty.jpg: expected a JPEG, PNG, TIFF, BMP, WebP or MATLAB picture, found an empty file");
  CHECK_ERROR(read_label(dir.path / "empty.jpg"),
              "expected a label map (grey or palette PNG, TIFF of one channel, or MATLAB), found an empty file");
  save(dir.path / "text.png", std::string("hello"));
  CHECK_ERROR(read_image(dir.path / "text.png"), "found a file of another format");
  save(dir.path / "a.gif", std::string("GIF89a......"));
  CHECK_ERROR(read_image(dir.path / "a.gif"), "found a GIF file");
  save(dir.path / "a.tif", std::string("II*\0....", 8));
  CHECK_ERROR(read_image(dir.path / "a.tif"), reads_tiff() ? "expected an intact TIFF" : "found a TIFF file");
  CHECK_ERROR(read_image("/dev/zero"), "found something that is not a file");
}

TEST_CASE("claims of a huge size are refused before memory is taken", "[image_file]") {
  CHECK_ERROR(image_from(png_header(60000, 60000)),
              "expected at least 3488372 bytes for 60000 x 60000 pixels, found 65");
  CHECK_ERROR(label_from(png_header(60000, 60000)), "for 60000 x 60000 pixels, found 65");
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
  CHECK_ERROR(image_from(claim(60000)), "expected at least 7031250 bytes for 60000 x 60000 pixels");
  CHECK_ERROR(image_from(claim(9000)), "expected at least 158203 bytes for 9000 x 9000 pixels");
  CHECK_ERROR(image_from(claim(64)), "expected an intact JPEG, found an error: ");

  // Pictures that are as large as they claim are read row by row, but not held as a whole.
  const TempDir dir;
  save(dir.path / "large.png", png_bytes({20000, 5001, 1}, Bytes(2500 * 5001, 0xff)));
  CHECK_ERROR(read_image(dir.path / "large.png"),
              "large.png: expected a picture of at most 100000000 pixels, found 20000 x 5001 pixels");
  const Tensor last = read_image(dir.path / "large.png", [](int64_t, int64_t) { return std::vector<int64_t>{5000}; });
  CHECK(last.eq(255).all().item<bool>());
  const auto crops = read_transformed(dir.path / "large.png", {Transform{32, true, 0}, Transform{32, true, 4}});
  CHECK(crops.width == 20000);
  for (const Tensor& crop : crops.pixels) CHECK(crop.equal(torch::full({32, 32, 3}, 255, torch::kUInt8)));
  save(dir.path / "interlaced.png", png_bytes({20000, 5001, 1, PNG_COLOR_TYPE_GRAY, true}, Bytes(2500 * 5001, 0xff)));
  CHECK_ERROR(open_picture(dir.path / "interlaced.png"), "an interlaced PNG of at most 100000000 pixels");
}

TEST_CASE("BMP pictures become RGB", "[image_file]") {
  const Tensor two_by_two = torch::tensor({1, 2, 3, 40, 50, 60, 7, 8, 9, 100, 110, 120}, torch::kUInt8).view({2, 2, 3});
  const std::vector<Color> palette{{1, 2, 3}, {40, 50, 60}, {7, 8, 9}, {100, 110, 120}};
  // From the bottom, blue first; each row padded to 4 bytes.
  const Bytes rgb{9, 8, 7, 120, 110, 100, 0, 0, 3, 2, 1, 60, 50, 40, 0, 0};
  CHECK(image_from(bmp_bytes({2, 2, 24}, rgb)).equal(two_by_two));
  CHECK(image_from(bmp_bytes({2, -2, 24}, rgb)).equal(two_by_two.flip(0)));
  const Bytes with_alpha{9, 8, 7, 0, 120, 110, 100, 9, 3, 2, 1, 0, 60, 50, 40, 255};
  CHECK(image_from(bmp_bytes({2, 2, 32}, with_alpha)).equal(two_by_two));
  CHECK(image_from(bmp_bytes({2, 2, 8, palette}, {2, 3, 0, 0, 0, 1, 0, 0})).equal(two_by_two));
  CHECK(image_from(bmp_bytes({2, 2, 4, palette}, {0x23, 0, 0, 0, 0x01, 0, 0, 0})).equal(two_by_two));
  const Tensor stripes = image_from(bmp_bytes({9, 1, 1, {{0, 0, 0}, {255, 255, 255}}}, {0xaa, 0x80, 0, 0}));
  CHECK(stripes.select(2, 0).flatten().equal(torch::tensor({255, 0, 255, 0, 255, 0, 255, 0, 255}, torch::kUInt8)));

  CHECK_ERROR(image_from(bmp_bytes({2, 2, 8, palette}, {2, 4, 0, 0, 0, 1, 0, 0})),
              "picture: expected a BMP with indices below the palette's 4 entries, found 4");
  CHECK_ERROR(image_from(bmp_bytes({2, 2, 16}, rgb)), "expected a BMP with 1, 4, 8, 24 or 32 bits a pixel, found 16");
  CHECK_ERROR(image_from(bmp_bytes({2, 2, 8, palette, 1}, rgb)),
              "expected a BMP with no compression, found that of number 1");
  CHECK_ERROR(image_from(bmp_bytes({0, 2, 24}, rgb)), "expected a BMP with a size of at least 1 x 1, found 0 x 2");
  CHECK_ERROR(image_from(bmp_bytes({60000, 60000, 24}, rgb)), "for 60000 x 60000 pixels, found 70 (truncated");
  CHECK_ERROR(image_from(bmp_bytes({2000000000, -2147483647, 32}, rgb)), "rows of at most 100000000 pixels");
  CHECK_ERROR(image_from(bmp_bytes({2, 2, 8, std::vector<Color>(300)}, rgb)), "a palette of at most 256 entries");
}

TEST_CASE("WebP pictures become RGB", "[image_file]") {
  const Bytes file = webp_bytes();
  if (!reads_webp()) {
    CHECK_ERROR(image_from(file), "a WebP file, for which it must be built with libwebp-dev: install that package");
    return;
  }
  CHECK(image_from(file).equal(torch::arange(0, 135, 3).to(torch::kUInt8).view({3, 5, 3})));
  CHECK_ERROR(image_from({file.begin(), file.end() - 20}), "picture: expected an intact WebP, found ");
  CHECK_ERROR(image_from({'R', 'I', 'F', 'F', 4, 0, 0, 0, 'W', 'A', 'V', 'E'}), "or another RIFF file");
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
      png_bytes({20, 12, 8, PNG_COLOR_TYPE_RGB}, rows),
      png_bytes({20, 12, 8, PNG_COLOR_TYPE_RGB, true}, rows),
      png_bytes({3, 2, 2, PNG_COLOR_TYPE_PALETTE, false, {{1, 2, 3}, {4, 5, 6}}, {3}}, {0x10, 0x44}),
      jpeg_bytes(20, 12, 3, JCS_RGB, rows),
      jpeg_bytes(20, 12, 3, JCS_RGB, rows, jpeg_simple_progression),
      bmp_bytes({3, 2, 4, {{1, 2, 3}, {4, 5, 6}}}, {0x01, 0x10, 0, 0, 0x11, 0x10, 0, 0}),
      webp_bytes(),
      tiff_bytes(5, 3, Bytes(45, 7))};
  const TempDir dir;
  const fs::path path = dir.path / "picture";
  for (const Bytes& file : files) {
    const bool tiff = file[0] == 'I';  // whose last four bytes say that no other picture follows
    for (size_t length = 0; length < file.size() - (tiff ? 4 : 0); ++length) {
      save(path, Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(length)));
      INFO("length " << length << " of " << file.size());
      CHECK(!error_of([&] { read_image(path); }).empty());
      CHECK(!error_of([&] { read_label(path); }).empty());
    }
    for (size_t at = 0; at < file.size(); ++at) {
      Bytes changed = file;
      changed[at] ^= static_cast<uint8_t>(1 + at % 255);
      save(path, changed);
      const std::string error = error_of([&] {
        const Tensor image = read_image(path);
        CHECK((image.dim() == 3 && image.size(2) == 3));
      });
      CHECK((error.empty() || error.find("picture: expected ") != std::string::npos));
      error_of([&] { read_label(path); });
    }
  }
}
