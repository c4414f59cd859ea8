#pragma once

// What the groups of settings share: ranges of numbers, enumerations by name, and a check of every number.

#include <CLI/App.hpp>
#include <algorithm>
#include <cfloat>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <system_error>

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

/// What is wrong with a text as a whole number of type Int, "" if nothing is.
template <class Int>
std::string check_whole_number(const std::string& text) {
  Int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) return "expected a smaller number, got " + text;
  if (error == std::errc() && end == text.data() + text.size()) return {};
  return std::string("expected a whole number") + (std::is_unsigned_v<Int> ? " of at least 0" : "") + ", got '" + text +
         "'";
}

/// Makes every option for a floating-point number refuse nan, inf and what is too large or too close to 0 for float32,
/// in which models compute, and every option for a whole number what is none or too large. Call it after all options
/// were added.
inline void check_numbers(CLI::App& app) {
  const auto check = [](const std::string& text) -> std::string {
    double value = 0;
    const bool is_number = CLI::detail::lexical_cast(text, value);
    const double size = std::abs(value);
    if (is_number && (size == 0 || (size >= FLT_MIN && size <= FLT_MAX))) return {};
    return "expected a number within the range of float32, got '" + text + "'";
  };
  for (CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    const auto is = [type = option->get_type_name()](const char* name) { return type.rfind(name, 0) == 0; };
    if (is("FLOAT")) option->check(check);
    // `transform` puts them before checks of ranges, whose errors read as if any text were a number.
    if (is("INT")) option->transform(CLI::Validator().operation(check_whole_number<int64_t>));
    if (is("UINT")) option->transform(CLI::Validator().operation(check_whole_number<uint64_t>));
  }
}

/// What becomes of files that cannot be read.
inline void add_on_error(CLI::App& app, std::string& value) {
  app.add_option("--on-error", value,
                 "fail lists all pictures that cannot be used; skip lists them and leaves them out")
      ->check(CLI::IsMember({"fail", "skip"}));
}

/// The values of an enumeration by the names that options give them.
template <class Enum>
using Choices = std::map<std::string, Enum>;

template <class Enum>
const std::string& name_of(Enum value, const Choices<Enum>& choices) {
  return std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return c.second == value; })->first;
}

}  // namespace smooseg::app
