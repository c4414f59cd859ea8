#pragma once

// The classes of a data set: their names, their colours, and the label values that mean no class.

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

  /// Number of classes.
  int64_t size() const { return static_cast<int64_t>(names.size()); }
};

/// Well distinguishable colours: some chosen by hand, then any number by formula; always the same.
std::vector<Color> default_colors(int64_t count);

/// "class 0", "class 1", ... in `default_colors`, for data without labels.
ClassTable default_classes(int64_t count);

/// Reads classes.json: "classes" (names), and if there "colors" ([r, g, b] each, 0..255, as many as names; else
/// `default_colors`) and "ignore" (label values). Other keys are left alone.
/// @throws std::runtime_error naming the file and the key: missing or not JSON, fewer than 2 classes, lengths that
///   differ, values out of range.
ClassTable read_classes(const std::filesystem::path& path);

/// The same from a text; `source` stands for the file in errors.
ClassTable classes_from_json(const std::string& text, const std::string& source);

/// The text that `classes_from_json` reads back, on one line.
std::string classes_to_json(const ClassTable& classes);

}  // namespace smooseg::app
