#include "data/classes.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

namespace smooseg::app {
namespace {

using Json = nlohmann::json;

// Trubetskoy's list of distinct colours, without white, black and grey.
constexpr std::array<Color, 19> kDistinct{{{60, 180, 75},
                                           {67, 99, 216},
                                           {245, 130, 49},
                                           {230, 25, 75},
                                           {66, 212, 244},
                                           {255, 225, 25},
                                           {145, 30, 180},
                                           {240, 50, 230},
                                           {191, 239, 69},
                                           {70, 153, 144},
                                           {250, 190, 212},
                                           {154, 99, 36},
                                           {220, 190, 255},
                                           {128, 0, 0},
                                           {170, 255, 195},
                                           {128, 128, 0},
                                           {255, 216, 177},
                                           {0, 0, 117},
                                           {255, 250, 200}}};

/// Hue steps by the golden ratio, so that no two hues meet; saturation and value take turns.
Color color_by_formula(int64_t index) {
  const double hue = std::fmod(static_cast<double>(index) * 0.618033988749895, 1.0) * 6;
  const double saturation = index % 2 == 0 ? 0.85 : 0.55;
  const double value = index % 3 == 0 ? 0.95 : index % 3 == 1 ? 0.7 : 0.45;
  Color color{};
  for (size_t c = 0; c < 3; ++c) {
    const double k = std::fmod(5 - 2 * static_cast<double>(c) + hue, 6.0);
    const double ramp = std::max(0.0, std::min({k, 4 - k, 1.0}));
    color[c] = static_cast<uint8_t>(255 * value * (1 - saturation * ramp));
  }
  return color;
}

class Reader {
 public:
  Reader(const Json& json, std::string source) : json_(json), source_(std::move(source)) {}

  ClassTable read() const {
    if (!json_.is_object()) fail("an object with the key \"classes\"", json_);
    ClassTable table;
    table.names = read_names();
    table.colors = json_.contains("colors") ? read_colors(table.names.size()) : default_colors(table.size());
    table.ignore = read_ignore();
    return table;
  }

 private:
  std::vector<std::string> read_names() const {
    if (!json_.contains("classes")) throw std::runtime_error(source_ + ": expected the key \"classes\", found none");
    const Json& list = json_["classes"];
    const char* const expected = "\"classes\": a list of at least 2 names";
    if (!list.is_array() || list.size() < 2) fail(expected, list);
    std::vector<std::string> names;
    for (const Json& name : list) {
      if (!name.is_string()) fail(expected, name);
      names.push_back(name.get<std::string>());
    }
    return names;
  }

  std::vector<Color> read_colors(size_t count) const {
    const Json& list = json_["colors"];
    if (!list.is_array()) fail("\"colors\": a list of [r, g, b]", list);
    if (list.size() != count) {
      throw std::runtime_error(source_ + ": expected \"colors\" for " + std::to_string(count) + " classes, found " +
                               std::to_string(list.size()));
    }
    std::vector<Color> colors;
    for (const Json& color : list) colors.push_back(read_color(color));
    return colors;
  }

  Color read_color(const Json& list) const {
    const char* const expected = "\"colors\": [r, g, b] of whole numbers 0..255 each";
    if (!list.is_array() || list.size() != 3) fail(expected, list);
    Color color{};
    for (size_t c = 0; c < 3; ++c) {
      const Json& value = list[c];
      if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > 255) fail(expected, list);
      color[c] = value.get<uint8_t>();
    }
    return color;
  }

  std::vector<int64_t> read_ignore() const {
    if (!json_.contains("ignore")) return {};
    const Json& list = json_["ignore"];
    const char* const expected = "\"ignore\": a list of label values";
    if (!list.is_array()) fail(expected, list);
    std::vector<int64_t> values;
    for (const Json& value : list) {
      if (!value.is_number_integer()) fail(expected, value);
      values.push_back(value.get<int64_t>());
    }
    return values;
  }

  [[noreturn]] void fail(const std::string& expected, const Json& found) const {
    std::string text = found.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > 80) text = text.substr(0, 77) + "...";
    throw std::runtime_error(source_ + ": expected " + expected + ", found " + text);
  }

  const Json& json_;
  std::string source_;
};

}  // namespace

std::vector<Color> default_colors(int64_t count) {
  std::vector<Color> colors;
  for (int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<size_t>(i);
    colors.push_back(index < kDistinct.size() ? kDistinct[index] : color_by_formula(i));
  }
  return colors;
}

ClassTable default_classes(int64_t count) {
  ClassTable classes;
  for (int64_t i = 0; i < count; ++i) classes.names.push_back("class " + std::to_string(i));
  classes.colors = default_colors(count);
  return classes;
}

ClassTable read_classes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) throw std::runtime_error(path.string() + ": expected the classes as JSON, found no readable file");
  return classes_from_json(text, path.string());
}

ClassTable classes_from_json(const std::string& text, const std::string& source) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw std::runtime_error(source + ": expected JSON, found an error at byte " + std::to_string(error.byte));
  }
  return Reader(json, source).read();
}

std::string classes_to_json(const ClassTable& classes) {
  return Json{{"classes", classes.names}, {"colors", classes.colors}, {"ignore", classes.ignore}}.dump();
}

}  // namespace smooseg::app
