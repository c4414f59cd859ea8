#pragma once

// Small data sets in the layouts that published ones have on disk.

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "app/picture_files.hpp"

/// An array of uint8 in a MATLAB file of level 5, as the format's documentation describes it. @param values column by
/// column.
inline Bytes mat_bytes(const std::string& name, const std::vector<int32_t>& sizes, const Bytes& values) {
  const auto element = [](Bytes& target, uint32_t type, const Bytes& data) {
    append_number(target, type, 4);
    append_number(target, data.size(), 4);
    target.insert(target.end(), data.begin(), data.end());
    while (target.size() % 8 != 0) target.push_back(0);
  };
  Bytes flags, dims, matrix;
  append_number(flags, 9, 8);  // of class uint8
  for (const int32_t size : sizes) append_number(dims, static_cast<uint32_t>(size), 4);
  element(matrix, 6, flags);
  element(matrix, 5, dims);
  element(matrix, 1, Bytes(name.begin(), name.end()));
  element(matrix, 2, values);
  std::string text = "MATLAB 5.0 MAT-file, made for a test";
  text.resize(124, ' ');
  Bytes file(text.begin(), text.end());
  append_number(file, 0x0100, 2);
  for (const char c : {'I', 'M'}) file.push_back(static_cast<uint8_t>(c));
  element(file, 14, matrix);
  return file;
}

/// An uncompressed TIFF of one strip. @param rows of `channels` bytes a pixel; the channels after the third are alpha.
inline Bytes tiff_bytes(uint32_t width, uint32_t height, const Bytes& rows, uint32_t channels = 3) {
  struct Entry {
    uint16_t tag, type;
    uint32_t count, value;
  };
  const auto data = static_cast<uint32_t>(rows.size());
  const uint32_t depths = 8 + data;  // after the header and the pixels
  std::vector<Entry> entries{{256, 4, 1, width},    {257, 4, 1, height}, {258, 3, channels, depths},
                             {259, 3, 1, 1},        {262, 3, 1, 2},      {273, 4, 1, 8},
                             {277, 3, 1, channels}, {278, 4, 1, height}, {279, 4, 1, data}};
  if (channels > 3) entries.push_back({338, 3, 1, 2});
  Bytes file{'I', 'I', 42, 0};
  append_number(file, depths + 2 * channels, 4);
  file.insert(file.end(), rows.begin(), rows.end());
  for (uint32_t c = 0; c < channels; ++c) append_number(file, 8, 2);
  append_number(file, entries.size(), 2);
  for (const Entry& e : entries) {
    append_number(file, e.tag, 2);
    append_number(file, e.type, 2);
    append_number(file, e.count, 4);
    append_number(file, e.value, 4);
  }
  append_number(file, 0, 4);
  return file;
}

/// A picture of 16 x 8 pixels of one grey level, and a label map of the same size whose values take turns.
inline Bytes small_picture(uint8_t level) {
  return png_bytes({16, 8, 8, PNG_COLOR_TYPE_RGB}, Bytes(16 * 8 * 3, level));
}
inline Bytes small_values(const Bytes& values) {
  Bytes all(16 * 8);
  for (std::size_t p = 0; p < all.size(); ++p) all[p] = values[p % values.size()];
  return all;
}
inline Bytes small_label(const Bytes& values) {
  return png_bytes({16, 8}, small_values(values));
}

