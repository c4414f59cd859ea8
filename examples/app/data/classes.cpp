#include "data/classes.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
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
    ClassTable table;
    table.names = read_list<std::string>("classes", 2, "a list of at least 2 names", &Json::is_string);
    table.colors = default_colors(table.size());
    if (json_.contains("colors")) {
      table.colors = read_list<Color>("colors", 0, "a list of [r, g, b], whole numbers 0..255 each", is_color);
    }
    check_count("colors", table.colors.size(), table.names.size());
    table.ignore = read_list<int64_t>("ignore", 0, "a list of label values", &Json::is_number_integer);
    const std::set<std::string> different(table.names.begin(), table.names.end());
    for (const std::string& name : different) {
      if (std::count(table.names.begin(), table.names.end(), name) == 1) continue;
      throw std::runtime_error(source_ + ": expected \"classes\" of different names, found \"" + name +
                               "\" more than once");
    }
    table.ids = read_groups<int64_t>("ids", "for each class a label value, 0..65535, or a list of them", is_id);
    check_one_meaning(table, "ignore", table.ignore, table.ids);
    read_label_colors(table);
    return table;
  }

 private:
  static bool is_level(const Json& json) {
    return json.is_number_integer() && json.get<int64_t>() >= 0 && json.get<int64_t>() <= 255;
  }
  static bool is_color(const Json& json) {
    return json.is_array() && json.size() == 3 && std::all_of(json.begin(), json.end(), is_level);
  }
  static bool is_id(const Json& json) {
    return json.is_number_integer() && json.get<int64_t>() >= 0 && json.get<int64_t>() <= 65535;
  }

  void read_label_colors(ClassTable& table) const {
    const char* const key = "label_colors";
    if (json_.contains(key) && json_[key] == "colors") {
      for (const Color& color : table.colors) table.label_colors.push_back({color});
    } else {
      table.label_colors = read_groups<Color>(
          key, "the word \"colors\", or for each class a colour [r, g, b] or a list of them", is_color);
    }
    table.ignore_colors = read_list<Color>("ignore_colors", 0, "a list of [r, g, b]", is_color);
    if (json_.contains("color_tolerance")) {
      const Json& tolerance = json_["color_tolerance"];
      if (!is_level(tolerance)) fail("\"color_tolerance\": a number of levels, 0..255", tolerance);
      table.color_tolerance = tolerance.get<int64_t>();
    }
    if (table.label_colors.empty() && (!table.ignore_colors.empty() || table.color_tolerance != 0)) {
      throw std::runtime_error(
          source_ + ": expected \"label_colors\" beside \"ignore_colors\" and \"color_tolerance\"" + ", found none");
    }
    check_one_meaning(table, "ignore_colors", table.ignore_colors, table.label_colors);
  }

  void check_count(const char* key, std::size_t count, std::size_t classes) const {
    if (count == classes) return;
    throw std::runtime_error(source_ + ": expected \"" + key + "\" for " + std::to_string(classes) +
                             " classes, found " + std::to_string(count));
  }

  /// Refuses a value or colour that means two classes, or one and none.
  template <class T>
  void check_one_meaning(const ClassTable& table, const char* key, const std::vector<T>& ignored,
                         const std::vector<std::vector<T>>& groups) const {
    std::map<T, std::string> meaning;
    for (std::size_t k = 0; k < groups.size(); ++k) {
      for (const T& value : groups[k]) {
        const auto [at, is_new] = meaning.emplace(value, table.names.at(k));
        if (is_new) continue;
        throw std::runtime_error(source_ + ": expected one class for each label, found that " + Json(value).dump() +
                                 " is both \"" + at->second + "\" and \"" + table.names.at(k) + "\"");
      }
    }
    if constexpr (std::is_same_v<T, int64_t>) {
      for (int64_t k = 0; groups.empty() && k < table.size(); ++k) {
        meaning.emplace(k, table.names[static_cast<std::size_t>(k)]);
      }
    }
    for (const T& value : ignored) {
      const auto at = meaning.find(value);
      if (at == meaning.end()) continue;
      throw std::runtime_error(source_ + ": expected values in \"" + key + "\" that are no classes, found " +
                               Json(value).dump() + ", which is the class \"" + at->second + "\"");
    }
  }

  /// For each class the values at a key: one, or a list of at least one; none at all where there is no such key.
  template <class T, class IsRight>
  std::vector<std::vector<T>> read_groups(const char* key, const std::string& what, const IsRight& is_right) const {
    std::vector<std::vector<T>> groups;
    if (!json_.contains(key)) return groups;
    const std::string expected = '"' + std::string(key) + "\": " + what;
    if (!json_[key].is_array()) fail(expected, json_[key]);
    for (const Json& element : json_[key]) {
      const bool single = is_right(element);
      if (!single && (!element.is_array() || element.empty())) fail(expected, element);
      groups.emplace_back();
      for (const Json& value : single ? Json::array({element}) : element) {
        if (!is_right(value)) fail(expected, value);
        groups.back().push_back(value.template get<T>());
      }
    }
    check_count(key, groups.size(), json_["classes"].size());
    return groups;
  }

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
  Json json{{"classes", classes.names}, {"colors", classes.colors}, {"ignore", classes.ignore}};
  if (!classes.ids.empty()) json["ids"] = classes.ids;
  if (!classes.label_colors.empty()) {
    json["label_colors"] = classes.label_colors;
    json["ignore_colors"] = classes.ignore_colors;
    json["color_tolerance"] = classes.color_tolerance;
  }
  return json.dump();
}

}  // namespace smooseg::app
