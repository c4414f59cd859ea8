#pragma once

// The header of a safetensors file: for each tensor its dtype, shape and range of bytes, and the metadata. Needs no
// LibTorch; errors are std::invalid_argument.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "smooseg/io/detail/json.hpp"
#include "smooseg/io/detail/open_file.hpp"
#include "smooseg/io/detail/text.hpp"

namespace smooseg::io::detail {

inline constexpr std::string_view kSafetensorsMetadata = "__metadata__";
/// The longest header that the format allows.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

/// What the header says of one tensor; `begin` and `end` count from the end of the header.
struct SafetensorsEntry {
  std::string name, dtype_name;
  std::vector<int64_t> shape;
  int64_t begin = -1, end = -1;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< in the order of their bytes
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;
};

/// Throws std::invalid_argument saying `problem` after the file's name, unless `condition`.
inline void check_safetensors(bool condition, const std::string& name, const std::string& problem) {
  if (!condition) throw std::invalid_argument(name + ": " + problem);
}

/// Checks the first number of a file, the length of its header. @param name the file's.
inline void check_safetensors_length(uint64_t length, const std::string& name) {
  check_safetensors(length <= kMaxSafetensorsHeader, name,
                    "not a safetensors file: a header of " + std::to_string(length) + " bytes");
}

inline SafetensorsEntry read_safetensors_entry(JsonReader& json, const std::string& name) {
  SafetensorsEntry entry;
  entry.name = name;
  std::vector<int64_t> offsets;
  json.object([&](const std::string& field) {
    if (field == "dtype") {
      entry.dtype_name = json.string();
    } else if (field == "shape") {
      json.array([&] {
        json.check(entry.shape.size() < kMaxDims, "a tensor of too many dimensions");
        entry.shape.push_back(json.integer());
      });
    } else if (field == "data_offsets") {
      json.array([&] {
        offsets.push_back(json.integer());
        json.check(offsets.size() <= 2, "a third number in data_offsets");
      });
    } else {
      json.check(false, "tensor '" + printable(name) + "' has an unknown field '" + printable(field) + "'");
    }
  });
  if (offsets.size() != 2) json.check(false, "tensor '" + printable(name) + "' needs two data_offsets");
  entry.begin = offsets[0];
  entry.end = offsets[1];
  return entry;
}

/// Reads the header and checks that the tensors' ranges fill the rest of the file without holes or overlaps.
/// @param text the header. @param file_size bytes of the whole file. @param name the file's.
inline SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t file_size, const std::string& name) {
  JsonReader json(text, name);
  json.check(!text.empty() && text[0] == '{', "expected '{'");

  SafetensorsHeader header;
  header.data_offset = sizeof(uint64_t) + text.size();
  json.object([&](const std::string& key) {
    if (key == kSafetensorsMetadata) {
      json.object([&](const std::string& entry) { header.metadata[entry] = json.string(); });
    } else {
      header.entries.push_back(read_safetensors_entry(json, key));
    }
  });
  json.end();

  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t expected = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    check_safetensors(entry.begin == expected && entry.end >= entry.begin, name,
                      "invalid header: tensor '" + printable(entry.name) + "' has bytes " +
                          std::to_string(entry.begin) + " to " + std::to_string(entry.end) +
                          ", expected them to begin at " + std::to_string(expected));
    expected = entry.end;
  }
  const uint64_t data_size = file_size - header.data_offset;
  check_safetensors(data_size == static_cast<uint64_t>(expected), name,
                    "truncated or corrupt: expected " + std::to_string(expected) + " bytes of tensors, got " +
                        std::to_string(data_size));
  return header;
}

/// What an error says of a tensor of this file.
inline std::string safetensors_name(const std::string& file, const SafetensorsEntry& entry) {
  return file + ": tensor '" + printable(entry.name) + "'";
}

/// The shape as errors show it, "[2, 3]".
inline std::string safetensors_shape(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

}  // namespace smooseg::io::detail
