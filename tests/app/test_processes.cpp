// Several processes of the program that share a command's work.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "app/program.hpp"
#include "support/processes.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;

namespace {

using Variables = std::map<std::string, std::string>;

/// A port that nobody listens at.
std::string free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(socket, reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  ::close(socket);
  return std::to_string(ntohs(address.sin_port));
}

/// The program in several processes, as torchrun starts them.
class Group {
 public:
  /// @param words of each process; of all where there is one list.
  Group(const fs::path& folder, std::size_t size, const std::vector<Words>& words, const Variables& more = {}) {
    const std::string port = free_port();
    for (std::size_t rank = 0; rank < size; ++rank) {
      Variables variables{{"RANK", std::to_string(rank)},
                          {"WORLD_SIZE", std::to_string(size)},
                          {"LOCAL_RANK", std::to_string(rank)},
                          {"MASTER_ADDR", "127.0.0.1"},
                          {"MASTER_PORT", port}};
      variables.insert(more.begin(), more.end());
      errors_.push_back(folder / ("err" + port + "." + std::to_string(rank)));
      start(words.at(words.size() == 1 ? 0 : rank), variables);
    }
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    for (const pid_t child : children_) {
      if (child == 0) continue;
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
    }
  }

  void signal(std::size_t rank, int number) const { ::kill(children_.at(rank), number); }

  /// Waits for the end of a process. @return its status, or 128 + the signal that killed it.
  int status(std::size_t rank) {
    int ended = 0;
    REQUIRE(::waitpid(children_.at(rank), &ended, 0) == children_.at(rank));
    children_.at(rank) = 0;
    return WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
  }

  /// What a process printed to its standard error.
  std::string errors(std::size_t rank) const { return content_of(errors_.at(rank)); }

 private:
  void start(Words words, const Variables& variables) {
    words.insert(words.begin(), kProgram);
    std::vector<std::string> settings;
    for (char** line = environ; *line != nullptr; ++line) {
      const std::string text = *line;
      if (variables.count(text.substr(0, text.find('='))) == 0) settings.push_back(text);
    }
    for (const auto& [name, value] : variables) settings.push_back(name + "=" + value);
    const auto pointers = [](std::vector<std::string>& texts) {
      std::vector<char*> result;
      for (std::string& text : texts) result.push_back(text.data());
      result.push_back(nullptr);
      return result;
    };
    posix_spawn_file_actions_t files;
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawn_file_actions_addopen(&files, STDERR_FILENO, errors_.back().c_str(), O_WRONLY | O_CREAT, 0644);
    ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    pid_t child = 0;
    const int failed =
        ::posix_spawn(&child, kProgram, &files, nullptr, pointers(words).data(), pointers(settings).data());
    ::posix_spawn_file_actions_destroy(&files);
    REQUIRE(failed == 0);
    children_.push_back(child);
  }

  std::vector<pid_t> children_;
  std::vector<fs::path> errors_;
};

/// Runs the program in two processes, both of which end well. @return what the first printed to its standard error.
std::string check_two_run(const fs::path& folder, const Words& words, const Variables& more = {}) {
  Group group(folder, 2, {words}, more);
  for (const std::size_t rank : {0u, 1u}) {
    const int status = group.status(rank);
    INFO(group.errors(rank));
    REQUIRE(status == 0);
  }
  CHECK(group.errors(1).empty());  // one process reports
  return group.errors(0);
}

/// Training of two processes, each with two crops of a step.
Words two_train(const fs::path& out) {
  return train_arguments(out) + Words{"--batch", "2", "--threads", "1", "--log-every", "1"};
}

nlohmann::json json_of(const fs::path& path) {
  return nlohmann::json::parse(content_of(path));
}

}  // namespace

