#include "support/sha256.hpp"

#include <algorithm>
#include <fstream>
#include <stdexcept>
#include <vector>

namespace smooseg::app {
namespace {

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes (section 4.2.2).
constexpr std::array<uint32_t, 64> kRoundConstants{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t rotate(uint32_t x, unsigned count) {
  return (x >> count) | (x << (32 - count));
}

}  // namespace

void Sha256::update(std::string_view bytes) {
  std::size_t held = bytes_ % kBlock;
  bytes_ += bytes.size();
  while (held + bytes.size() >= kBlock) {
    if (held == 0) {
      compress(reinterpret_cast<const unsigned char*>(bytes.data()));
      bytes.remove_prefix(kBlock);
    } else {
      const std::size_t taken = kBlock - held;
      std::copy_n(bytes.begin(), taken, rest_.begin() + static_cast<std::ptrdiff_t>(held));
      bytes.remove_prefix(taken);
      compress(rest_.data());
      held = 0;
    }
  }
  std::copy(bytes.begin(), bytes.end(), rest_.begin() + static_cast<std::ptrdiff_t>(held));
}

std::string Sha256::finish() {
  // A one bit, zeros, and the number of bits in the last eight bytes of a block (section 5.1.1).
  const uint64_t bits = 8 * bytes_;
  constexpr std::size_t kLength = 8;
  const std::size_t held = bytes_ % kBlock;
  std::string padding(held < kBlock - kLength ? kBlock - held : 2 * kBlock - held, '\0');
  padding[0] = static_cast<char>(0x80);
  for (std::size_t i = 0; i < kLength; ++i)
    padding[padding.size() - 1 - i] = static_cast<char>((bits >> (8 * i)) & 0xff);
  update(padding);

  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string digest;
  for (const uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) digest += kDigits[(word >> shift) & 0xf];
  }
  return digest;
}

// Section 6.2.2, with its names.
void Sha256::compress(const unsigned char* block) {
  std::array<uint32_t, 64> w;
  for (std::size_t t = 0; t < 16; ++t, block += 4) {
    w[t] = uint32_t{block[0]} << 24 | uint32_t{block[1]} << 16 | uint32_t{block[2]} << 8 | uint32_t{block[3]};
  }
  for (std::size_t t = 16; t < 64; ++t) {
    const uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ (w[t - 15] >> 3);
    const uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ (w[t - 2] >> 10);
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (std::size_t t = 0; t < 64; ++t) {
    const uint32_t sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
    const uint32_t t1 = h + sum1 + ((e & f) ^ (~e & g)) + kRoundConstants[t] + w[t];
    const uint32_t sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
    const uint32_t t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1;
    d = c, c = b, b = a, a = t1 + t2;
  }
  const std::array<uint32_t, 8> added{a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < state_.size(); ++i) state_[i] += added[i];
}

std::string sha256_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  Sha256 digest;
  std::vector<char> buffer(std::size_t{1} << 20);
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    digest.update({buffer.data(), static_cast<std::size_t>(file.gcount())});
  }
  if (!file.eof()) throw std::runtime_error(path.string() + ": cannot read this file");
  return digest.finish();
}

}  // namespace smooseg::app
