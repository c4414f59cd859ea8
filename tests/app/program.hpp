#pragma once

// What the program's tests share: running it, and a small data set.

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "catch.hpp"
#include "commands/command_line.hpp"
#include "data/scenes.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support.hpp"

namespace smooseg::app {

using Words = std::vector<std::string>;

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

inline Outcome run_program(const Words& arguments) {
  std::ostringstream out, err;
  const int status = run(arguments, out, err);
  return {status, out.str(), err.str()};
}

/// Checks that the program ends with this status and that its error contains the text.
inline void check_fails(const Words& arguments, const std::string& text, int status = 1) {
  const Outcome o = run_program(arguments);
  INFO(o.err);
  CHECK(o.status == status);
  CHECK(o.err.find("smooseg: ") != std::string::npos);
  CHECK(o.err.find(text) != std::string::npos);
}

/// Checks that the program ends well; returns what it printed.
inline Outcome check_runs(const Words& arguments) {
  const Outcome o = run_program(arguments);
  INFO(o.err);
  REQUIRE(o.status == 0);
  return o;
}

inline Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
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

/// The first picture of a folder in the order of names.
inline std::filesystem::path first_file(const std::filesystem::path& folder) {
  std::set<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.insert(entry.path());
  return *files.begin();
}

inline std::ptrdiff_t file_count(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

inline void check_same_tensors(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto first = io::read_safetensors(a.string()), second = io::read_safetensors(b.string());
  REQUIRE(first.size() == second.size());
  for (const auto& [name, tensor] : first) {
    INFO(name);
    REQUIRE(second.count(name) == 1);
    CHECK(tensor.equal(second.at(name)));
  }
}

/// A copy of the data set, to damage.
inline std::filesystem::path copy_of_scenes(const std::filesystem::path& folder) {
  std::filesystem::copy(scenes(), folder / "data", std::filesystem::copy_options::recursive);
  return folder / "data";
}

/// Training that takes a second.
inline Words train_arguments(const std::filesystem::path& out, const std::filesystem::path& data = scenes()) {
  return {"train", "--data",   data.string(), "--out",       out.string(), "--resolution", "64", "--textons",
          "8",     "--batch",  "4",           "--embed-dim", "8",          "--threads",    "2",  "--iterations",
          "4",     "--device", "cpu"};
}

/// A model trained once on `scenes`.
inline const std::filesystem::path& model_file() {
  static const TempDir dir;
  static const std::filesystem::path path = [] {
    check_runs(train_arguments(dir.path / "model") + Words{"--iterations", "30"});
    return dir.path / "model" / "best.safetensors";
  }();
  return path;
}

/// The settings in a model file, by their options' names.
inline nlohmann::json settings_of(const std::filesystem::path& model) {
  return nlohmann::json::parse(io::read_safetensors_metadata(model.string()).at("settings"));
}

}  // namespace smooseg::app
