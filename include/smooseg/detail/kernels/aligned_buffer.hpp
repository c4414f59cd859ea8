#pragma once

// Memory for loops over vectors: aligned to a cache line, not initialised.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace smooseg::detail {

/// Asks the system for large pages where an array of this size, not yet touched, has room for some: touching memory for
/// the first time costs as much as a pass over it otherwise.
inline void advise_large_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t kPage = std::size_t{2} << 20;
  const std::size_t before = (kPage - reinterpret_cast<std::uintptr_t>(data) % kPage) % kPage;
  if (bytes >= before + kPage) {
    ::madvise(static_cast<char*>(data) + before, (bytes - before) / kPage * kPage, MADV_HUGEPAGE);
  }
#endif
}

/// An array that grows and never shrinks, so that one can serve many pictures. What it holds is lost when it grows.
template <class T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>, "plain data only");

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) { reserve(size); }

  /// Makes room for at least `size` elements.
  void reserve(std::size_t size) {
    if (size <= capacity_) return;
    data_.reset();  // first, lest both be held
    capacity_ = 0;
    const std::size_t bytes = size * sizeof(T), alignment = bytes < kHugePage ? kCacheLine : kHugePage;
    data_.reset(static_cast<T*>(::operator new (bytes, std::align_val_t{alignment})));
    data_.get_deleter().alignment = alignment;
    advise_large_pages(data_.get(), bytes);
    capacity_ = size;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](std::size_t i) { return data_.get()[i]; }
  const T& operator[](std::size_t i) const { return data_.get()[i]; }

 private:
  static constexpr std::size_t kCacheLine = 64, kHugePage = std::size_t{2} << 20;

  struct Delete {
    std::size_t alignment = kCacheLine;
    void operator()(T* data) const { ::operator delete (data, std::align_val_t{alignment}); }
  };
  std::unique_ptr<T, Delete> data_;
  std::size_t capacity_ = 0;
};

}  // namespace smooseg::detail
