#include "support/hash.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cerrno>
#include <fstream>
#include <memory>
#include <new>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace smooseg::app {
namespace {

Hash from(const XXH128_hash_t& hash) {
  return {hash.high64, hash.low64};
}

}  // namespace

std::string Hash::hex() const {
  constexpr auto kDigits = "0123456789abcdef";
  std::string text;
  for (const uint64_t half : {high, low}) {
    for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[(half >> shift) & 15];
  }
  return text;
}

Hash hash_of(const void* bytes, std::size_t size) {
  return from(XXH3_128bits(bytes, size));
}

Hash hash_of(std::string_view bytes) {
  return hash_of(bytes.data(), bytes.size());
}

Hash hash_of_file(const std::filesystem::path& path) {
  constexpr std::size_t kBlock = std::size_t{1} << 18;
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  std::vector<char> block(kBlock);
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  while (stream) {
    stream.read(block.data(), static_cast<std::streamsize>(kBlock));
    XXH3_128bits_update(state.get(), block.data(), static_cast<std::size_t>(stream.gcount()));
  }
  if (!stream.eof()) {
    throw std::runtime_error(path.string() + ": cannot read: " + std::generic_category().message(errno));
  }
  return from(XXH3_128bits_digest(state.get()));
}

}  // namespace smooseg::app
