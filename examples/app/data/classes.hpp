#pragma once

// The classes of a data set: their names, their colours, and what stands for them in label maps.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/image_file.hpp"

namespace smooseg::app {

struct ClassTable {
  std::vector<std::string> names;
  std::vector<Color> colors;    // one for each name
  std::vector<int64_t> ignore;  // label values to leave out

  /// Of each class the label values that mean it; empty: value k means class k.
  std::vector<std::vector<int64_t>> ids = {};

  /// Of each class the colours that mean it, where label maps hold colours; empty: they hold values.
  std::vector<std::vector<Color>> label_colors = {};
  std::vector<Color> ignore_colors = {};  ///< likewise those to leave out
  /// How far a colour of a label map may be from one of these, in levels of each channel.
  int64_t color_tolerance = 0;

  /// Number of classes.
  int64_t size() const { return static_cast<int64_t>(names.size()); }
};

/// Well distinguishable colours: some chosen by hand, then any number by formula; always the same.
std::vector<Color> default_colors(int64_t count);

/// "class 0", "class 1", ... in `default_colors`, for data without labels.
ClassTable default_classes(int64_t count);

/// Reads classes.json: "classes" (names), and if there
/// - "colors": [r, g, b] for each name, 0..255; else `default_colors`;
/// - "ignore": label values to leave out;
/// - "ids": for each name the label value that means it, or a list of such values;
/// - "label_colors": for each name the colour that means it in label maps of colours, or a list of such colours; the word
///   "colors" says that they are those above. With them "ignore_colors" (a list) and "color_tolerance".
/// Other keys are left alone.
/// @throws std::runtime_error naming the file and the key: missing or not JSON, fewer than 2 classes, lengths that
///   differ, values out of range, a value or colour that means two things.
ClassTable read_classes(const std::filesystem::path& path);

/// The same from a text; `source` stands for the file in errors.
ClassTable classes_from_json(const std::string& text, const std::string& source);

/// The text that `classes_from_json` reads back, on one line.
std::string classes_to_json(const ClassTable& classes);

}  // namespace smooseg::app
