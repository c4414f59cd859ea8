// TIFF and MATLAB files as pictures and label maps.

#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include "app/dataset_trees.hpp"
#include "data/image_file.hpp"
#include "data/tiff_writer.hpp"
#include "support.hpp"
#include "support/seeds.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

/// A TIFF without compression, as libtiff would not write it unasked.
struct TiffSpec {
  uint32_t width, height, channels = 3, bits = 8;
  uint32_t rows_per_strip = 1;
  uint32_t tile = 0;  // side of tiles, in the place of strips
  bool big = false;   // BigTIFF
};

/// @param values of the pixels, row by row.
Bytes tiff_of(const TiffSpec& s, const std::vector<uint16_t>& values) {
  const int word = s.big ? 8 : 4;
  Bytes file{'I', 'I', static_cast<uint8_t>(s.big ? 43 : 42), 0};
  if (s.big) append_number(file, 8, 4);
  const std::size_t link = file.size();
  append_number(file, 0, word);
  std::vector<uint64_t> offsets, counts;
  const uint32_t rows = s.tile > 0 ? s.tile : s.rows_per_strip, columns = s.tile > 0 ? s.tile : s.width;
  for (uint32_t top = 0; top < s.height; top += rows) {
    for (uint32_t left = 0; left < s.width; left += columns) {
      offsets.push_back(file.size());
      const uint32_t end = s.tile > 0 ? top + rows : std::min(top + rows, s.height);
      for (uint32_t y = top; y < end; ++y) {
        for (uint32_t x = left; x < left + columns; ++x) {
          for (uint32_t c = 0; c < s.channels; ++c) {
            const std::size_t at = (std::size_t{y} * s.width + x) * s.channels + c;
            append_number(file, y < s.height && x < s.width ? values.at(at) : 0, static_cast<int>(s.bits / 8));
          }
        }
      }
      counts.push_back(file.size() - offsets.back());
    }
  }
  struct Entry {
    uint16_t tag, type;
    std::vector<uint64_t> values;
  };
  const uint16_t offset_type = s.big ? 16 : 4;
  std::vector<Entry> entries{{256, 4, {s.width}},
                             {257, 4, {s.height}},
                             {258, 3, std::vector<uint64_t>(s.channels, s.bits)},
                             {259, 3, {1}},
                             {262, 3, {s.channels == 1 ? 1U : 2U}}};
  if (s.tile == 0) entries.push_back({273, offset_type, offsets});
  entries.push_back({277, 3, {s.channels}});
  if (s.tile == 0) {
    entries.push_back({278, 4, {s.rows_per_strip}});
    entries.push_back({279, offset_type, counts});
  } else {
    entries.push_back({322, 4, {s.tile}});
    entries.push_back({323, 4, {s.tile}});
    entries.push_back({324, offset_type, offsets});
    entries.push_back({325, offset_type, counts});
  }
  Bytes directory;
  append_number(directory, entries.size(), s.big ? 8 : 2);
  for (const Entry& e : entries) {
    append_number(directory, e.tag, 2);
    append_number(directory, e.type, 2);
    append_number(directory, e.values.size(), word);
    Bytes payload;
    for (const uint64_t value : e.values) append_number(payload, value, e.type == 3 ? 2 : e.type == 4 ? 4 : 8);
    if (payload.size() > static_cast<std::size_t>(word)) {
      append_number(directory, file.size(), word);
      file.insert(file.end(), payload.begin(), payload.end());
    } else {
      payload.resize(static_cast<std::size_t>(word));
      directory.insert(directory.end(), payload.begin(), payload.end());
    }
  }
  append_number(directory, 0, word);
  Bytes place;
  append_number(place, file.size(), word);
  std::copy(place.begin(), place.end(), file.begin() + static_cast<std::ptrdiff_t>(link));
  file.insert(file.end(), directory.begin(), directory.end());
  return file;
}

/// 5 x 3 pixels of `channels` different values each.
Bytes counting(std::size_t channels) {
  Bytes rows(5 * 3 * channels);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<uint8_t>(3 * i);
  return rows;
}

}  // namespace

