#pragma once

// Files as readers open them, and how much memory their tensors take. Needs no LibTorch.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace smooseg::io::detail {

/// The most dimensions that LibTorch's operations take.
inline constexpr size_t kMaxDims = 64;

/// Size in bytes of a contiguous tensor; nothing where that does not fit 63 bits, or there are too many dimensions.
/// @param shape sizes of 0 and more, in any container of int64_t.
template <class Sizes>
std::optional<int64_t> checked_bytes(const Sizes& shape, size_t element_size) {
  if (shape.size() > kMaxDims) return std::nullopt;
  // A size of 0 makes the tensor empty however large the others are, but the strides must be representable too.
  bool empty = false;
  auto bytes = static_cast<int64_t>(element_size);
  for (const int64_t size : shape) {
    empty = empty || size == 0;
    if (size > 0 && bytes > std::numeric_limits<int64_t>::max() / size) return std::nullopt;
    bytes *= std::max<int64_t>(size, 1);
  }
  return empty ? 0 : bytes;
}

struct OpenFile {
  std::ifstream stream;  ///< at the beginning
  uint64_t size = 0;     ///< in bytes, above 0
};

/// @throws std::invalid_argument naming the path where it is not a file, cannot be read or is empty.
inline OpenFile open_file(const std::string& path) {
  namespace fs = std::filesystem;
  const auto require = [&](bool condition, const std::string& problem) {
    if (!condition) throw std::invalid_argument(path + ": " + problem);
  };
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  require(status.type() != fs::file_type::not_found, "no such file");
  require(!error, "cannot read: " + error.message());
  require(!fs::is_directory(status), "is a folder, expected a file");
  require(fs::is_regular_file(status), "is not a regular file");
  errno = 0;
  OpenFile file{std::ifstream(path, std::ios::binary), 0};
  require(static_cast<bool>(file.stream), "cannot open: " + std::generic_category().message(errno));
  file.size = fs::file_size(path, error);
  require(!error, "cannot read: " + error.message());
  require(file.size > 0, "is empty");
  return file;
}

}  // namespace smooseg::io::detail
