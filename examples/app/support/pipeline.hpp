#pragma once

// Work that is done ahead of its use. Needs no LibTorch.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace smooseg::app {

/// Makes items 0, 1, ..., count - 1 on worker threads and hands them out in this order, whatever the number of workers
/// and however long each takes. At most `ahead` items are made or wait to be taken, which bounds the memory.
///
///     Pipeline<Tensor> images(count, workers, 2 * workers, [&](int64_t i) { return decode(files[i]); });
///     for (int64_t i = 0; i < count; ++i) use(images.next());
///
/// One thread takes. The destructor waits for the items that are being made, and drops the others.
template <class Item>
class Pipeline {
 public:
  /// @param make called once for each item, on several threads at a time.
  /// @throws std::invalid_argument for less than one worker or one item ahead, std::system_error where the system
  ///   gives no thread.
  Pipeline(int64_t count, int workers, int64_t ahead, std::function<Item(int64_t)> make)
      : count_(count), make_(std::move(make)) {
    if (workers < 1 || ahead < 1) throw std::invalid_argument("Pipeline: expected at least 1 worker and 1 item ahead");
    slots_.resize(static_cast<std::size_t>(ahead));
    try {
      for (int64_t i = 0; i < workers && i < count; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }

  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  ~Pipeline() { stop(); }

  /// The next item, waiting for it if need be.
  /// @throws what `make` threw for this item, in this and every later call; std::out_of_range after the last item.
  Item next() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (taken_ == count_) throw std::out_of_range("Pipeline: there are no more items");
    Slot& slot = slot_of(taken_);
    made_.wait(lock, [&] { return slot.item || slot.error; });
    if (slot.error) std::rethrow_exception(slot.error);
    Item item = std::move(*slot.item);
    slot.item.reset();
    ++taken_;
    lock.unlock();
    freed_.notify_one();
    return item;
  }

 private:
  struct Slot {
    std::optional<Item> item;
    std::exception_ptr error;
  };

  Slot& slot_of(int64_t i) { return slots_[static_cast<std::size_t>(i) % slots_.size()]; }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      const auto has_free_slot = [&] { return begun_ < taken_ + static_cast<int64_t>(slots_.size()); };
      freed_.wait(lock, [&] { return stopped_ || begun_ == count_ || has_free_slot(); });
      if (stopped_ || begun_ == count_) return;
      const int64_t i = begun_++;
      lock.unlock();
      Slot made;
      try {
        made.item.emplace(make_(i));
      } catch (...) {
        made.error = std::current_exception();
      }
      lock.lock();
      if (made.error) stopped_ = true;  // items before this one are being made: they, and it, are still handed out
      slot_of(i) = std::move(made);
      made_.notify_one();
      if (begun_ == count_ || stopped_) freed_.notify_all();
    }
  }

  void stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    freed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  const int64_t count_;
  const std::function<Item(int64_t)> make_;
  std::mutex mutex_;
  std::condition_variable made_, freed_;
  std::vector<Slot> slots_;  // item i in slot i mod size, from its making until it is taken
  int64_t begun_ = 0, taken_ = 0;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace smooseg::app