namespace trees {

namespace fs = std::filesystem;

inline void cityscapes(const fs::path& root) {
  for (const char* name : {"train/aachen/aachen_000000_000019", "train/bonn/bonn_000001_000019",
                           "val/ulm/ulm_000002_000019", "val/ulm/ulm_000003_000019"}) {
    save(root / "leftImg8bit" / (name + std::string("_leftImg8bit.png")), small_picture(90));
    save(root / "gtFine" / (name + std::string("_gtFine_labelIds.png")), small_label({7, 33, 0, 255, 26}));
    save(root / "gtFine" / (name + std::string("_gtFine_color.png")), small_picture(1));  // comes with it, is not read
  }
}

inline void cocostuff(const fs::path& root) {
  for (const std::string split : {"train2017", "val2017"}) {
    for (const std::string name : {"000000000009", "000000000025", "000000000030"}) {
      save(root / "images" / split / (name + ".jpg"), small_picture(100));
      save(root / "annotations" / split / (name + ".png"), small_label({0, 181, 255, 94}));
    }
    save(root / "curated" / split / "Coco164kFull_Stuff_Coarse_7.txt", std::string("000000000030\n"));
    save(root / "curated" / split / "Coco164kFull_Stuff_Coarse.txt", std::string("000000000030\r\n000000000009"));
  }
}

inline void cocostuff_10k(const fs::path& root) {
  for (const std::string name : {"COCO_train2014_000000000077", "COCO_train2014_000000000078"}) {
    save(root / "images" / (name + ".jpg"), small_picture(100));
    save(root / "annotations" / (name + ".mat"), mat_bytes("S", {8, 16}, small_values({0, 1, 182})));
  }
  save(root / "imageLists/train.txt", std::string("COCO_train2014_000000000077\n"));
  save(root / "imageLists/test.txt", std::string("COCO_train2014_000000000078\n"));
}

/// Four channels, 4 x 2 pixels; red counts the pixels row by row.
inline void potsdam_packed(const fs::path& root) {
  for (const std::string name : {"0", "1", "2"}) {
    Bytes image(4 * 2 * 4, 200);
    for (std::size_t y = 0; y < 2; ++y) {
      for (std::size_t x = 0; x < 4; ++x) image[y + 2 * x] = static_cast<uint8_t>(4 * y + x);
    }
    save(root / "imgs" / (name + ".mat"), mat_bytes("img", {2, 4, 4}, image));
    save(root / "gt" / (name + ".mat"), mat_bytes("gt", {2, 4}, {0, 1, 2, 3, 4, 5, 255, 0}));
  }
  save(root / "labelled_train.txt", std::string("0\n"));
  save(root / "labelled_test.txt", std::string("1\n"));
  save(root / "unlabelled_train.txt", std::string("2\n"));
}

inline void camvid(const fs::path& root) {
  for (const std::string split : {"train", "val", "test"}) {
    save(root / split / "0001TP_006690.png", small_picture(100));
    save(root / (split + "annot") / "0001TP_006690.png", small_label({0, 10, 11}));
  }
}

inline void voc(const fs::path& root) {
  for (const std::string name : {"2007_000032", "2007_000039", "2007_000063"}) {
    save(root / "JPEGImages" / (name + ".jpg"), small_picture(100));
  }
  for (const std::string name : {"2007_000032", "2007_000039"}) {
    save(root / "SegmentationClass" / (name + ".png"), small_label({0, 20, 255}));
  }
  save(root / "ImageSets/Segmentation/train.txt", std::string("2007_000032\n"));
  save(root / "ImageSets/Segmentation/val.txt", std::string("2007_000039\n"));
}

inline void ade20k(const fs::path& root) {
  for (const std::string split : {"training", "validation"}) {
    const std::string name = split == "training" ? "ADE_train_00000001" : "ADE_val_00000001";
    save(root / "images" / split / (name + ".jpg"), small_picture(100));
    save(root / "annotations" / split / (name + ".png"), small_label({0, 1, 150}));
  }
  std::string names = "Idx\tRatio\tTrain\tVal\tStuff\tName\n";
  for (int i = 1; i <= 150; ++i) {
    names += std::to_string(i) + "\t0.0100\t11664\t1172\t1\tthing " + std::to_string(i) + ", object\n";
  }
  save(root / "objectInfo150.txt", names);
}

/// Tiles of 60 pixels, pieces of 2 after halving. In the first tile red is the column, green the row; its label's columns
/// take turns among the six colours.
inline void potsdam_tiles(const fs::path& root) {
  const std::vector<std::pair<int, std::vector<int>>> rows{{2, {10, 11, 12, 13, 14}},
                                                           {3, {10, 11, 12, 13, 14}},
                                                           {4, {10, 11, 12, 13, 14, 15}},
                                                           {5, {10, 11, 12, 13, 14, 15}},
                                                           {6, {7, 8, 9, 10, 11, 12, 13, 14, 15}},
                                                           {7, {7, 8, 9, 10, 11, 12, 13}}};
  const std::array<smooseg::app::Color, 6> colors{
      {{255, 255, 255}, {0, 0, 255}, {0, 255, 255}, {0, 255, 0}, {255, 255, 0}, {255, 0, 0}}};
  Bytes picture, label;
  for (int y = 0; y < 60; ++y) {
    for (int x = 0; x < 60; ++x) {
      for (const int value : {x, y, 7}) picture.push_back(static_cast<uint8_t>(value));
      for (const uint8_t value : colors[static_cast<std::size_t>(x % 6)]) label.push_back(value);
    }
  }
  const Bytes pictures = tiff_bytes(60, 60, picture), labels = tiff_bytes(60, 60, label);
  for (const auto& [row, columns] : rows) {
    for (const int column : columns) {
      const std::string name = "top_potsdam_" + std::to_string(row) + "_" + std::to_string(column);
      save(root / "2_Ortho_RGB" / (name + "_RGB.tif"), pictures);
      save(root / "5_Labels_all" / (name + "_label.tif"), labels);
    }
  }
}

}  // namespace trees