TEST_CASE("TIFF pictures and label maps", "[image_file]") {
  const TempDir dir;
  const auto path = dir.path / "a.tif";
  const Bytes rows = counting(3), file = tiff_bytes(5, 3, rows);
  save(path, file);
  if (!reads_tiff()) {
    CHECK_ERROR(read_image(path), "a TIFF file, for which it must be built with libtiff-dev: install that package");
    return;
  }
  const Tensor expected = bytes_tensor(rows, {3, 5, 3});
  CHECK(read_image(path).equal(expected));
  CHECK(read_image(path, [](int64_t height, int64_t width) {
          CHECK(height == 3);
          CHECK(width == 5);
          return std::vector<int64_t>{0, 2};
        }).equal(expected.index_select(0, torch::tensor({0, 2}))));
  const Tensor wide = expected.to(torch::kInt64);
  const Tensor packed = wide.select(2, 0) * 65536 + wide.select(2, 1) * 256 + wide.select(2, 2);
  CHECK(read_color_label(path).equal(packed));
  // A fourth channel, alpha or infrared, changes no colour.
  save(path, tiff_bytes(5, 3, counting(4), 4));
  CHECK(read_image(path).equal(bytes_tensor(counting(4), {3, 5, 4}).narrow(2, 0, 3)));

  CHECK_ERROR(read_label(path), "whole numbers without sign), found a TIFF of 4 channels of 8 bits");
  for (const std::size_t length : {file.size() - 30, std::size_t{30}, std::size_t{9}}) {
    INFO(length);
    save(path, Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(length)));
    CHECK_ERROR(read_image(path), "a.tif: expected an intact TIFF, found an error: ");
  }
  const auto with_value = [&](std::size_t entry, uint16_t value) {  // of the directory
    Bytes changed = file;
    const std::size_t at = 8 + rows.size() + 6 + 2 + 12 * entry + 8;
    changed[at] = static_cast<uint8_t>(value);
    changed[at + 1] = static_cast<uint8_t>(value >> 8);
    return changed;
  };
  save(path, with_value(5, static_cast<uint16_t>(file.size() - 10)));  // the strip begins where the file ends
  CHECK_ERROR(read_image(path), "a.tif: expected an intact TIFF, found an error: ");
  save(path, with_value(0, 65535));
  CHECK_ERROR(read_image(path), "a.tif: expected ");
  Bytes huge = with_value(0, 65535);
  huge[8 + rows.size() + 6 + 2 + 12 + 8 + 1] = 255;  // its height too
  save(path, huge);
  CHECK_ERROR(read_image(path), "expected at least 518207 bytes for 65535 x 65283 pixels, found ");

  // Colours of label maps from PNGs as well, but not from JPEGs.
  save(dir.path / "b.png", png_bytes({5, 3, 8, PNG_COLOR_TYPE_RGB}, rows));
  CHECK(read_color_label(dir.path / "b.png").equal(packed));
  save(dir.path / "c.jpg", jpeg_bytes(5, 3, 3, JCS_RGB, rows));
  CHECK_ERROR(read_color_label(dir.path / "c.jpg"), "found a JPEG, whose compression changes the values");
  save(dir.path / "d.txt", std::string("hello"));
  CHECK_ERROR(read_color_label(dir.path / "d.txt"), "found a file of another format");
}

TEST_CASE("TIFFs in strips and tiles, of 8 and 16 bits, plain and big", "[image_file]") {
  if (!reads_tiff()) return;
  const TempDir dir;
  const auto path = dir.path / "a.tif";
  const uint32_t width = 40, height = 35;
  for (const bool big : {false, true}) {
    for (const uint32_t tile : {0U, 16U}) {
      for (const uint32_t bits : {8U, 16U}) {
        for (const uint32_t channels : {1U, 3U}) {
          INFO("big " << big << ", tile " << tile << ", bits " << bits << ", channels " << channels);
          std::vector<uint16_t> values(width * height * channels);
          for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] = static_cast<uint16_t>(mixed(i) % (bits == 8 ? 256 : 65536));
          }
          save(path, tiff_of({width, height, channels, bits, 4, tile, big}, values));
          const Tensor stored = torch::tensor(std::vector<int64_t>(values.begin(), values.end()));
          const Tensor grey = (bits == 8 ? stored : (stored.to(torch::kFloat64) / 257).round()).to(torch::kUInt8);
          const Tensor expected = grey.view({height, width, channels}).expand({height, width, 3});
          CHECK(read_image(path).equal(expected));
          CHECK(read_image(path, [](int64_t, int64_t) {
                  return std::vector<int64_t>{3, 17, 34};
                }).equal(expected.index_select(0, torch::tensor({3, 17, 34}))));
          if (channels == 1) {
            CHECK(read_label(path).equal(stored.view({height, width})));
          } else {
            CHECK_ERROR(read_label(path), "found a TIFF of 3 channels of ");
          }
        }
      }
    }
  }
}

