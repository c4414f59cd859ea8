#include "features/weight_files.hpp"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "smooseg/io/load.hpp"
#include "support/disk.hpp"
#include "support/file_lock.hpp"
#include "support/hash.hpp"

extern char** environ;

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

/// The variable's value, "" where it is not set.
std::string environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr ? "" : value;
}

fs::path cache_folder() {
  const std::string cache = environment("XDG_CACHE_HOME"), home = environment("HOME");
  if (!cache.empty()) return cache;
  if (home.empty()) throw std::runtime_error("neither SMOOSEG_WEIGHTS, XDG_CACHE_HOME nor HOME names a folder");
  return fs::path(home) / ".cache";
}

/// Runs a program, found in PATH, without a shell.
/// @return its exit status, or 128 and the number of the signal that ended it; nothing if there is no such program.
std::optional<int> run_program(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t process = 0;
  const int error = ::posix_spawnp(&process, argv[0], nullptr, nullptr, argv.data(), environ);
  if (error == ENOENT) return std::nullopt;
  if (error != 0) throw std::runtime_error(arguments[0] + ": cannot run: " + std::generic_category().message(error));
  int status = 0;
  while (::waitpid(process, &status, 0) < 0) {
    if (errno != EINTR) throw std::runtime_error(arguments[0] + ": " + std::generic_category().message(errno));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// Fetches a URL into a file, going on where it ends.
/// @return "" if all went well, else why not.
std::string fetch(const std::string& url, const fs::path& file) {
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  std::vector<std::string> command{"curl", "--fail", "--location", "--retry", "3", "--connect-timeout", "20"};
  command.insert(command.end(), {"--continue-at", "-", "--output", file.string()});
  if (terminal) command.emplace_back("--progress-bar");
  if (!terminal) command.insert(command.end(), {"--silent", "--show-error"});
  command.push_back(url);

  constexpr int kRangeError = 33, kBadResume = 36;
  std::optional<int> status = run_program(command);
  const bool resumed = fs::file_size(file) > 0;
  if (resumed && (status == kRangeError || status == kBadResume)) {
    fs::resize_file(file, 0);  // what is there cannot be gone on with
    status = run_program(command);
  }
  if (!status) return "the program curl is not installed";
  static const std::map<int, std::string> kReasons{{5, "the proxy is not known"},
                                                   {6, "the host is not known: is there a network?"},
                                                   {7, "the host does not answer: is there a network?"},
                                                   {18, "the connection ended too early"},
                                                   {22, "the server refused"},
                                                   {23, "the file cannot be written: is the disk full?"},
                                                   {28, "it took too long"},
                                                   {35, "no secure connection"},
                                                   {37, "there is no such file"},
                                                   {60, "the server's certificate is not trusted"}};
  if (*status == 0) return "";
  const auto reason = kReasons.find(*status);
  return "curl ended with status " + std::to_string(*status) +
         (reason == kReasons.end() ? "" : " (" + reason->second + ")");
}

/// @return "" if the file is the published one as far as can be told, else what is wrong with it.
std::string examine(const fs::path& file, const backbone::RegistryEntry& entry, std::ostream& err) {
  const backbone::PretrainedWeights& weights = entry.weights;
  const auto bytes = static_cast<int64_t>(fs::file_size(file));
  if (weights.bytes > 0 && bytes != weights.bytes) {
    return "expected " + std::to_string(weights.bytes) + " bytes, got " + std::to_string(bytes);
  }
  const std::string digest = sha256_of(file);
  if (!weights.sha256.empty()) {
    constexpr std::size_t kDigits = 64;
    const bool whole = weights.sha256.size() == kDigits;
    if (digest.compare(0, weights.sha256.size(), weights.sha256) != 0) {
      return std::string("expected ") + (whole ? "the SHA-256 " : "a SHA-256 that begins with ") + weights.sha256 +
             ", got " + digest;
    }
    err << weights.file << (whole ? ": SHA-256 as expected" : ": SHA-256 begins as expected: ") << (whole ? "" : digest)
        << std::endl;
    return "";
  }
  try {
    io::load(*backbone::make(entry.name), file.string());
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  }
  err << weights.file << ": its tensors are those of " << entry.name << "; SHA-256 " << digest
      << " (none is published to compare with)" << std::endl;
  return "";
}

}  // namespace

fs::path weights_folder() {
  const std::string chosen = environment("SMOOSEG_WEIGHTS");
  return chosen.empty() ? cache_folder() / "smooseg" / "weights" : fs::path(chosen);
}

std::string weights_url(const backbone::PretrainedWeights& weights) {
  if (!weights.request.empty()) return weights.request;
  std::string base = environment("SMOOSEG_WEIGHTS_URL");
  if (base.empty()) base = weights.site;
  return base + (base.back() == '/' ? "" : "/") + weights.path;
}

std::optional<fs::path> find_weights(const backbone::PretrainedWeights& weights, const fs::path& folder) {
  const auto right_size = [&](const fs::path& file) {
    return weights.bytes == 0 || static_cast<int64_t>(fs::file_size(file)) == weights.bytes;
  };
  if (const fs::path own = folder / weights.file; fs::is_regular_file(own)) {
    if (right_size(own)) return own;
    throw std::runtime_error(own.string() + ": expected " + std::to_string(weights.bytes) + " bytes, found " +
                             std::to_string(fs::file_size(own)) + ": remove it and fetch it anew");
  }
  const std::string home = environment("TORCH_HOME");
  const fs::path torch = home.empty() ? cache_folder() / "torch" : fs::path(home);
  if (const fs::path hub = torch / "hub" / "checkpoints" / weights.file; fs::is_regular_file(hub) && right_size(hub)) {
    return hub;
  }
  return std::nullopt;
}

std::string how_to_get(const backbone::RegistryEntry& entry, const fs::path& folder) {
  const backbone::PretrainedWeights& weights = entry.weights;
  std::string text = weights.request.empty() ? "  fetch   " : "  ask at  ";
  text += weights_url(weights) + "\n  put at  " + (folder / weights.file).string();
  if (weights.bytes > 0) text += "\n  size    " + std::to_string(weights.bytes) + " bytes";
  if (!weights.sha256.empty()) text += "\n  SHA-256 " + weights.sha256;
  if (!weights.request.empty()) text += "... (its first digits)";
  return text;
}

fs::path download_weights(const backbone::RegistryEntry& entry, const fs::path& folder, std::ostream& err) {
  const backbone::PretrainedWeights& weights = entry.weights;
  if (const auto there = find_weights(weights, folder)) {
    if (weights.request.empty()) return *there;
    const std::string problem = examine(*there, entry, err);
    if (problem.empty()) return *there;
    throw std::runtime_error(there->string() + ": is not the published file: " + problem + "; remove it\n" +
                             how_to_get(entry, folder));
  }
  if (!weights.request.empty()) {
    throw std::runtime_error(entry.name + ": its publisher sends links to who agrees to its licence (" +
                             weights.licence + "): ask for them, and save the file under its name\n" +
                             how_to_get(entry, folder));
  }
  const auto fail = [&](const std::string& why) -> std::runtime_error {
    return std::runtime_error(entry.name + ": cannot get its weights: " + why + "\n" + how_to_get(entry, folder));
  };
  make_folder(folder, "--folder");
  const std::string url = weights_url(weights);
  err << entry.name << ": " << url
      << (weights.bytes > 0 ? " (" + readable_bytes(static_cast<double>(weights.bytes)) + ")" : "") << ", licence "
      << weights.licence << std::endl;
  const fs::path part = folder / (weights.file + ".part"), target = folder / weights.file;
  const FileLock lock(part);
  if (lock.busy()) throw std::runtime_error(part.string() + ": another download of it is under way");
  // One that was whole when it was cut off needs no more, and a server refuses to go on with it.
  if (fs::file_size(part) == 0 || !examine(part, entry, err).empty()) {
    if (const std::string problem = fetch(url, part); !problem.empty()) {
      const bool kept = fs::file_size(part) > 0;
      if (!kept) fs::remove(part);
      throw fail(problem + (kept ? "; what came so far is kept for another try: " + part.string() : ""));
    }
    if (const std::string problem = examine(part, entry, err); !problem.empty()) {
      fs::remove(part);
      throw fail("what came is not the published file: " + problem);
    }
  }
  fs::rename(part, target);
  return target;
}

std::string weights_for(const backbone::RegistryEntry& entry, const std::string& given) {
  if (!given.empty()) return given;
  const fs::path folder = weights_folder();
  if (const auto found = find_weights(entry.weights, folder)) return found->string();
  throw std::runtime_error("--weights: the backbone '" + entry.name +
                           "' needs its pretrained weights. Run 'smooseg weights get " + entry.name +
                           "', name a file of them with --weights, or\n" + how_to_get(entry, folder));
}

}  // namespace smooseg::app
