#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/detail/torch_threads.hpp"
#include "support.hpp"

using smooseg::detail::on_torch_threads;
using smooseg::detail::parallel_for;

namespace {

/// The threads that took part in `count` calls which wait for each other, and so need as many threads.
std::set<std::thread::id> threads_that_meet(int64_t count, int64_t threads) {
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::atomic<int64_t> arrived{0};
  parallel_for(count, threads, [&](int64_t) {
    ++arrived;
    while (arrived < std::min(count, threads)) std::this_thread::yield();
    const std::lock_guard<std::mutex> lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  return ids;
}

}  // namespace

TEST_CASE("parallel_for makes each call once, on several threads at a time", "[parallel]") {
  for (const int64_t count : {0, 1, 7, 1000}) {
    for (const int64_t threads : {-1, 0, 1, 2, 5}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      parallel_for(count, threads, [&](int64_t i) { ++calls[static_cast<std::size_t>(i)]; });
      for (const auto& n : calls) CHECK(n == 1);
    }
  }
  CHECK(threads_that_meet(3, 3).size() == 3);
  CHECK(threads_that_meet(5, 2).size() <= 2);
  CHECK(threads_that_meet(4, 1) == std::set<std::thread::id>{std::this_thread::get_id()});
}

TEST_CASE("parallel_for uses LibTorch's number of threads unless told otherwise", "[parallel]") {
  const int before = at::get_num_threads();
  std::mutex mutex;
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    std::set<std::thread::id> ids;
    std::atomic<int> arrived{0};
    parallel_for(3, [&](int64_t) {
      ++arrived;
      while (arrived < threads) std::this_thread::yield();
      const std::lock_guard<std::mutex> lock(mutex);
      ids.insert(std::this_thread::get_id());
    });
    CHECK(ids.size() == static_cast<std::size_t>(threads));
  }
  at::set_num_threads(before);
}

TEST_CASE("parallel_for inside itself runs on its thread alone", "[parallel]") {
  std::atomic<int> calls{0}, strangers{0};
  parallel_for(8, 4, [&](int64_t) {
    const auto self = std::this_thread::get_id();
    parallel_for(8, 4, [&](int64_t) {
      ++calls;
      if (std::this_thread::get_id() != self) ++strangers;
    });
  });
  CHECK(calls == 64);
  CHECK(strangers == 0);
}

TEST_CASE("parallel_for serves several callers at a time", "[parallel]") {
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) parallel_for(20, 3, [&](int64_t i) { sum += i; });
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(sum == 4 * 200 * 190);
}

TEST_CASE("parallel_for throws the error of the lowest call that failed, and works on", "[parallel]") {
  for (const int64_t threads : {1, 4}) {
    const auto fail = [&] {
      parallel_for(100, threads, [](int64_t i) {
        if (i >= 3) throw std::runtime_error("call " + std::to_string(i));
      });
    };
    CHECK_THROWS_WITH(fail(), "call 3");
    std::atomic<int> calls{0};
    parallel_for(10, threads, [&](int64_t) { ++calls; });
    CHECK(calls == 10);
  }
}

TEST_CASE("on_torch_threads hands out each number once", "[parallel]") {
  const int before = at::get_num_threads();
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      std::mutex mutex;
      std::set<std::thread::id> ids;
      on_torch_threads(count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++calls[static_cast<std::size_t>(i)];
        const std::lock_guard<std::mutex> lock(mutex);
        ids.insert(std::this_thread::get_id());
      });
      for (const auto& n : calls) CHECK(n == 1);
      CHECK(ids.size() == static_cast<std::size_t>(std::min<int64_t>(threads, count)));
    }
  }
  at::set_num_threads(before);
}

TEST_CASE("on_torch_threads runs on its thread alone inside parallel regions, and passes errors on", "[parallel]") {
  std::atomic<int> calls{0}, parts{0};
  const auto count_part = [&](int64_t begin, int64_t end) {
    calls += static_cast<int>(end - begin);
    ++parts;
  };
  parallel_for(4, 2, [&](int64_t) { on_torch_threads(8, count_part); });
  CHECK(calls == 32);
  CHECK(parts == 4);
  on_torch_threads(4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) on_torch_threads(8, count_part);
  });
  CHECK(calls == 64);
  CHECK(parts == 8);
  CHECK_THROWS_WITH(on_torch_threads(4, [](int64_t, int64_t) { throw std::runtime_error("no"); }), "no");
}
