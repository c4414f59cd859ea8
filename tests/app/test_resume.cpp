// `smooseg train` that is stopped, goes on, or finds a model in its folder.

#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "app/program.hpp"
#include "data/image_file.hpp"
#include "support/file_lock.hpp"
#include "support/stop_signal.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

/// The program in a process of its own, which is killed at the end of the scope if it still runs.
class Started {
 public:
  explicit Started(Words words) {
    words.insert(words.begin(), kProgram);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    REQUIRE(::posix_spawn(&child_, kProgram, nullptr, nullptr, argv.data(), environ) == 0);
  }
  Started(const Started&) = delete;
  Started& operator=(const Started&) = delete;
  ~Started() {
    if (!runs()) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, &status_, 0);
  }

  bool runs() {
    if (child_ != 0 && ::waitpid(child_, &status_, WNOHANG) == child_) child_ = 0;
    return child_ != 0;
  }

  /// Waits up to a minute, as long as the process runs, until a condition holds; returns whether it does.
  template <class Condition>
  bool wait_for(const Condition& condition) {
    for (int i = 0; i < 60000; ++i) {
      if (condition()) return true;
      if (!runs()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  /// What `waitpid` says of its end, after a signal or, with 0, by itself.
  int end_by(int signal) {
    if (runs() && signal != 0) ::kill(child_, signal);
    if (child_ != 0) REQUIRE(::waitpid(child_, &status_, 0) == child_);
    child_ = 0;
    return status_;
  }

 private:
  pid_t child_ = 0;
  int status_ = 0;
};

}  // namespace

TEST_CASE("a run stopped and resumed ends as one that never was", "[resume]") {
  const TempDir dir;
  const std::vector<std::string> seven{"--iterations", "7"}, three{"--iterations", "3"}, resume{"--resume"};
  check_runs(train_arguments(dir.path / "whole") + seven);
  check_runs(train_arguments(dir.path / "parts") + three);
  check_runs(train_arguments(dir.path / "parts") + seven + resume);
  check_same_tensors(dir.path / "whole" / "last.safetensors", dir.path / "parts" / "last.safetensors");

  check_fails(train_arguments(dir.path / "parts") + seven + resume + Words{"--momentum", "0.5"},
              "last.safetensors: cannot resume with other settings: --momentum was 0.998, got 0.5");
  check_fails(train_arguments(dir.path / "parts") + three + resume, "has 7 steps already, more than --iterations 3");
}

TEST_CASE("resuming without a checkpoint begins anew", "[resume]") {
  const TempDir dir;
  check_runs(train_arguments(dir.path / "plain"));
  const Outcome o = check_runs(train_arguments(dir.path / "out") + Words{"--resume"});
  CHECK(o.err.find("--resume: no checkpoint in " + (dir.path / "out").string() + " yet") != std::string::npos);
  check_same_tensors(dir.path / "out" / "last.safetensors", dir.path / "plain" / "last.safetensors");
}

TEST_CASE("a model in the folder is not lost unasked", "[resume][bad input]") {
  const TempDir dir;
  const fs::path best = dir.path / "best.safetensors", last = dir.path / "last.safetensors";
  check_runs(train_arguments(dir.path));
  const std::string before = content_of(best);
  check_fails(train_arguments(dir.path), "--out: there is a model already, " + best.string());
  CHECK(content_of(best) == before);
  fs::remove(best);
  check_fails(train_arguments(dir.path), "--out: there is a model already, " + last.string());
  check_fails(train_arguments(dir.path) + Words{"--overwrite", "--resume"}, "--resume excludes --overwrite", 2);

  write_content(dir.path / "evaluation" / "scores.json", "{}");  // of the model that is lost
  check_runs(train_arguments(dir.path) + Words{"--overwrite", "--seed", "1"});
  CHECK(settings_of(best).at("seed") == "1");
  CHECK(!fs::exists(dir.path / "evaluation" / "scores.json"));
  write_content(dir.path / "evaluation" / "scores.json", "{}");  // of the model that stays as it is
  check_runs(train_arguments(dir.path) + Words{"--resume", "--seed", "1"});
  CHECK(fs::exists(dir.path / "evaluation" / "scores.json"));
  fs::remove(last);  // a model alone, without the checkpoint that it could go on from
  check_fails(train_arguments(dir.path) + Words{"--resume"}, "--out: there is a model already, " + best.string());
}

TEST_CASE("a folder belongs to one run at a time, which clears the remains of those before", "[resume]") {
  const TempDir dir;
  const fs::path remains = dir.path / "out" / ".smooseg-99-0.tmp", others = dir.path / "out" / "notes.tmp";
  write_content(remains, "half a model");
  write_content(others, "mine");
  {
    const FileLock other_run(dir.path / "out" / ".smooseg.lock");
    check_fails(train_arguments(dir.path / "out"), "--out: another run is writing into " + (dir.path / "out").string());
    CHECK(fs::exists(remains));
  }
  check_runs(train_arguments(dir.path / "out"));
  CHECK_FALSE(fs::exists(remains));
  CHECK(fs::exists(others));
}

TEST_CASE("the first signal is noted, the next one ends the process", "[resume]") {
  const auto handler_of = [](int signal) {
    struct sigaction action {};
    sigaction(signal, nullptr, &action);
    return action.sa_handler;
  };
  const auto ignored = std::signal(SIGHUP, SIG_IGN);
  {
    const StopSignal stop;
    CHECK(stop.received() == 0);
    CHECK(handler_of(SIGINT) != SIG_DFL);
    CHECK(handler_of(SIGHUP) == SIG_IGN);  // nohup
    std::raise(SIGTERM);
    CHECK(stop.received() == SIGTERM);
    CHECK(handler_of(SIGINT) == SIG_DFL);
    CHECK(handler_of(SIGTERM) == SIG_DFL);
    CHECK(handler_of(SIGHUP) == SIG_IGN);
  }
  std::signal(SIGHUP, ignored);
  CHECK(StopSignal().received() == 0);
}

TEST_CASE("a signal stops a training after its step, with a checkpoint", "[resume]") {
  const auto [signal, status] = GENERATE(table<int, int>({{SIGINT, 130}, {SIGTERM, 143}, {SIGHUP, 129}}));
  CAPTURE(signal);
  const TempDir dir;
  const fs::path out = dir.path / "stopped", log = out / "log.jsonl", last = out / "last.safetensors";
  Started training(train_arguments(out) + Words{"--iterations", "1000000", "--log-every", "1"});
  REQUIRE(training.wait_for([&] { return !content_of(log).empty(); }));
  const int ended = training.end_by(signal);
  REQUIRE(WIFEXITED(ended));
  CHECK(WEXITSTATUS(ended) == status);
  const int64_t step = std::stoll(smooseg::io::read_safetensors_metadata(last.string()).at("step"));
  CHECK(step >= 1);
  CHECK_FALSE(fs::exists(out / "best.safetensors"));

  if (signal != SIGTERM) return;
  const Words more{"--iterations", std::to_string(step + 2)};
  check_runs(train_arguments(out) + more + Words{"--resume"});
  check_runs(train_arguments(dir.path / "whole") + more);
  check_same_tensors(last, dir.path / "whole" / "last.safetensors");
}

TEST_CASE("a run does not go on with other pictures", "[resume]") {
  const TempDir dir;
  const fs::path data = copy_of_scenes(dir.path);
  const std::vector<std::string> resume{"--resume", "--iterations", "6"};
  check_runs(train_arguments(dir.path / "out", data));
  const fs::path picture = first_file(data / "images" / "train");
  const std::string whole = content_of(picture);
  write_png(picture, torch::zeros({64, 80, 3}, torch::kUInt8));
  check_fails(train_arguments(dir.path / "out", data) + resume,
              "last.safetensors: cannot resume with other pictures: those of " + data.string());
  write_content(picture, whole);
  fs::rename(data, dir.path / "moved");  // only the contents count
  check_runs(train_arguments(dir.path / "out", dir.path / "moved") + resume);
}

TEST_CASE("output folders that cannot be written", "[resume][bad input]") {
  const TempDir dir;
  write_content(dir.path / "file", "not a folder");
  check_fails(train_arguments(dir.path / "file" / "out"), "--out: cannot create the folder ");
  check_fails({"segment", "--model", model_file().string(), "--out", (dir.path / "file").string(),
               first_file(scenes() / "images" / "test")},
              "--out: cannot create the folder ");

  // A limit on the size of files does what a full disk does, in the middle of a checkpoint.
  check_runs(train_arguments(dir.path / "out"));
  const std::string before = content_of(dir.path / "out" / "last.safetensors");
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const Outcome o = run_program(train_arguments(dir.path / "out") + Words{"--resume", "--iterations", "6"});
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  CHECK(o.status == 1);
  CHECK(o.err.find("last.safetensors: cannot write: ") != std::string::npos);
  CHECK(content_of(dir.path / "out" / "last.safetensors") == before);
  for (const auto& entry : fs::directory_iterator(dir.path / "out")) CHECK(entry.path().extension() != ".tmp");
}

TEST_CASE("a run killed at twenty random moments and resumed has the weights of one that never was", "[resume]") {
  const TempDir dir;
  const fs::path last = dir.path / "killed" / "last.safetensors";
  const Words steps{"--iterations", "1000"};  // many more than twenty such runs get through
  std::mt19937 random(7);
  const auto changed = [&] {
    std::error_code error;
    const auto time = fs::last_write_time(last, error);
    return error ? fs::file_time_type::min() : time;
  };
  for (int kill = 0; kill < 20; ++kill) {
    INFO("kill " << kill);
    Started training(train_arguments(dir.path / "killed") + steps + Words{"--resume", "--checkpoint-every", "3"});
    const auto before = changed();
    REQUIRE(training.wait_for([&] { return changed() != before; }));  // it has gone on
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
    const int status = training.end_by(SIGKILL);
    REQUIRE(WIFSIGNALED(status));  // it had not yet ended
  }
  CHECK(std::stoll(smooseg::io::read_safetensors_metadata(last.string()).at("step")) < 1000);
  check_runs(train_arguments(dir.path / "killed") + steps + Words{"--resume"});
  check_runs(train_arguments(dir.path / "whole") + steps);
  check_same_tensors(last, dir.path / "whole" / "last.safetensors");
  for (const auto& entry : fs::directory_iterator(dir.path / "killed")) CHECK(entry.path().extension() != ".tmp");
}

TEST_CASE("an output folder that is removed while training is an error", "[resume][bad input]") {
  const TempDir dir;
  const fs::path out = dir.path / "out", log = out / "log.jsonl";
  Started training(train_arguments(out) +
                   Words{"--iterations", "1000000", "--log-every", "1", "--checkpoint-every", "20"});
  REQUIRE(training.wait_for([&] { return !content_of(log).empty(); }));
  fs::rename(out, dir.path / "gone");  // at once, where removing could meet a file that is just being written
  const int status = training.end_by(0);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("a full disk ends the program with an error, not by a signal", "[resume][bad input]") {
  const TempDir dir;
  check_runs(train_arguments(dir.path));
  const std::string before = content_of(dir.path / "last.safetensors");
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);  // the child's too, whose SIGXFSZ is not ignored by anyone but itself
  Started training(train_arguments(dir.path) + Words{"--resume", "--iterations", "6"});
  setrlimit(RLIMIT_FSIZE, &old);
  const int status = training.end_by(0);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  CHECK(content_of(dir.path / "last.safetensors") == before);
}

TEST_CASE("a checkpoint of a newer version is refused with its version", "[resume][bad input]") {
  const TempDir dir;
  check_runs(train_arguments(dir.path));
  const fs::path last = dir.path / "last.safetensors";
  auto metadata = smooseg::io::read_safetensors_metadata(last.string());
  metadata["format"] = "smooseg model 2";
  metadata["version"] = "9.8.7";
  smooseg::io::write_safetensors(last.string(), smooseg::io::read_safetensors(last.string()), metadata);
  const std::string expected =
      "last.safetensors: expected the format 'smooseg model 1', found 'smooseg model 2', written by smooseg 9.8.7: "
      "this is ";
  check_fails(train_arguments(dir.path) + Words{"--resume", "--iterations", "6"}, expected);
  check_fails({"segment", "--model", last.string(), "--out", (dir.path / "s").string(),
               first_file(scenes() / "images" / "test").string()},
              expected);
}

TEST_CASE("a model file that was cut short is refused when it is opened", "[resume][bad input]") {
  const TempDir dir;
  check_runs(train_arguments(dir.path));
  const fs::path last = dir.path / "last.safetensors";
  for (const uintmax_t left : {fs::file_size(last) - 1, fs::file_size(last) / 2, uintmax_t{9}, uintmax_t{0}}) {
    INFO(left);
    fs::resize_file(last, left);
    check_fails(train_arguments(dir.path) + Words{"--resume", "--iterations", "6"}, "last.safetensors");
  }
}
