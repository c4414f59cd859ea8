#pragma once

// Fingerprints of contents. Needs no LibTorch.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace smooseg::app {

/// 128 bits of XXH3: tells contents apart and reveals damage, but is no protection against forgery.
struct Hash {
  uint64_t high = 0, low = 0;

  /// 32 hexadecimal digits.
  std::string hex() const;

  friend bool operator==(const Hash& a, const Hash& b) { return a.high == b.high && a.low == b.low; }
  friend bool operator!=(const Hash& a, const Hash& b) { return !(a == b); }
};

Hash hash_of(const void* bytes, std::size_t size);
Hash hash_of(std::string_view bytes);

/// @throws std::runtime_error naming a file that cannot be read.
Hash hash_of_file(const std::filesystem::path& path);

/// The SHA-256 of a file's content as 64 hexadecimal digits, which tells whether a download is the published file.
/// @throws std::runtime_error naming a file that cannot be read.
std::string sha256_of(const std::filesystem::path& path);

}  // namespace smooseg::app
