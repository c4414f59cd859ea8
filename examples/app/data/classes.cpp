#include "data/classes.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

namespace smooseg::app {
namespace {

using Json = nlohmann::json;

// Trubetskoy's list of distinct colours, without white, black and grey.
constexpr std::array<uint32_t, 19> kDistinct{0x3cb44b, 0x4363d8, 0xf58231, 0xe6194b, 0x42d4f4, 0xffe119, 0x911eb4,
                                             0xf032e6, 0xbfef45, 0x469990, 0xfabed4, 0x9a6324, 0xdcbeff, 0x800000,
                                             0xaaffc3, 0x808000, 0xffd8b1, 0x000075, 0xfffac8};

Color color_of(uint32_t rgb) {
  return {static_cast<uint8_t>(rgb >> 16), static_cast<uint8_t>(rgb >> 8), static_cast<uint8_t>(rgb)};
}

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
    if (!json_.contains("classes")) throw std::runtime_error(source_ + ": expected the key \"classes\", found none");
    const auto is_level = [](const Json& json) {
      return json.is_number_integer() && json.get<int64_t>() >= 0 && json.get<int64_t>() <= 255;
    };
    const auto is_color = [&](const Json& json) {
      return json.is_array() && json.size() == 3 && std::all_of(json.begin(), json.end(), is_level);
    };
    ClassTable table;
    table.names = read_list<std::string>("classes", 2, "a list of at least 2 names", &Json::is_string);
    table.colors = default_colors(table.size());
    if (json_.contains("colors")) {
      table.colors = read_list<Color>("colors", 0, "a list of [r, g, b], whole numbers 0..255 each", is_color);
    }
    if (table.colors.size() != table.names.size()) {
      throw std::runtime_error(source_ + ": expected \"colors\" for " + std::to_string(table.size()) +
                               " classes, found " + std::to_string(table.colors.size()));
    }
    table.ignore = read_list<int64_t>("ignore", 0, "a list of label values", &Json::is_number_integer);
    const std::set<std::string> different(table.names.begin(), table.names.end());
    for (const std::string& name : different) {
      if (std::count(table.names.begin(), table.names.end(), name) == 1) continue;
      throw std::runtime_error(source_ + ": expected \"classes\" of different names, found \"" + name +
                               "\" more than once");
    }
    for (const int64_t value : table.ignore) {
      if (value < 0 || value >= table.size()) continue;
      throw std::runtime_error(source_ + ": expected values in \"ignore\" that are no classes, found " +
                               std::to_string(value) + ", which is the class \"" +
                               table.names[static_cast<std::size_t>(value)] + "\"");
    }
    return table;
  }

 private:
  /// The elements of the list at a key; none where there is no such key.
  template <class T, class IsRight>
  std::vector<T> read_list(const char* key, std::size_t least, const std::string& what, const IsRight& is_right) const {
    std::vector<T> values;
    if (!json_.contains(key)) return values;
    const Json& list = json_[key];
    const std::string expected = '"' + std::string(key) + "\": " + what;
    if (!list.is_array() || list.size() < least) fail(expected, list);
    for (const Json& element : list) {
      if (!std::invoke(is_right, element)) fail(expected, element);
      values.push_back(element.get<T>());
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
    colors.push_back(index < kDistinct.size() ? color_of(kDistinct[index]) : color_by_formula(i));
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
