#pragma once

// What tests of tensor files share: comparing tensors bit for bit, and zip archives, pickles and safetensors files made
// byte by byte, right or wrong as a test wants them.

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include "catch.hpp"
#include "smooseg/io/detail/crc32.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support.hpp"

inline size_t files_in(const std::filesystem::path& folder) {
  const std::filesystem::directory_iterator files(folder);
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

/// Whether dtype, shape and every bit of the elements are the same; LibTorch cannot compare elements of every dtype.
inline bool same(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const auto plain = [](const torch::Tensor& t) { return t.detach().resolve_conj().resolve_neg().contiguous(); };
  const torch::Tensor x = plain(a), y = plain(b);
  return x.nbytes() == 0 || std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

inline std::vector<std::string> names_of(const smooseg::io::TensorMap& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  return names;
}

/// Checks that the expected tensors, and no others, are there.
inline void check_same(const smooseg::io::TensorMap& got, const smooseg::io::TensorMap& expected) {
  CHECK(names_of(got) == names_of(expected));
  for (const auto& [name, tensor] : expected) {
    INFO(name);
    if (got.count(name) > 0) CHECK(same(got.at(name), tensor));
  }
}

/// A little-endian number.
inline std::string little(uint64_t number, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(i < 8 ? (number >> (8 * i)) & 0xFF : 0);
  return out;
}

/// A zip archive as PyTorch makes it.
class ZipMaker {
 public:
  /// @param checksum whether to write it; zero stands for none.
  explicit ZipMaker(bool checksum = false) : checksum_(checksum) {}

  ZipMaker& entry(const std::string& name, const std::string& data) {
    const uint32_t checksum = checksum_ ? smooseg::io::detail::crc32(data) : 0;
    const auto header = [&](const std::string& magic, int before) {
      return magic + std::string(static_cast<size_t>(before), '\0') + little(checksum, 4) + little(data.size(), 4) +
             little(data.size(), 4) + little(name.size(), 2) + little(0, 2);
    };
    directory_ += header("PK\1\2", 12) + std::string(10, '\0') + little(content_.size(), 4) + name;
    content_ += header("PK\3\4", 10) + name + data;
    ++entries_;
    return *this;
  }

  std::string content() const {
    return content_ + directory_ + "PK\5\6" + little(0, 4) + little(entries_, 2) + little(entries_, 2) +
           little(directory_.size(), 4) + little(content_.size(), 4) + little(0, 2);
  }

 private:
  bool checksum_;
  std::string content_, directory_;
  size_t entries_ = 0;
};

inline std::string pickled(const std::string& text) {
  return "X" + little(text.size(), 4) + text;
}
inline std::string pickled(size_t number) {
  return "J" + little(number, 4);
}

/// The call that rebuilds a float tensor of one dimension from storage `key` of `elements` elements.
inline std::string pickled_tensor(size_t offset, size_t size, size_t stride, size_t elements,
                                  const std::string& key = "0", const std::string& storage_class = "FloatStorage") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled("storage") + "ctorch\n" + storage_class + "\n" +
         pickled(key) + pickled("cpu") + pickled(elements) + "tQ" + pickled(offset) + pickled(size) + "\x85" +
         pickled(stride) + "\x85\x89)tR";
}

inline std::string dict_of(const std::string& key, const std::string& value) {
  return "}" + pickled(key) + value + "s";
}

/// A checkpoint of a pickle, given without its first and last opcode, and the storage "0".
inline std::string zip_of(const std::string& pickle, const std::string& storage = std::string(16, '\0'),
                          bool checksum = false) {
  return ZipMaker(checksum).entry("x/data.pkl", "\x80\2" + pickle + ".").entry("x/data/0", storage).content();
}

/// A safetensors file with this header, as it stands, and `data_size` bytes of data.
inline std::string safetensors_content(const std::string& header, size_t data_size) {
  return little(header.size(), 8) + header + std::string(data_size, '\1');
}
