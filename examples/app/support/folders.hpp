#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

namespace smooseg::app {

/// Makes the folder that an option names, and those above it, where they are not there yet.
/// @throws std::runtime_error naming the option and the folder where it cannot be made.
inline void make_folder(const std::filesystem::path& folder, const std::string& option) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (std::filesystem::is_directory(folder)) return;
  throw std::runtime_error(option + ": cannot create the folder " + folder.string() + ": " + error.message());
}

}  // namespace smooseg::app
