// What the program builds on: work ahead of its use, hashes, seeds, file locks, where the time goes, and what the terminal
// and TensorBoard show of it.

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "app/program.hpp"
#include "report/scores.hpp"
#include "support.hpp"
#include "support/event_file.hpp"
#include "support/file_lock.hpp"
#include "support/hash.hpp"
#include "support/pipeline.hpp"
#include "support/profiler.hpp"
#include "support/progress.hpp"
#include "support/seeds.hpp"
#include "support/terminal.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;

TEST_CASE("a pipeline hands items out in order, whatever the number of workers", "[pipeline]") {
  for (const int workers : {1, 2, 3, 8}) {
    for (const int64_t ahead : {1, 2, 5}) {
      INFO(workers << " workers, " << ahead << " ahead");
      std::atomic<int64_t> begun{0}, taken{0}, most{0};
      Pipeline<int64_t> items(40, workers, ahead, [&](int64_t i) {
        const int64_t held = ++begun - taken;
        for (int64_t m = most; held > m && !most.compare_exchange_weak(m, held);) {
        }
        if (i % 7 == 0) pause(2);
        return i * i;
      });
      for (int64_t i = 0; i < 40; ++i) {
        CHECK(items.next() == i * i);
        ++taken;
      }
      CHECK(begun == 40);
      CHECK(most <= ahead + 1);  // `taken` is counted a moment after the item was taken
      CHECK_THROWS_AS(items.next(), std::out_of_range);
    }
  }
  Pipeline<int64_t> none(0, 4, 4, [](int64_t i) { return i; });
  CHECK_THROWS_AS(none.next(), std::out_of_range);
  CHECK_THROWS_AS(Pipeline<int>(3, 0, 1, [](int64_t) { return 0; }), std::invalid_argument);
  CHECK_THROWS_AS(Pipeline<int>(3, 1, 0, [](int64_t) { return 0; }), std::invalid_argument);
}

TEST_CASE("a pipeline works ahead", "[pipeline]") {
  std::atomic<int> made{0};
  Pipeline<int> items(100, 2, 6, [&](int64_t) { return ++made; });
  for (int i = 0; i < 1000 && made < 6; ++i) pause(1);
  pause(20);
  CHECK(made == 6);  // and no further
}

TEST_CASE("errors of workers come out in their item's turn", "[pipeline]") {
  for (const int workers : {1, 4}) {
    std::atomic<int64_t> last{0};
    Pipeline<int64_t> items(1000, workers, 8, [&](int64_t i) -> int64_t {
      last = std::max<int64_t>(last, i);
      if (i == 5) throw std::runtime_error("item 5");
      if (i == 4) pause(10);
      return i;
    });
    for (int64_t i = 0; i < 5; ++i) CHECK(items.next() == i);
    CHECK_THROWS_WITH(items.next(), "item 5");
    CHECK_THROWS_WITH(items.next(), "item 5");
    CHECK(last < 5 + 8);
  }
}

TEST_CASE("a pipeline ends before its items do", "[pipeline]") {
  std::atomic<int> running{0};
  const auto leave = [&](int64_t take) {
    Pipeline<std::unique_ptr<int>> items(1000000, 3, 4, [&](int64_t) {
      ++running;
      pause(1);
      --running;
      return std::make_unique<int>(1);
    });
    for (int64_t i = 0; i < take; ++i) CHECK(*items.next() == 1);
    if (take == 3) throw std::runtime_error("an error of the taker");
  };
  leave(0);
  leave(10);
  CHECK_THROWS_WITH(leave(3), "an error of the taker");
  CHECK(running == 0);
}

TEST_CASE("hashes", "[hash]") {
  // XXH3 with 128 bits of nothing, and its reference program's of "abc".
  CHECK(hash_of("").hex() == "99aa06d3014798d86001c324468d497f");
  CHECK(hash_of("abc").hex() == "06b05ab6733a618578af5f94892f3950");
  const TempDir dir;
  const std::string long_text(1000003, 'x');
  write_content(dir.path / "file", long_text);
  CHECK(hash_of_file(dir.path / "file") == hash_of(long_text));
  write_content(dir.path / "file", "");
  CHECK(hash_of_file(dir.path / "file") == hash_of(""));
  CHECK_ERROR(hash_of_file(dir.path / "none"), "none: cannot read: No such file or directory");
  CHECK_ERROR(hash_of_file(dir.path), ": cannot read: ");
}

