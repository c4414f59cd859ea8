#include "support/hash.hpp"

#include <openssl/evp.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
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

std::string hex_of(const unsigned char* bytes, std::size_t size) {
  constexpr auto kDigits = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < size; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

/// Calls update(bytes, size) for one block of a file after another.
template <class Update>
void read_blocks(const std::filesystem::path& path, const Update& update) {
  std::vector<char> block(std::size_t{1} << 18);
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  while (stream) {
    stream.read(block.data(), static_cast<std::streamsize>(block.size()));
    update(block.data(), static_cast<std::size_t>(stream.gcount()));
  }
  if (!stream.eof()) {
    throw std::runtime_error(path.string() + ": cannot read: " + std::generic_category().message(errno));
  }
}

}  // namespace

std::string Hash::hex() const {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, {low, high});
  return hex_of(bytes.digest, sizeof bytes.digest);
}

Hash hash_of(const void* bytes, std::size_t size) {
  return from(XXH3_128bits(bytes, size));
}

Hash hash_of(std::string_view bytes) {
  return hash_of(bytes.data(), bytes.size());
}

Hash hash_of_file(const std::filesystem::path& path) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  read_blocks(path, [&](const char* bytes, std::size_t size) { XXH3_128bits_update(state.get(), bytes, size); });
  return from(XXH3_128bits_digest(state.get()));
}

std::string sha256_of(const std::filesystem::path& path) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  bool works = context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  read_blocks(path, [&](const char* bytes, std::size_t size) {
    works = works && EVP_DigestUpdate(context.get(), bytes, size) == 1;
  });
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned size = 0;
  works = works && EVP_DigestFinal_ex(context.get(), digest.data(), &size) == 1;
  if (!works) throw std::runtime_error(path.string() + ": OpenSSL cannot compute its SHA-256");
  return hex_of(digest.data(), size);
}

}  // namespace smooseg::app
