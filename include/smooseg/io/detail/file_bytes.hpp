#pragma once

// The bytes of a file, shared by everything that is read from it. The readers of this folder see files only through
// this header, so that it alone decides whether a file is read or mapped.

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::io::detail {

/// Size in bytes of a contiguous tensor; nothing where that does not fit 63 bits, or there are more dimensions than
/// LibTorch's operations take.
inline std::optional<int64_t> checked_bytes(c10::IntArrayRef shape, size_t element_size) {
  constexpr size_t kMaxDims = 64;
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

/// A range of a file's bytes, and the file's name for errors. Copies share the bytes.
class FileBytes {
 public:
  /// @throws c10::Error naming the path where it is no file that can be read, or empty.
  static FileBytes read(const std::string& path) {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    TORCH_CHECK(status.type() != fs::file_type::not_found, path, ": no such file");
    TORCH_CHECK(!error, path, ": cannot read: ", error.message());
    TORCH_CHECK(!fs::is_directory(status), path, ": is a folder, expected a file");
    TORCH_CHECK(fs::is_regular_file(status), path, ": is not a regular file");
    errno = 0;
    std::ifstream stream(path, std::ios::binary);
    TORCH_CHECK(stream, path, ": cannot open: ", std::generic_category().message(errno));
    const auto size = static_cast<size_t>(fs::file_size(path));
    TORCH_CHECK(size > 0, path, ": is empty");
    // PyTorch aligns its storages to 64 bytes in the file: keep them so in memory.
    constexpr std::align_val_t kAlignment{64};
    std::shared_ptr<char> data(static_cast<char*>(::operator new(size, kAlignment)),
                               [](char* p) { ::operator delete(p, kAlignment); });
    stream.read(data.get(), static_cast<std::streamsize>(size));
    TORCH_CHECK(stream, path, ": cannot read all of its ", size, " bytes");
    return FileBytes(path, std::move(data), size);
  }

  /// The file's path, to begin errors with.
  const std::string& name() const { return name_; }
  size_t size() const { return size_; }
  std::string_view view() const { return {data_.get(), size_}; }

  /// Whether `length` bytes from `offset` on are there; no sum can overflow.
  bool holds(uint64_t offset, uint64_t length) const { return offset <= size_ && length <= size_ - offset; }

  /// Bytes [offset, offset + length), which must be there (`holds`).
  FileBytes slice(uint64_t offset, uint64_t length) const {
    TORCH_INTERNAL_ASSERT(holds(offset, length));
    return FileBytes(name_, std::shared_ptr<char>(data_, data_.get() + offset), static_cast<size_t>(length));
  }

  /// The first elements as a contiguous tensor that shares these bytes, or owns a copy where they are not aligned.
  /// @param shape sizes of which `checked_bytes` is at most `size()`.
  Tensor tensor(c10::IntArrayRef shape, torch::ScalarType dtype) const {
    const auto element = c10::elementSize(dtype);
    if (reinterpret_cast<uintptr_t>(data_.get()) % element == 0) {
      const auto keep_alive = [data = data_](void*) {};
      return torch::from_blob(data_.get(), shape, keep_alive, dtype);
    }
    Tensor copy = torch::empty(shape, dtype);
    const auto bytes = static_cast<size_t>(copy.numel()) * element;
    if (bytes > 0) std::memcpy(copy.data_ptr(), data_.get(), bytes);
    return copy;
  }

 private:
  FileBytes(std::string name, std::shared_ptr<char> data, size_t size)
      : name_(std::move(name)), data_(std::move(data)), size_(size) {}

  std::string name_;
  std::shared_ptr<char> data_;
  size_t size_;
};

/// Reads little-endian numbers and runs of bytes from front to back, and refuses to read past the end.
class Cursor {
 public:
  explicit Cursor(const FileBytes& bytes, uint64_t position = 0) : bytes_(bytes), position_(position) {}

  uint64_t position() const { return position_; }

  std::string_view take(uint64_t length) {
    TORCH_CHECK(bytes_.holds(position_, length), bytes_.name(), ": truncated or corrupt: needs ", length,
                " more bytes at byte ", position_, " of ", bytes_.size());
    const std::string_view taken = bytes_.view().substr(static_cast<size_t>(position_), static_cast<size_t>(length));
    position_ += length;
    return taken;
  }

  /// An unsigned number of sizeof(T) bytes.
  template <typename T>
  T number() {
    uint64_t value = 0;
    int shift = 0;
    for (const char c : take(sizeof(T))) {
      value |= static_cast<uint64_t>(static_cast<unsigned char>(c)) << shift;
      shift += 8;
    }
    return static_cast<T>(value);
  }

  /// What stands before the next newline, which is skipped.
  std::string_view line() {
    const std::string_view rest = bytes_.view().substr(static_cast<size_t>(position_));
    const size_t length = rest.find('\n');
    TORCH_CHECK(length != std::string_view::npos, bytes_.name(), ": truncated or corrupt: no end of line after byte ",
                position_);
    position_ += length + 1;
    return rest.substr(0, length);
  }

 private:
  const FileBytes& bytes_;
  uint64_t position_;
};

}  // namespace smooseg::io::detail
