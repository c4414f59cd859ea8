#pragma once

// What the groups of settings share: ranges of numbers, enumerations by name, and a check of every number.

#include <CLI/App.hpp>
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>

namespace smooseg::app {

/// Whole numbers from `lowest` to `highest`.
inline CLI::Validator from_to(int64_t lowest, int64_t highest) {
  return CLI::Range(lowest, highest).description(std::to_string(lowest) + " to " + std::to_string(highest));
}

/// Whole numbers that count something, at least `lowest`.
inline CLI::Validator at_least(int64_t lowest) {
  return CLI::Range(lowest, int64_t{1} << 40).description("at least " + std::to_string(lowest));
}

/// Sides of pictures in pixels, at least `lowest`.
inline CLI::Validator side(int64_t lowest = 1) {
  return from_to(lowest, 8192);
}

/// Makes every option for a floating-point number refuse nan, inf and what is too large or too close to 0 for float32,
/// in which models compute. Call it after all options were added.
inline void check_numbers(CLI::App& app) {
  const auto check = [](const std::string& text) -> std::string {
    double value = 0;
    const bool is_number = CLI::detail::lexical_cast(text, value);
    const double size = std::abs(value);
    if (is_number && (size == 0 || (size >= FLT_MIN && size <= FLT_MAX))) return {};
    return "expected a number within the range of float32, got '" + text + "'";
  };
  for (CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    if (option->get_type_name().rfind("FLOAT", 0) == 0) option->check(check);
  }
}

/// The values of an enumeration by the names that options give them.
template <class Enum>
using Choices = std::map<std::string, Enum>;

template <class Enum>
const std::string& name_of(Enum value, const Choices<Enum>& choices) {
  return std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return c.second == value; })->first;
}

}  // namespace smooseg::app
