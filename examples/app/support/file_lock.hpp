#pragma once

// A file that one process holds at a time. Needs no LibTorch.

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace smooseg::app {

/// Holds a file until the end of the scope; the system frees it if the process is killed. Where the file system has no
/// locks, every process may go on.
class FileLock {
 public:
  /// Opens the file, an empty one where there is none, and holds it if no other process does.
  /// @throws std::runtime_error naming the file where it cannot be opened for writing.
  explicit FileLock(const std::filesystem::path& path)
      : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) {
      throw std::runtime_error(path.string() + ": cannot write: " + std::generic_category().message(errno));
    }
    busy_ = ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock() { ::close(descriptor_); }

  /// Whether another process holds the file.
  bool busy() const { return busy_; }

  /// Waits until no other process holds it.
  void wait() {
    while (busy_ && ::flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
    }
    busy_ = false;
  }

 private:
  int descriptor_;
  bool busy_ = false;
};

}  // namespace smooseg::app
