#include "settings/toml_file.hpp"

#include <toml++/toml.h>

#include <CLI/Error.hpp>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <limits>
#include <sstream>
#include <system_error>

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

/// A value as the command line takes it; "" for a list, a date or a table.
std::string toml_text(const toml::node& value) {
  if (const auto* text = value.as_string()) return text->get();
  std::ostringstream text;
  text << std::boolalpha << std::setprecision(std::numeric_limits<double>::max_digits10);
  if (const auto* whole = value.as_integer()) text << whole->get();
  if (const auto* number = value.as_floating_point()) text << number->get();
  if (const auto* flag = value.as_boolean()) text << flag->get();
  return text.str();
}

/// What a value is that is none of those.
std::string kind_of(const toml::node& value) {
  if (const auto* list = value.as_array()) return "a list of " + std::to_string(list->size());
  return value.is_table() ? "a table" : "a date or time";
}

toml::table parse(const std::string& path) {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_regular_file(path, error)) {
    throw CLI::ConfigError(path + ": expected a configuration file, found " +
                           (fs::is_directory(path, error) ? "a folder" : "something else"));
  }
  std::ifstream file(path);
  if (!file) throw CLI::ConfigError(path + ": cannot read this configuration file");
  try {
    return toml::parse(file, path);
  } catch (const toml::parse_error& e) {
    throw CLI::ConfigError(path + ", line " + std::to_string(e.source().begin.line) +
                           ": no TOML: " + std::string(e.description()));
  }
}

}  // namespace

std::vector<TomlValue> read_toml(const std::string& path) {
  const toml::table file = parse(path);
  const auto place = [&](const toml::node& node) {
    return path + ", line " + std::to_string(node.source().begin.line);
  };
  std::vector<TomlValue> values;
  for (const auto& [section, content] : file) {
    const std::string name(section.str());
    const toml::table* const table = content.as_table();
    if (table == nullptr) throw CLI::ConfigError(place(content) + ": '" + name + "' is in no section [COMMAND]");
    for (const auto& [key, value] : *table) {
      if (!value.is_string() && !value.is_number() && !value.is_boolean()) {
        throw CLI::ConfigError(place(value) + ": expected one value for '" + std::string(key.str()) + "' in [" + name +
                               "], found " + kind_of(value));
      }
      values.push_back({name, std::string(key.str()), toml_text(value), value.source().begin.line});
    }
  }
  return values;
}

}  // namespace smooseg::app
