#pragma once

// CRC-32 as zip archives have it (ISO-HDLC: reflected polynomial 0xEDB88320). Needs no LibTorch.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace smooseg::io::detail {

/// Row k, column b: the remainder of byte b followed by k bytes of zero.
inline constexpr auto kCrc32Tables = [] {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? crc >> 1 ^ 0xEDB88320U : crc >> 1;
    tables[0][byte] = crc;
  }
  for (size_t row = 1; row < tables.size(); ++row) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[row - 1][byte];
      tables[row][byte] = before >> 8 ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}();

/// The checksum of `bytes`. Eight bytes a step, whose table rows are looked up independently of each other.
inline uint32_t crc32(std::string_view bytes) {
  const auto* at = reinterpret_cast<const unsigned char*>(bytes.data());
  const auto* const end = at + bytes.size();
  uint32_t crc = ~uint32_t{0};
  for (; end - at >= 8; at += 8) {
    const uint32_t first =
        crc ^ (uint32_t{at[0]} | uint32_t{at[1]} << 8 | uint32_t{at[2]} << 16 | uint32_t{at[3]} << 24);
    crc = kCrc32Tables[7][first & 0xFF] ^ kCrc32Tables[6][first >> 8 & 0xFF] ^ kCrc32Tables[5][first >> 16 & 0xFF] ^
          kCrc32Tables[4][first >> 24] ^ kCrc32Tables[3][at[4]] ^ kCrc32Tables[2][at[5]] ^ kCrc32Tables[1][at[6]] ^
          kCrc32Tables[0][at[7]];
  }
  for (; at != end; ++at) crc = crc >> 8 ^ kCrc32Tables[0][(crc ^ *at) & 0xFF];
  return ~crc;
}

}  // namespace smooseg::io::detail