TEST_CASE("two processes learn as one does, which goes on where they stopped", "[processes][train][resume]") {
  const auto [across, exchange] =
      GENERATE(std::pair("global", "group"), std::pair("global", "store"), std::pair("own", "group"));
  const TempDir dir;
  const fs::path out = dir.path / "two";
  const bool is_global = across == std::string("global");
  const Words settings{"--across", across, "--thresholds", is_global ? "0.1,0.3" : "auto"};
  const Variables way{{"SMOOSEG_EXCHANGE", exchange}};
  const std::string said = check_two_run(dir.path, two_train(out) + settings + Words{"--iterations", "3"}, way);
  CHECK(said.find("step 3/3") != std::string::npos);
  fs::copy(out, dir.path / "one");
  const Words go_on{"--resume", "--iterations", "9"};
  check_two_run(dir.path, two_train(out) + settings + go_on, way);
  const Words alone = two_train(dir.path / "one") + settings + go_on;
  check_fails(alone + Words{"--batch", "3"}, "cannot resume with other settings: --batch was 2, got 3");
  check_runs(alone + Words{"--batch", is_global ? "4" : "2"});
  if (!is_global) return;

  // With partners from all images the two are one batch of four.
  const auto two = smooseg::io::read_safetensors((out / "last.safetensors").string());
  const auto one = smooseg::io::read_safetensors((dir.path / "one" / "last.safetensors").string());
  for (const auto& [name, tensor] : one) {
    INFO(name);
    CHECK(relative_error(two.at(name), tensor) < 1e-3);
  }
  const std::string log = content_of(out / "log.jsonl"), other = content_of(dir.path / "one" / "log.jsonl");
  const auto last = [](const std::string& text) {
    return nlohmann::json::parse(text.substr(text.rfind('\n', text.size() - 2) + 1));
  };
  CHECK(last(log).at("step") == 9);
  for (const char* term : {"total", "within", "across", "data"}) {
    CHECK(last(log).at(term).get<double>() == Approx(last(other).at(term).get<double>()).epsilon(1e-4));
  }
}

TEST_CASE("two processes share features and pictures to score", "[processes][features][evaluate]") {
  const TempDir dir;
  SceneOptions options;
  options.train = 14;
  options.test = 9;
  options.height = options.width = 64;
  write_scenes(dir.path / "data", options);
  const Words data{"--data", (dir.path / "data").string()}, cache{"--cache", (dir.path / "cache").string()};
  const Words prepare = Words{"prepare", "features", "--resolution", "32", "--crops", "five", "--textons", "8"} + data;
  CHECK(check_two_run(dir.path, prepare + cache).find("are to be written") != std::string::npos);
  const fs::path folder = first_file(dir.path / "cache");
  CHECK(file_count(folder) == 3);  // two shards, and the lock
  CHECK(check_two_run(dir.path, prepare + cache).find("are to be written") == std::string::npos);

  const auto evaluate = [&](const std::string& out) {
    return Words{"evaluate", "--model", model_file().string(),    "--resolution", "64", "--threads",
                 "1",        "--out",   (dir.path / out).string()} +
           data;
  };
  check_two_run(dir.path, evaluate("two") + Words{"--kmeans"});
  check_runs(evaluate("one"));
  const auto two = json_of(dir.path / "two" / "scores.json"), one = json_of(dir.path / "one" / "scores.json");
  for (const char* key : {"accuracy", "miou", "images", "confusion"}) CHECK(two.at(key) == one.at(key));
  CHECK(two.contains("kmeans"));
  CHECK(json_of(dir.path / "two" / "pictures.json") == json_of(dir.path / "one" / "pictures.json"));
  CHECK(file_count(dir.path / "two" / "panels") == 9);
}

