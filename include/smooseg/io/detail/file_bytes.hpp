#pragma once

// The bytes of a file, shared by everything that is read from it. Readers into tensors see files only through this
// header, so that it alone decides whether a file is read or mapped.

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <torch/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/io/detail/open_file.hpp"

namespace smooseg::io::detail {

/// Memory as aligned as any tensor wants it: PyTorch aligns its storages to 64 bytes in the file.
inline std::shared_ptr<char> aligned_memory(size_t size) {
  constexpr std::align_val_t kAlignment{64};
  return {static_cast<char*>(::operator new(size, kAlignment)), [](char* p) { ::operator delete(p, kAlignment); }};
}

/// The first `size` bytes of a file as memory that the system fills when it is touched. Writing to it copies the page
/// and leaves the file alone. Null where the system cannot do that for this file.
inline std::shared_ptr<char> map_file(const std::string& path, size_t size) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return nullptr;
  struct stat status {};
  void* address = MAP_FAILED;
  // What lies behind the end of a file that has shrunk since it was measured cannot be touched.
  if (::fstat(descriptor, &status) == 0 && static_cast<uintmax_t>(status.st_size) >= size) {
    // Without MAP_NORESERVE a file larger than the memory would be refused, as if all of it were to be written to.
    address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0);
  }
  ::close(descriptor);  // the mapping stays
  if (address == MAP_FAILED) return nullptr;
  return {static_cast<char*>(address), [size](char* p) { ::munmap(p, size); }};
}

/// A range of a file's bytes, and the file's name for errors. Copies share the bytes.
///
/// The bytes may be written to (tensors share them, and operations in place are common), which never changes the file.
/// A mapped file may be renamed, deleted, or replaced by renaming another over it, as `AtomicFile` does. But whoever
/// shortens it in place takes the bytes away, and touching them ends the program (SIGBUS).
class FileBytes {
 public:
  /// Files of this size and more are mapped, where the system can; smaller ones are read, in some milliseconds, and
  /// no longer depend on the file.
  static constexpr size_t kMapFrom = size_t{16} << 20;

  /// @throws c10::Error naming the path where it is not a file, cannot be read or is empty.
  static FileBytes read(const std::string& path) {
    OpenFile file = smooseg::detail::with_torch_errors([&] { return open_file(path); });
    const auto size = static_cast<size_t>(file.size);
    if (size >= kMapFrom) {
      if (auto mapped = map_file(path, size)) return FileBytes(path, std::move(mapped), size, true);
    }
    auto data = aligned_memory(size);
    file.stream.read(data.get(), static_cast<std::streamsize>(size));
    TORCH_CHECK(file.stream, path, ": cannot read all of its ", size, " bytes");
    return FileBytes(path, std::move(data), size, false);
  }

  /// A copy of bytes that are in memory, as if they were a file called `name`.
  static FileBytes copy_of(std::string name, std::string_view bytes) {
    auto data = aligned_memory(bytes.size());
    std::copy(bytes.begin(), bytes.end(), data.get());
    return FileBytes(std::move(name), std::move(data), bytes.size(), false);
  }

  /// The file's path, to begin errors with.
  const std::string& name() const { return name_; }
  size_t size() const { return size_; }
  std::string_view view() const { return {data_.get(), size_}; }
  /// Whether the bytes come from the disk only when they are touched.
  bool mapped() const { return mapped_; }

  /// Whether `length` bytes from `offset` on are there; no sum can overflow.
  bool holds(uint64_t offset, uint64_t length) const { return offset <= size_ && length <= size_ - offset; }

  /// Bytes [offset, offset + length), which must be there (`holds`).
  FileBytes slice(uint64_t offset, uint64_t length) const {
    TORCH_INTERNAL_ASSERT(holds(offset, length), name_);
    return FileBytes(name_, std::shared_ptr<char>(data_, data_.get() + offset), static_cast<size_t>(length), mapped_);
  }

  /// These bytes if they are aligned for elements of this size (16: of every dtype), else a copy that is.
  FileBytes aligned(size_t element_size = 16) const {
    return reinterpret_cast<uintptr_t>(data_.get()) % element_size == 0 ? *this : copy_of(name_, view());
  }

  /// The first elements as a contiguous tensor that shares these bytes, or a copy of them where they are not aligned.
  /// @param shape sizes of which `checked_bytes` is at most `size()`.
  Tensor tensor(c10::IntArrayRef shape, torch::ScalarType dtype) const {
    const auto data = aligned(c10::elementSize(dtype)).data_;
    return torch::from_blob(
        data.get(), shape, [data](void*) {}, dtype);
  }

 private:
  FileBytes(std::string name, std::shared_ptr<char> data, size_t size, bool mapped)
      : name_(std::move(name)), data_(std::move(data)), size_(size), mapped_(mapped) {}

  std::string name_;
  std::shared_ptr<char> data_;
  size_t size_;
  bool mapped_;
};

/// Reads numbers, little-endian as in the machine's memory, and runs of bytes from front to back, never past the end.
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
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
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
