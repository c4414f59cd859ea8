#pragma once

// SHA-256 (FIPS 180-4), for telling whether a downloaded file is the published one.

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace smooseg::app {

/// The digest of bytes that come piece by piece.
class Sha256 {
 public:
  void update(std::string_view bytes);

  /// The digest as 64 hexadecimal digits, in small letters. Ends the computation: no more `update` after it.
  std::string finish();

 private:
  static constexpr std::size_t kBlock = 64;

  void compress(const unsigned char* block);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, kBlock> rest_{};
  uint64_t bytes_ = 0;
};

/// The digest of a file's content.
/// @throws std::runtime_error naming the file where it cannot be read.
std::string sha256_of(const std::filesystem::path& path);

}  // namespace smooseg::app
