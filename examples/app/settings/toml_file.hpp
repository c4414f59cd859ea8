#pragma once

// Configuration files. Needs no LibTorch.

#include <cstdint>
#include <string>
#include <vector>

namespace smooseg::app {

/// KEY = VALUE in a section of a TOML file.
struct TomlValue {
  std::string section, key;
  std::string text;  ///< the value as the command line takes it
  int64_t line;
};

/// The values of a TOML file of sections with single values.
/// @throws CLI::ConfigError "PATH, line N: ..." for what is no TOML, a value in no section, and lists, dates and tables
///   in a section; "PATH: ..." for what cannot be read.
std::vector<TomlValue> read_toml(const std::string& path);

}  // namespace smooseg::app