TEST_CASE("TIFFs are written row by row, and read only where rows are wanted", "[image_file]") {
  if (!reads_tiff()) return;
  const TempDir dir;
  const auto path = dir.path / "a.tif";
  const int64_t height = 300, width = 270;
  const Tensor indices = torch::arange(height * width).remainder(7).to(torch::kUInt8).view({height, width});
  const std::vector<Color> palette{{1, 2, 3}, {9, 8, 7}, {0, 0, 255}, {50, 60, 70}, {5, 5, 5}, {6, 6, 6}, {70, 0, 9}};
  GeoReference reference;
  reference.pixel_scale = {0.05, 0.05, 0};
  reference.tie_points = {0, 0, 0, 368000.5, 5807000.25, 0};
  reference.keys = {1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633};
  reference.double_parameters = {6378137.0};
  reference.ascii_parameters = "WGS 84 / UTM zone 33N|";
  {
    TiffWriter writer(path, {height, width, 1, palette, reference});
    for (int64_t y = 0; y < height; y += 70) writer.write(indices.slice(0, y, std::min(y + 70, height)));
    CHECK_FALSE(fs::exists(path));
    CHECK_ERROR(writer.write(indices.slice(0, 0, 1)), "TiffWriter: expected 300 rows in all, got 301");
    CHECK_ERROR(writer.write(indices.slice(1, 0, 5)), "TiffWriter: expected rows of 270 pixels and 1 channels, uint8");
    writer.finish();
  }
  CHECK(read_label(path).equal(indices.to(torch::kInt64)));
  const Tensor colors =
      torch::tensor({{1, 2, 3}, {9, 8, 7}, {0, 0, 255}, {50, 60, 70}, {5, 5, 5}, {6, 6, 6}, {70, 0, 9}});
  const Tensor expected =
      colors.index_select(0, indices.flatten().to(torch::kInt64)).view({height, width, 3}).to(torch::kUInt8);
  CHECK(read_image(path).equal(expected));
  const GeoReference read = read_georeference(path);
  CHECK_FALSE(read.empty());
  CHECK(read.pixel_scale == reference.pixel_scale);
  CHECK(read.tie_points == reference.tie_points);
  CHECK(read.keys == reference.keys);
  CHECK(read.double_parameters == reference.double_parameters);
  CHECK(read.ascii_parameters == reference.ascii_parameters);

  {
    TiffWriter writer(path, {height, width, 3});
    writer.write(expected);
    writer.finish();
  }
  CHECK(read_image(path).equal(expected));
  CHECK(read_georeference(path).empty());
  CHECK(read_georeference(dir.path / "none.tif").empty());
  {
    TiffWriter writer(path, {height, width, 3});
    writer.write(expected.slice(0, 0, 200));
    CHECK_ERROR(writer.finish(), "TiffWriter: expected 300 rows in all, got 200");
  }
  CHECK(read_image(path).equal(expected));  // the file before
  CHECK(std::distance(fs::directory_iterator(dir.path), fs::directory_iterator()) == 1);
  CHECK_ERROR(TiffWriter(dir.path / "no" / "x.tif", {height, width, 3}), "x.tif: cannot write: No such file");

  // Damage in tiles that nobody wants is not met.
  Bytes damaged = load(path);
  std::fill(damaged.end() - 700, damaged.end() - 500, uint8_t{0x55});  // before the directory lies the last tile
  save(path, damaged);
  const auto first = [](int64_t, int64_t) { return std::vector<int64_t>{0, 255}; };
  CHECK(read_image(path, first).equal(expected.index_select(0, torch::tensor({0, 255}))));
  CHECK_ERROR(read_image(path), "a.tif: expected an intact TIFF, found an error: ");

  // A strip that cannot be held.
  Bytes strip = tiff_bytes(100, 50, Bytes(15000));
  const auto claim = [&](std::size_t entry, uint32_t value) {
    Bytes bytes;
    append_number(bytes, value, 4);
    std::copy(bytes.begin(), bytes.end(),
              strip.begin() + 8 + 15000 + 6 + 2 + 12 * static_cast<std::ptrdiff_t>(entry) + 8);
  };
  claim(0, 20000);
  claim(1, 6000);
  claim(3, 5);  // LZW
  claim(7, 6000);
  save(path, strip);
  CHECK_ERROR(read_image(path, first),
              "expected a TIFF whose strips hold at most 100000000 pixels, found 20000 x 6000");
}

