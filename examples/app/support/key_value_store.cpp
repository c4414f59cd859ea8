#include "support/key_value_store.hpp"

#ifdef SMOOSEG_WITH_C10D
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#else
#include <stdexcept>
#endif

namespace smooseg::app {

#ifdef SMOOSEG_WITH_C10D

namespace {

class C10dStore : public KeyValueStore {
 public:
  C10dStore(const std::string& address, const c10d::TCPStoreOptions& options) : store_(address, options) {
    store_.setTimeout(std::chrono::seconds(30));  // for answers, all of which are given at once
  }

  void set(const std::string& key, const Bytes& value) override { store_.set(key, value); }
  bool has(const std::string& key) override { return store_.check({key}); }
  Bytes get(const std::string& key) override { return store_.get(key); }
  int64_t add(const std::string& key, int64_t value) override { return store_.add(key, value); }
  void remove(const std::string& key) override { store_.deleteKey(key); }

 private:
  c10d::TCPStore store_;
};

}  // namespace

bool has_stores() {
  return true;
}

std::unique_ptr<KeyValueStore> open_store(const std::string& address, uint16_t port, bool serves,
                                          std::chrono::milliseconds join_time) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = serves;
  options.waitWorkers = false;
  options.timeout = join_time;
  return std::make_unique<C10dStore>(address, options);
}

#else

bool has_stores() {
  return false;
}

std::unique_ptr<KeyValueStore> open_store(const std::string&, uint16_t, bool, std::chrono::milliseconds) {
  throw std::runtime_error("this LibTorch was built without c10d");
}

#endif

}  // namespace smooseg::app
