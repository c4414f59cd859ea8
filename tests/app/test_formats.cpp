// TIFF and MATLAB files as pictures and label maps.

#include <torch/types.h>

#include <string>
#include <vector>

#include "app/dataset_trees.hpp"
#include "data/image_file.hpp"
#include "support.hpp"

using namespace smooseg::app;
using smooseg::Tensor;

namespace {

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

  CHECK_ERROR(read_label(path), "expected a label map (grey or palette PNG, or MATLAB), found a TIFF file");
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
  CHECK_ERROR(read_image(path), "expected a picture of at most 100000000 pixels, found 65535 x 65283 pixels");

  // Colours of label maps from PNGs as well, but not from JPEGs.
  save(dir.path / "b.png", png_bytes({5, 3, 8, PNG_COLOR_TYPE_RGB}, rows));
  CHECK(read_color_label(dir.path / "b.png").equal(packed));
  save(dir.path / "c.jpg", jpeg_bytes(5, 3, 3, JCS_RGB, rows));
  CHECK_ERROR(read_color_label(dir.path / "c.jpg"), "found a JPEG, whose compression changes the values");
  save(dir.path / "d.txt", std::string("hello"));
  CHECK_ERROR(read_color_label(dir.path / "d.txt"), "found a file of another format");
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
  CHECK_ERROR(read_image(path), "found 60000 x 60000 pixels");
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
