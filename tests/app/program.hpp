#pragma once

// What the program's tests share: running it, and a small data set.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "catch.hpp"
#include "commands/command_line.hpp"
#include "data/scenes.hpp"
#include "support.hpp"

namespace smooseg::app {

/// An environment variable with another value until the end of the scope.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() {
    if (before_) {
      ::setenv(name_, before_->c_str(), 1);
    } else {
      ::unsetenv(name_);
    }
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

struct Outcome {
  int status;
  std::string out, err;
};

inline Outcome run_program(const std::vector<std::string>& arguments) {
  std::ostringstream out, err;
  const int status = run(arguments, out, err);
  return {status, out.str(), err.str()};
}

/// Checks that the program ends with this status and that its error contains the text.
inline void check_fails(const std::vector<std::string>& arguments, const std::string& text, int status = 1) {
  const Outcome o = run_program(arguments);
  INFO(o.err);
  CHECK(o.status == status);
  CHECK(o.err.find("smooseg: ") != std::string::npos);
  CHECK(o.err.find(text) != std::string::npos);
}

inline void check_runs(const std::vector<std::string>& arguments) {
  const Outcome o = run_program(arguments);
  INFO(o.err);
  REQUIRE(o.status == 0);
}

inline std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// A small labelled data set, made once.
inline const std::filesystem::path& scenes() {
  static const TempDir dir;
  static const std::filesystem::path root = [] {
    SceneOptions options;
    options.train = 6;
    options.test = 3;
    options.height = 64;
    options.width = 80;
    write_scenes(dir.path / "scenes", options);
    return dir.path / "scenes";
  }();
  return root;
}

/// Training that takes a second.
inline std::vector<std::string> train_arguments(const std::filesystem::path& out,
                                                const std::filesystem::path& data = scenes()) {
  return {"train", "--data",   data.string(), "--out",       out.string(), "--resolution", "64", "--textons",
          "8",     "--batch",  "4",           "--embed-dim", "8",          "--threads",    "2",  "--iterations",
          "4",     "--device", "cpu"};
}

}  // namespace smooseg::app