TEST_CASE("what ends one process ends the others", "[processes][train][resume]") {
  const TempDir dir;
  const fs::path out = dir.path / "out", log = out / "log.jsonl";
  const Words words = two_train(out) + Words{"--iterations", "1000000", "--resume"};
  const Variables soon{{"SMOOSEG_PROCESS_TIMEOUT", "5"}};
  const auto learning = [&](const Group&, const std::string& before) {
    for (int i = 0; i < 3000 && content_of(log).size() <= before.size() + 1000; ++i) pause(10);
  };

  std::string before;
  {  // a signal to one of them: all stop after the same step
    Group group(dir.path, 2, {words}, soon);
    learning(group, before);
    group.signal(1, SIGTERM);
    for (const std::size_t rank : {0u, 1u}) {
      CHECK(group.status(rank) == 143);
      CHECK(group.errors(rank).find("stopped by signal 15 after step ") != std::string::npos);
    }
    CHECK(fs::exists(out / "last.safetensors"));
  }
  before = content_of(log);
  {
    Group group(dir.path, 2, {words}, soon);
    learning(group, before);
    group.signal(1, SIGKILL);
    CHECK(group.status(0) == 1);
    INFO(group.errors(0));
    CHECK(group.errors(0).find("process 1 of 2 was not heard of for 5 seconds") != std::string::npos);
    CHECK(group.errors(0).find("going on from step ") != std::string::npos);
  }
  before = content_of(log);
  {
    Group group(dir.path, 2, {words}, soon);
    learning(group, before);
    group.signal(0, SIGKILL);
    CHECK(group.status(1) == 1);
    INFO(group.errors(1));
    CHECK(group.errors(1).find("lost the connection to process 0 at 127.0.0.1:") != std::string::npos);
  }
  {
    Group group(dir.path, 2, {two_train(dir.path / "a")}, {{"SMOOSEG_EXCHANGE", "pigeons"}});
    CHECK(group.status(0) == 1);
    CHECK(group.errors(0).find("SMOOSEG_EXCHANGE: expected group or store, got 'pigeons'") != std::string::npos);
  }
  Group group(dir.path, 2, {two_train(dir.path / "a"), two_train(dir.path / "b") + Words{"--data", "/nowhere"}});
  CHECK(group.status(0) == 1);
  CHECK(group.status(1) == 1);
  CHECK(group.errors(1).find("smooseg: /nowhere: ") == 0);
  CHECK(group.errors(0).find("process 1 of 2: /nowhere: ") != std::string::npos);
}

TEST_CASE("what launchers tell", "[processes][bad input]") {
  const auto place_with = [](const Variables& variables) {
    std::vector<std::unique_ptr<ScopedVariable>> set;
    for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) {
      if (variables.count(name) == 0) set.push_back(std::make_unique<ScopedVariable>(name, ""));
    }
    for (const auto& [name, value] : variables) set.push_back(std::make_unique<ScopedVariable>(name.c_str(), value));
    return process_place();
  };
  CHECK(place_with({}).size == 1);
  const ProcessPlace torchrun = place_with({{"RANK", "5"},
                                            {"WORLD_SIZE", "8"},
                                            {"LOCAL_RANK", "1"},
                                            {"LOCAL_WORLD_SIZE", "4"},
                                            {"MASTER_ADDR", "node1"},
                                            {"MASTER_PORT", "1234"}});
  CHECK(torchrun.rank == 5);
  CHECK(torchrun.size == 8);
  CHECK(torchrun.local_rank == 1);
  CHECK(torchrun.local_size == 4);
  CHECK(torchrun.address == "node1");
  CHECK(torchrun.port == 1234);
  const ScopedVariable agent("TORCHELASTIC_USE_AGENT_STORE", "True");
  CHECK(place_with({{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"MASTER_ADDR", "localhost"}, {"MASTER_PORT", "1234"}}).port ==
        1235);

  const Variables mpirun{{"OMPI_COMM_WORLD_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "2"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  CHECK(place_with(mpirun).rank == 1);
  CHECK(place_with(mpirun).address == "127.0.0.1");  // all are on this machine

  Variables slurm{{"SLURM_PROCID", "3"}, {"SLURM_LOCALID", "1"}, {"SLURM_NTASKS", "4"}};
  CHECK(place_with(slurm).size == 1);  // of a batch script, which starts nothing
  slurm.insert({{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_STEP_TASKS_PER_NODE", "2(x2)"}});
  CHECK_ERROR(place_with(slurm), "MASTER_ADDR: expected the name of process 0's machine, since SLURM_STEP_NUM_TASKS");
  slurm["MASTER_ADDR"] = "node7";
  CHECK(place_with(slurm).rank == 3);
  CHECK(place_with(slurm).local_rank == 1);

  CHECK_ERROR(place_with({{"WORLD_SIZE", "2"}}), "RANK: expected the number of this process, since WORLD_SIZE says 2");
  CHECK_ERROR(place_with({{"WORLD_SIZE", "two"}}), "WORLD_SIZE: expected a number from 1 to 1048576, got 'two'");
  CHECK_ERROR(place_with({{"WORLD_SIZE", "2"}, {"RANK", "2"}}), "RANK: expected a number from 0 to 1, got '2'");
  const std::string model = model_file().string();
  const ScopedVariable size("WORLD_SIZE", "2"), rank("RANK", "0"), address("MASTER_ADDR", "localhost");
  check_fails({"segment", "--model", model, "--out", ".", "."}, "WORLD_SIZE: 'segment' works in one process, and 2");
}
