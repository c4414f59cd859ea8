#include "commands/run_all.hpp"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "support/disk.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

fs::path output_of(const Run& run) {
  return run.folder / "output.txt";
}

std::string system_text(int error) {
  return std::generic_category().message(error);
}

/// The file to execute. The link is followed by the system, so that it stays this very program even if its file is
/// replaced meanwhile.
std::string this_program() {
  const char* const named = std::getenv("SMOOSEG_PROGRAM");
  return named != nullptr && *named != '\0' ? named : "/proc/self/exe";
}

/// How a process ended that did not end well.
std::string ending(int status) {
  if (!WIFSIGNALED(status)) return "ended with status " + std::to_string(WEXITSTATUS(status));
  const std::string killed = "was ended by signal " + std::to_string(WTERMSIG(status));
  return WTERMSIG(status) == SIGKILL ? killed + " (if memory ran out, lower --parallel)" : killed;
}

/// The end of what a run printed, each line indented.
std::string last_lines(const fs::path& path) {
  constexpr std::size_t kLines = 12;
  std::ifstream file(path);
  std::deque<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back("\n  " + line);
    if (lines.size() > kLines) lines.pop_front();
  }
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

/// A run as a process; one that still runs when it is let go is asked to end, and waited for.
class Process {
 public:
  Process(const Run& run, std::vector<std::string> arguments) : run_(&run) {
    make_folder(run.folder, "the folder of the run '" + run.name + "'");
    const std::string output = output_of(run).string(), program = this_program();
    const int descriptor = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor < 0) throw std::runtime_error(output + ": cannot write: " + system_text(errno));
    arguments.insert(arguments.begin(), program);
    std::vector<char*> words;
    for (std::string& argument : arguments) words.push_back(argument.data());
    words.push_back(nullptr);
    const pid_t parent = ::getpid();
    id_ = ::fork();
    if (id_ == 0) become(words, descriptor, parent);
    const int error = errno;
    ::close(descriptor);
    if (id_ < 0) throw std::runtime_error("cannot start the run '" + run.name + "': " + system_text(error));
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    stop(SIGTERM);
    if (id_ > 0) wait(/*options=*/0);
  }

  const Run& run() const { return *run_; }

  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

  /// How it ended, as waitpid() says; nothing while it runs.
  std::optional<int> status() { return wait(WNOHANG); }

  /// Asks it to end, once: a second signal would end a training before its checkpoint is written.
  void stop(int signal) {
    if (id_ > 0 && !asked_) ::kill(id_, signal);
    asked_ = true;
  }

 private:
  std::optional<int> wait(int options) {
    int status = 0;
    pid_t ended = 0;
    do {
      ended = ::waitpid(id_, &status, options);
    } while (ended < 0 && errno == EINTR);
    if (ended == 0) return std::nullopt;
    id_ = -1;
    return status;
  }

  /// Between fork and exec only what POSIX allows there. A group of its own keeps the terminal's Ctrl-C from it, which
  /// this process passes on; it does not outlive this process.
  [[noreturn]] static void become(const std::vector<char*>& words, int output, pid_t parent) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(127);
    const int input = ::open("/dev/null", O_RDONLY);
    if (input >= 0) ::dup2(input, STDIN_FILENO);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    ::execv(words.front(), words.data());
    constexpr char kText[] = "smooseg: the program cannot be started; does SMOOSEG_PROGRAM name it?\n";
    const auto written = ::write(STDERR_FILENO, kText, sizeof(kText) - 1);
    ::_exit(written < 0 ? 126 : 127);
  }

  const Run* run_;
  pid_t id_ = -1;
  bool asked_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Asks all to end at once, so that they do not end one after the other.
void stop_all(std::list<Process>& processes, int signal) {
  for (Process& process : processes) process.stop(signal);
  processes.clear();
}

std::string line_of(const Process& process, int64_t done, std::size_t all) {
  std::ostringstream text;
  text.precision(1);
  text << "run " << done << "/" << all << "  " << process.run().name << "  " << std::fixed << process.seconds() << " s";
  return text.str();
}

}  // namespace

std::vector<std::string> arguments_of(const Run& run, int parallel) {
  std::vector<std::string> arguments = run.arguments;
  const auto has = [&](const std::string& option) {
    return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
      return argument == option || argument.rfind(option + "=", 0) == 0;
    });
  };
  if (!has("--threads")) {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    arguments.push_back("--threads=" + std::to_string(std::max(1, cores / parallel)));
  }
  if (arguments.front() == "train" && !has("--overwrite") && !has("--resume")) arguments.emplace_back("--resume");
  return arguments;
}

void run_all(const std::vector<Run>& runs, int parallel, const Console& console) {
  TORCH_CHECK(parallel >= 1, "--parallel: expected at least 1, got ", parallel);
  std::deque<const Run*> waiting;
  for (const Run& run : runs) {
    if (!fs::exists(run.result)) waiting.push_back(&run);
  }
  auto done = static_cast<int64_t>(runs.size() - waiting.size());
  const int at_once = std::min(parallel, std::max(1, static_cast<int>(waiting.size())));
  if (!waiting.empty()) {
    console.err << waiting.size() << (waiting.size() == 1 ? " run, " : " runs, ") << at_once << " at a time";
    if (done > 0) console.err << "; " << done << " done before";
    console.err << std::endl;
  }
  const StopSignal stop;
  std::list<Process> processes;
  while (!waiting.empty() || !processes.empty()) {
    if (const int signal = stop.received(); signal != 0) {
      stop_all(processes, signal);
      throw Stopped(signal, "stopped by signal " + std::to_string(signal) + " with " + std::to_string(done) + " of " +
                                std::to_string(runs.size()) + " runs done; the same command goes on from there");
    }
    while (!waiting.empty() && processes.size() < static_cast<std::size_t>(at_once)) {
      processes.emplace_back(*waiting.front(), arguments_of(*waiting.front(), parallel));
      waiting.pop_front();
    }
    bool ended = false;
    for (auto process = processes.begin(); process != processes.end() && !ended; ++process) {
      const auto status = process->status();
      if (!status) continue;
      const Run& run = process->run();
      if (*status != 0) {
        stop_all(processes, SIGTERM);
        const fs::path output = output_of(run);
        throw std::runtime_error("the run '" + run.name + "' " + ending(*status) + "; the last lines of " +
                                 output.string() + ":" + last_lines(output));
      }
      console.err << line_of(*process, ++done, runs.size()) << std::endl;
      processes.erase(process);
      ended = true;
    }
    if (!ended) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace smooseg::app
