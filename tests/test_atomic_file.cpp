// Files that appear whole or not at all.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <torch/types.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <iterator>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

namespace {

using namespace smooseg::io;

/// No file may become larger than `bytes` in this scope: a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

/// What an fsync of this file or folder gives, where it is set: an errno, or 0.
std::function<int(const std::filesystem::path&)> on_fsync;

}  // namespace

// Replaces the C library's in this program, so that tests see what is synced, and when.
extern "C" int fsync(int descriptor) {
  if (on_fsync) errno = on_fsync(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor)));
  return on_fsync && errno != 0 ? -1 : static_cast<int>(::syscall(SYS_fsync, descriptor));
}

TEST_CASE("An atomic file appears whole on commit, and not at all without", "[io]") {
  const TempDir dir;
  const auto target = dir.path / "model.bin";
  write_content(target, "old");
  {
    AtomicFile file(target);
    CHECK(file.temporary_path().parent_path() == dir.path);
    CHECK(file.temporary_path() != AtomicFile(target).temporary_path());
    write_content(file.temporary_path(), "half");
  }
  CHECK(content_of(target) == "old");
  CHECK(files_in(dir.path) == 1);

  AtomicFile file(target);
  write_content(file.temporary_path(), "new");
  CHECK(content_of(target) == "old");
  file.commit();
  CHECK(content_of(target) == "new");
  CHECK(files_in(dir.path) == 1);
}

TEST_CASE("An atomic file says why it cannot be written", "[io]") {
  const TempDir dir;
  const std::string file = write_content(dir.path / "file", "old");
  CHECK_ERROR(AtomicFile(file + "/below.bin"), file + "/below.bin: cannot write: Not a directory");
  CHECK_ERROR(AtomicFile(dir.path / "no" / "x.bin"), "x.bin: cannot write: No such file or directory");
  CHECK_ERROR(AtomicFile(dir.path), dir.path.string() + ": cannot write: it is a folder");
  CHECK_ERROR(AtomicFile("/dev/null"), "/dev/null: cannot write: it is not a regular file");
  CHECK_ERROR(write_file_atomically(file, [](std::ostream&) { throw std::runtime_error("stopped"); }), "stopped");
  CHECK(content_of(file) == "old");
  CHECK(files_in(dir.path) == 1);
}

TEST_CASE("A file is on the disk before it gets its name, and its name afterwards", "[io]") {
  const TempDir dir;
  const std::filesystem::path folder = std::filesystem::canonical(dir.path), target = folder / "model.bin";
  write_content(target, "old");
  std::vector<std::filesystem::path> synced;
  std::vector<std::string> contents;
  on_fsync = [&](const std::filesystem::path& path) {
    synced.push_back(path);
    contents.push_back(content_of(target));
    CHECK((path == folder || content_of(path) == "new"));
    return 0;
  };
  write_file_atomically(target, [](std::ostream& out) { out << "new"; });
  on_fsync = nullptr;
  REQUIRE(synced.size() == 2);
  CHECK(synced[0].parent_path() == folder);
  CHECK(synced[1] == folder);
  CHECK(contents == std::vector<std::string>{"old", "new"});
}

TEST_CASE("A file that does not reach the disk is an error", "[io]") {
  const TempDir dir;
  const std::string target = write_content(dir.path / "model.bin", "old");
  const auto write = [&] { write_file_atomically(target, [](std::ostream& out) { out << "new"; }); };
  on_fsync = [](const std::filesystem::path&) { return EIO; };
  CHECK_ERROR(write(), target + ": cannot write: Input/output error");
  CHECK(content_of(target) == "old");
  CHECK(files_in(dir.path) == 1);
  on_fsync = [](const std::filesystem::path& path) { return std::filesystem::is_directory(path) ? EIO : 0; };
  CHECK_ERROR(write(), target + ": cannot write: Input/output error");
  on_fsync = [](const std::filesystem::path&) { return EINVAL; };  // of file systems that do not sync folders
  CHECK(error_of(write).empty());
  on_fsync = nullptr;
}

TEST_CASE("A full disk leaves the old file and nothing else", "[io]") {
  const TempDir dir;
  const std::string path = write_content(dir.path / "x.safetensors", "old");
  {
    const FileSizeLimit full(4096);
    // Little text fails where the stream is closed, much where it is written.
    CHECK_ERROR(write_file_atomically(path, [](std::ostream& out) { out << std::string(4100, 'x'); }),
                path + ": cannot write: File too large");
    CHECK_ERROR(write_safetensors(path, {{"x", torch::zeros({100000})}}), path + ": cannot write: File too large");
  }
  CHECK(content_of(path) == "old");
  CHECK(files_in(dir.path) == 1);
  write_safetensors(path, {{"x", torch::zeros({100000})}});
  CHECK(read_tensors(path).at("x").numel() == 100000);
}
