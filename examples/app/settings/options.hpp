#pragma once

// What the settings groups share: ranges of numbers, enumerations by name, and the check of all numbers.

#include <CLI/App.hpp>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace smooseg::app {

/// Whole numbers that count something, at least `lowest`.
inline CLI::Validator at_least(int64_t lowest) {
  return CLI::Range(lowest, int64_t{1} << 40).description("at least " + std::to_string(lowest));
}

/// Whole numbers from `lowest` to `highest`.
inline CLI::Validator from_to(int64_t lowest, int64_t highest) {
  return CLI::Range(lowest, highest).description(std::to_string(lowest) + " to " + std::to_string(highest));
}

/// Sides of pictures in pixels, at least `lowest`.
inline CLI::Validator side(int64_t lowest = 1) {
  return from_to(lowest, 8192);
}

/// Makes every option that takes a floating-point number refuse those that float32, in which models compute, cannot
/// hold: nan, inf, and what is too large or too close to 0. Call it after all options were added.
inline void check_numbers(CLI::App& app) {
  const auto check = [](const std::string& text) -> std::string {
    double value = 0;
    const bool is_number = CLI::detail::lexical_cast(text, value);
    const double size = std::abs(value);
    if (is_number && (size == 0 || (size >= FLT_MIN && size <= FLT_MAX))) return {};
    return "expected a number that float32 can hold, got '" + text + "'";
  };
  for (CLI::Option* option : app.get_options([](const CLI::Option* o) { return !o->get_lnames().empty(); })) {
    if (option->get_type_name().rfind("FLOAT", 0) == 0) option->check(check);
  }
}

/// The values of an enumeration by the names that options give them.
template <class Enum>
class Choices {
 public:
  Choices(std::initializer_list<std::pair<const char*, Enum>> entries) : entries_(entries.begin(), entries.end()) {}

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : entries_) names.push_back(entry.first);
    return names;
  }

  const std::string& name_of(Enum value) const {
    for (const auto& entry : entries_) {
      if (entry.second == value) return entry.first;
    }
    throw std::logic_error("Choices: a value without a name");
  }

  Enum value_of(const std::string& name) const {
    for (const auto& entry : entries_) {
      if (entry.first == name) return entry.second;
    }
    throw std::logic_error("Choices: '" + name + "' names no value");
  }

 private:
  std::vector<std::pair<std::string, Enum>> entries_;
};

}  // namespace smooseg::app
