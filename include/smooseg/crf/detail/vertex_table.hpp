#pragma once

// The vertices of a lattice by their keys.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

namespace smooseg::crf::detail {

/// A hash table with open addressing and linear probing, which grows. Vertices are numbered from 1 in the order in which
/// they are added.
class VertexTable {
 public:
  /// @param expected number of vertices, roughly.
  explicit VertexTable(std::size_t expected) : keys_(1) {
    while ((std::size_t{1} << bits_) < 2 * expected) ++bits_;
    slots_.resize(std::size_t{1} << bits_);
  }

  /// The key's vertex, 0 if there is none.
  std::uint32_t find(std::uint64_t key) const { return slots_[slot_of(key)]; }

  std::uint32_t find_or_add(std::uint64_t key) {
    std::uint32_t& slot = slots_[slot_of(key)];
    if (slot != 0) return slot;
    if (keys_.size() > std::numeric_limits<std::uint32_t>::max()) {
      throw std::length_error("Permutohedral: more than 2^32 vertices");
    }
    slot = static_cast<std::uint32_t>(keys_.size());
    keys_.push_back(key);
    if (2 * keys_.size() > slots_.size()) grow();
    return static_cast<std::uint32_t>(keys_.size() - 1);
  }

  /// Number of vertices, vertex 0 included.
  std::size_t size() const { return keys_.size(); }
  std::uint64_t key(std::size_t vertex) const { return keys_[vertex]; }

 private:
  /// Where the key is, or would be.
  std::size_t slot_of(std::uint64_t key) const {
    std::size_t at = key * 0x9e3779b97f4a7c15 >> (64 - bits_);
    while (slots_[at] != 0 && keys_[slots_[at]] != key) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  void grow() {
    ++bits_;
    slots_.assign(2 * slots_.size(), 0);
    for (std::size_t v = 1; v < keys_.size(); ++v) slots_[slot_of(keys_[v])] = static_cast<std::uint32_t>(v);
  }

  std::vector<std::uint64_t> keys_;   // by vertex
  std::vector<std::uint32_t> slots_;  // vertices; 0: empty
  int bits_ = 10;
};

}  // namespace smooseg::crf::detail