TEST_CASE("the SHA-256 of a file: the standard's examples", "[hash]") {
  const TempDir dir;
  const auto digest_of = [&](const std::string& content) {
    write_content(dir.path / "file", content);
    return sha256_of(dir.path / "file");
  };
  CHECK(digest_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest_of(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  CHECK_ERROR(sha256_of(dir.path / "none"), "none: cannot read: No such file or directory");
}

TEST_CASE("seeds: one number decides all, by purpose and step, for ever", "[seeds]") {
  // SplitMix64's published first outputs from the states 0 and 0x9e3779b97f4a7c15.
  CHECK(mixed(0) == 0xe220a8397b1dcdafu);
  CHECK(mixed(0x9e3779b97f4a7c15u) == 0x6e789e6aa1b965f4u);
  // Models are reproduced by these.
  CHECK(static_cast<int>(SeedPurpose::kOrder) == 1);
  CHECK(static_cast<int>(SeedPurpose::kInitialization) == 2);
  CHECK(static_cast<int>(SeedPurpose::kBackbone) == 3);
  CHECK(static_cast<int>(SeedPurpose::kStep) == 4);
  CHECK(static_cast<int>(SeedPurpose::kKMeans) == 5);
  CHECK(mix_seed(0, SeedPurpose::kOrder) == 0x44e5b98100c67fb0u);
  CHECK(mix_seed(7, SeedPurpose::kStep, 1000) == 0x92cccbc1dbcd1c0cu);

  std::set<std::uint64_t> seeds;
  for (const std::uint64_t seed : {0, 1, 2}) {
    for (const auto purpose : {SeedPurpose::kOrder, SeedPurpose::kInitialization, SeedPurpose::kStep}) {
      for (const std::uint64_t step : {0, 1, 2}) seeds.insert(mix_seed(seed, purpose, step));
    }
  }
  CHECK(seeds.size() == 27);
}

TEST_CASE("a file is held by one at a time", "[lock]") {
  const TempDir dir;
  auto first = std::make_unique<FileLock>(dir.path / "file");
  CHECK_FALSE(first->busy());
  std::atomic<bool> held{false};
  std::thread other([&] {
    FileLock second(dir.path / "file");
    CHECK(second.busy());
    second.wait();
    CHECK_FALSE(second.busy());
    held = true;
  });
  pause(30);
  CHECK_FALSE(held);
  first.reset();
  other.join();
  CHECK(held);
  CHECK_ERROR(FileLock(dir.path / "none" / "file"), "file: cannot write: No such file or directory");
}

TEST_CASE("a profile adds up, and its trace is one", "[profiler]") {
  CHECK(timed("nothing", [] { return 7; }) == 7);
  const TempDir dir;
  int waits = 0;
  Profiler profiler([&] { ++waits; });
  CHECK(timed("first", [] {
          pause(20);
          return 3;
        }) == 3);
  timed("second", [] { pause(5); });
  timed("second", [] { pause(5); });
  std::thread worker([&] { timed("decode", [] { pause(10); }); });
  worker.join();
  CHECK_THROWS(timed("failed", []() -> int { throw std::runtime_error("x"); }));
  CHECK(waits == 3);  // the worker waits for no device
  std::ostringstream table;
  profiler.print(table, 2);
  INFO(table.str());
  std::map<std::string, std::vector<double>> rows;
  std::istringstream lines(table.str());
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    for (double value = 0; words >> value;) rows[name].push_back(value);
  }
  REQUIRE(rows["first"].size() == 4);  // calls, seconds, ms a step, share
  CHECK(rows["first"][0] == 1);
  CHECK(rows["first"][1] >= 0.02);
  CHECK(rows["first"][2] == Approx(1000 * rows["first"][1] / 2).margin(0.6));
  CHECK(rows["second"][0] == 2);
  CHECK(rows["decode"].size() == 3);  // no share: it runs beside
  CHECK(rows["first"][1] + rows["second"][1] + rows["other"][0] == Approx(rows["all"][0]).margin(0.003));
  CHECK(table.str().find("on 1 worker threads") != std::string::npos);
  CHECK(rows.count("failed") == 0);

  profiler.write_trace(dir.path / "trace.json");
  const auto trace = nlohmann::json::parse(content_of(dir.path / "trace.json"));
  std::map<std::string, double> durations;
  std::map<int, std::string> threads;
  double end_of_main = 0;
  for (const auto& event : trace.at("traceEvents")) {
    CHECK(event.at("pid") == 1);
    if (event.at("ph") == "M") {
      threads[event.at("tid").get<int>()] = event.at("args").at("name").get<std::string>();
      continue;
    }
    REQUIRE(event.at("ph") == "X");
    const std::string name = event.at("name").get<std::string>();
    durations[name] += event.at("dur").get<double>();
    CHECK(threads.at(event.at("tid").get<int>()) == (name == "decode" ? "worker 1" : "main"));
    if (name == "decode") continue;
    CHECK(event.at("ts").get<double>() >= end_of_main);  // one after another
    end_of_main = event.at("ts").get<double>() + event.at("dur").get<double>();
  }
  CHECK(durations.size() == 3);
  CHECK(durations.at("first") == Approx(1e6 * rows["first"][1]).margin(1000));
  CHECK(durations.at("second") == Approx(1e6 * rows["second"][1]).margin(1000));
  CHECK_ERROR(profiler.write_trace(dir.path / "none" / "trace.json"), "trace.json: cannot write");
}

TEST_CASE("a bar on a terminal, lines elsewhere", "[progress]") {
  std::ostringstream err;
  {
    Terminal terminal;
    terminal.is_terminal = true;
    terminal.columns = 80;
    Progress progress(err, 0, 8, terminal);
    pause(20);
    progress.show(2, "loss 1");
    progress.show(8, std::string(100, 'x'));
  }
  const std::string text = err.str();
  CHECK(text.find("\rstep 2/8 [######..................]  ") == 0);
  CHECK(text.find("/s  ETA 0:00  loss 1\x1b[K") != std::string::npos);
  CHECK(text.find("\rstep 8/8 [########################]  ") != std::string::npos);
  CHECK(text.substr(text.rfind('\r')).size() == 1 + 79 + 3 + 1);  // cut to the width, cleared, ended
  std::ostringstream plain;
  {
    Progress progress(plain, 0, 2);
    progress.show(1, "a");
    progress.show(2, "b");
  }
  CHECK(plain.str().find("step 2/2  b  ETA 0:00\n") != std::string::npos);
  CHECK(plain.str().find('\r') == std::string::npos);
}

TEST_CASE("colours where they are wanted", "[terminal]") {
  const ScopedVariable kind("TERM", "xterm-256color"), all("COLORTERM", ""), none("NO_COLOR", "");
  CHECK(colors_by_environment() == TerminalColors::k256);
  {
    const ScopedVariable truecolor("COLORTERM", "truecolor");
    CHECK(colors_by_environment() == TerminalColors::kAll);
    const ScopedVariable no_color("NO_COLOR", "1");
    CHECK(colors_by_environment() == TerminalColors::kNone);
  }
  {
    const ScopedVariable dumb("TERM", "dumb");
    CHECK(colors_by_environment() == TerminalColors::kNone);
  }
  CHECK(on_color("x", {255, 0, 128}, TerminalColors::kNone) == "x");
  CHECK(on_color("x", {255, 0, 128}, TerminalColors::kAll) == "\x1b[48;2;255;0;128mx\x1b[0m");
  CHECK(on_color("x", {255, 0, 0}, TerminalColors::k256) == "\x1b[48;5;196mx\x1b[0m");  // pure red of the cube
  CHECK(terminal_of(std::ostringstream()).colors == TerminalColors::kNone);

  smooseg::metrics::Scores scores;
  scores.iou = {0.5, 0.25};
  std::ostringstream plain, coloured;
  print_table(plain, default_classes(2), scores, {});
  print_table(coloured, default_classes(2), scores, {}, TerminalColors::kAll);
  CHECK(plain.str().find('\x1b') == std::string::npos);
  CHECK(coloured.str().find("m  \x1b[0m class 1") != std::string::npos);
}

TEST_CASE("event files", "[events]") {
  CHECK(crc32c("123456789") == 0xe3069283U);
  const TempDir dir;
  EventFile(dir.path, 0).write(3, {{"total", 0.5}});
  const std::string bytes = content_of(first_file(dir.path));
  std::vector<std::string> events;
  for (std::size_t at = 0; at < bytes.size();) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, sizeof length);
    REQUIRE(at + 16 + length <= bytes.size());
    events.push_back(bytes.substr(at + 12, length));
    at += 16 + length;
  }
  REQUIRE(events.size() == 2);
  CHECK(events[0].find("brain.Event:2") != std::string::npos);
  // Step 3, then a summary of one value: its tag, and 0.5 as a float.
  CHECK(events[1].substr(9) == std::string("\x10\x03\x2a\x0e\x0a\x0c\x0a\x05total\x15\x00\x00\x00\x3f", 18));
  write_content(dir.path / "other", "");
  EventFile::remove_all(dir.path);
  CHECK(file_count(dir.path) == 1);
  EventFile::remove_all(dir.path / "none");
}