TEST_CASE("MATLAB pictures and label maps", "[image_file]") {
  const TempDir dir;
  const auto path = dir.path / "a.mat";
  // 2 rows, 3 columns, 4 channels; MATLAB stores columns.
  Bytes values(2 * 3 * 4);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(5 * i);
  const Bytes file = mat_bytes("img", {2, 3, 4}, values);
  save(path, file);
  if (!reads_mat()) {
    CHECK_ERROR(read_image(path), "a MATLAB file, for which it must be built with libmatio-dev: install that package");
    CHECK_ERROR(read_label(path), "a MATLAB file, for which it must be built with libmatio-dev");
    return;
  }
  const Tensor expected = bytes_tensor(values, {4, 3, 2}).permute({2, 1, 0}).narrow(2, 0, 3);
  CHECK(read_image(path).equal(expected));
  CHECK(read_image(path, [](int64_t, int64_t) { return std::vector<int64_t>{1}; }).equal(expected.narrow(0, 1, 1)));
  for (const char* name : {"gt", "S"}) {
    save(dir.path / "l.mat", mat_bytes(name, {2, 3}, {0, 255, 1, 2, 3, 4}));
    CHECK(read_label(dir.path / "l.mat").equal(torch::tensor({{0, 1, 3}, {255, 2, 4}})));
  }

  CHECK_ERROR(read_label(path), "a.mat: expected the variable gt or S, found img");
  save(path, mat_bytes("gt", {2, 3, 1, 4}, values));
  CHECK_ERROR(read_label(path), "expected a label map, height x width of numbers, found gt: 2 x 3 x 1 x 4 of uint8");
  save(path, mat_bytes("img", {2, 6, 2}, values));
  CHECK_ERROR(read_image(path),
              "expected a picture, height x width x 3 or more channels of uint8, found img: 2 x 6 x 2");
  save(path, mat_bytes("img", {60000, 60000, 3}, values));
  CHECK_ERROR(read_image(path), "for 60000 x 60000 pixels, found ");
  save(path, mat_bytes("img", {9000, 9000, 3}, values));
  CHECK_ERROR(read_image(path), "for 9000 x 9000 pixels");
  for (const std::size_t length : {file.size() - 8, file.size() - 1, std::size_t{131}, std::size_t{60}}) {
    INFO(length);
    save(path, Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(length)));
    CHECK_ERROR(read_image(path),
                "a.mat: expected an intact MATLAB file, found an error: the end of the file (truncated)");
  }
  Bytes changed = file;
  changed[128] = 77;  // no such type of element
  save(path, changed);
  CHECK_FALSE(error_of([&] { read_image(path); }).empty());
  std::string hdf5 = "MATLAB 7.3 MAT-file, and no HDF5 after it";
  hdf5.resize(124, ' ');
  hdf5 += std::string("\0\2IM", 4);
  hdf5.resize(600, '\1');
  save(path, hdf5);
  CHECK_ERROR(read_image(path), "a.mat: expected the variable img, found none (truncated, damaged or empty)");
}
