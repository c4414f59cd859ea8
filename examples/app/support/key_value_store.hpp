#pragma once

// A store that several processes share: c10d's, the part of it that the program uses.

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace smooseg::app {

/// May be used by several threads of a process. Every call may throw where the connection is lost.
class KeyValueStore {
 public:
  using Bytes = std::vector<uint8_t>;

  virtual ~KeyValueStore() = default;

  virtual void set(const std::string& key, const Bytes& value) = 0;

  /// Whether the key was set, and its value, which must be there.
  virtual bool has(const std::string& key) = 0;
  virtual Bytes get(const std::string& key) = 0;

  /// Adds to a counter, which begins at 0, and returns the sum.
  virtual int64_t add(const std::string& key, int64_t value) = 0;

  virtual void remove(const std::string& key) = 0;
};

/// Whether this LibTorch has such a store.
bool has_stores();

/// Connects to the store at this address, which the process itself serves if `serves`, and waits for it to be there.
/// @throws what c10d throws where that takes longer than `join_time`; std::runtime_error where this LibTorch has no stores.
std::unique_ptr<KeyValueStore> open_store(const std::string& address, uint16_t port, bool serves,
                                          std::chrono::milliseconds join_time);

}  // namespace smooseg::app
