#pragma once

// Single tensors of a safetensors file as plain numbers. Needs no LibTorch; `io/safetensors.hpp` reads whole files.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "smooseg/io/detail/open_file.hpp"
#include "smooseg/io/detail/safetensors_header.hpp"
#include "smooseg/io/detail/text.hpp"

namespace smooseg::io {

namespace detail {

/// The number that 16 bits stand for in IEEE's half precision.
inline float half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1F, mantissa = bits & 0x3FF;
  const float sign = bits >> 15 == 0 ? 1.0F : -1.0F;
  if (exponent == 0x1F) {
    return mantissa == 0 ? sign * std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  }
  const int scaled = exponent == 0 ? mantissa : mantissa + 0x400;
  return sign * std::ldexp(static_cast<float>(scaled), std::max(exponent, 1) - 25);
}

/// The number that 16 bits stand for in bfloat16, the upper half of a float32.
inline float bfloat16_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

}  // namespace detail

/// Reads tensors one by one, without the rest of the file.
class SafetensorsReader {
 public:
  /// Opens the file and reads its header.
  /// @throws std::invalid_argument naming the path where there is no such file, or its header breaks the format.
  explicit SafetensorsReader(std::string path) : path_(std::move(path)), file_(detail::open_file(path_)) {
    std::array<unsigned char, sizeof(uint64_t)> bytes{};
    detail::check_safetensors(file_.size >= bytes.size(), path_, "truncated or corrupt: no length of a header");
    file_.stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    uint64_t length = 0;
    for (size_t i = bytes.size(); i-- > 0;) length = length << 8 | bytes[i];
    detail::check_safetensors_length(length, path_);
    detail::check_safetensors(length <= file_.size - bytes.size(), path_,
                              "truncated or corrupt: expected a header of " + std::to_string(length) +
                                  " bytes, the file has " + std::to_string(file_.size));
    std::string text(static_cast<size_t>(length), '\0');
    file_.stream.read(text.data(), static_cast<std::streamsize>(length));
    check_stream();
    header_ = detail::parse_safetensors_header(text, file_.size, path_);
  }

  const std::string& path() const { return path_; }

  /// UTF-8 strings by name; empty where the file has none.
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  bool has(const std::string& name) const { return find(name) != nullptr; }

  /// @throws std::invalid_argument naming the file where there is no such tensor.
  const std::vector<int64_t>& shape(const std::string& name) const { return entry(name).shape; }

  /// A tensor's elements, the last dimension running fastest.
  /// @tparam T any type that a float converts to.
  /// @throws std::invalid_argument naming the file and the tensor where there is no such tensor, its dtype is none of
  ///   F64, F32, F16 and BF16, its shape does not fit its bytes, or they cannot be read.
  template <class T>
  std::vector<T> values(const std::string& name) {
    const detail::SafetensorsEntry& e = entry(name);
    const std::string& dtype = e.dtype_name;
    if (dtype == "F64") return converted<T, double>(e, [](double value) { return value; });
    if (dtype == "F32") return converted<T, float>(e, [](float value) { return value; });
    if (dtype == "F16") return converted<T, uint16_t>(e, detail::half_value);
    if (dtype == "BF16") return converted<T, uint16_t>(e, detail::bfloat16_value);
    throw std::invalid_argument(detail::safetensors_name(path_, e) + " has dtype " + detail::printable(dtype) +
                                ", expected F64, F32, F16 or BF16");
  }

 private:
  const detail::SafetensorsEntry* find(const std::string& name) const {
    const auto found =
        std::find_if(header_.entries.begin(), header_.entries.end(), [&](const auto& e) { return e.name == name; });
    return found == header_.entries.end() ? nullptr : &*found;
  }

  const detail::SafetensorsEntry& entry(const std::string& name) const {
    const auto* const found = find(name);
    detail::check_safetensors(found != nullptr, path_, "has no tensor '" + name + "'");
    return *found;
  }

  void check_stream() const {
    detail::check_safetensors(static_cast<bool>(file_.stream), path_,
                              "cannot read all of its " + std::to_string(file_.size) + " bytes");
  }

  /// Elements of type Stored, little-endian as in the machine's memory.
  template <class T, class Stored, class Convert>
  std::vector<T> converted(const detail::SafetensorsEntry& e, const Convert& convert) {
    const auto bytes = detail::checked_bytes(e.shape, sizeof(Stored));
    if (bytes != e.end - e.begin) {
      throw std::invalid_argument(detail::safetensors_name(path_, e) + " of shape " +
                                  detail::safetensors_shape(e.shape) + " and dtype " + e.dtype_name +
                                  " does not fit its " + std::to_string(e.end - e.begin) + " bytes");
    }
    std::vector<Stored> stored(static_cast<size_t>(*bytes) / sizeof(Stored));
    file_.stream.seekg(static_cast<std::streamoff>(header_.data_offset) + e.begin);
    file_.stream.read(reinterpret_cast<char*>(stored.data()), static_cast<std::streamsize>(*bytes));
    check_stream();
    std::vector<T> values;
    values.reserve(stored.size());
    for (const Stored value : stored) values.push_back(static_cast<T>(convert(value)));
    return values;
  }

  std::string path_;
  detail::OpenFile file_;
  detail::SafetensorsHeader header_;
};

}  // namespace smooseg::io
