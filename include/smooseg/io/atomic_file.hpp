#pragma once

// Files that appear whole or not at all. Needs no LibTorch.

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace smooseg::io {

/// A file under construction: written under a temporary name in the target's folder, and renamed to the target by
/// `commit`. A reader sees the old file or the new one, never a part; without `commit` the temporary is removed.
///
///     AtomicFile file("out/picture.png");
///     write_png(file.temporary_path());   // and check that it worked
///     file.commit();
class AtomicFile {
 public:
  /// Creates the temporary file, empty; no other process or object gets the same one.
  /// @throws std::runtime_error naming the target and the system's reason where the folder cannot be written to, or
  ///   where the target is something other than a regular file.
  explicit AtomicFile(const std::filesystem::path& target) : target_(target) {
    std::error_code error;
    const auto status = std::filesystem::status(target, error);
    if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
      fail(target, std::filesystem::is_directory(status) ? "it is a folder" : "it is not a regular file");
    }
    static std::atomic<unsigned> counter{0};
    const std::string prefix = ".smooseg-" + std::to_string(::getpid()) + "-";
    int descriptor = -1;
    do {
      temporary_ = target.parent_path() / (prefix + std::to_string(counter++) + ".tmp");
      descriptor = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (descriptor < 0 && errno == EEXIST);
    if (descriptor < 0) fail(target, system_reason(errno));
    ::close(descriptor);
  }

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  ~AtomicFile() {
    std::error_code ignored;
    if (!committed_) std::filesystem::remove(temporary_, ignored);
  }

  /// The path to write to until `commit`.
  const std::filesystem::path& temporary_path() const { return temporary_; }

  /// Puts the file in the target's place; call it once the temporary is written and closed without an error. Whether
  /// the file survives a power cut soon afterwards is up to the file system; what can easily be made again need not
  /// wait for the disk.
  /// @throws std::runtime_error naming the target and the system's reason.
  void commit() {
    std::error_code error;
    std::filesystem::rename(temporary_, target_, error);
    if (error) fail(target_, error.message());
    committed_ = true;
  }

  /// `commit` for files that must survive a power cut: some milliseconds later, content and name are on the disk.
  /// @throws std::runtime_error as `commit`.
  void commit_to_disk() {
    sync(temporary_);
    commit();
    sync(target_.has_parent_path() ? target_.parent_path() : ".");
  }

  /// Throws std::runtime_error "TARGET: cannot write: REASON", the form of every error of this header.
  [[noreturn]] static void fail(const std::filesystem::path& target, const std::string& reason) {
    throw std::runtime_error(target.string() + ": cannot write: " + reason);
  }

  /// The system's text for an `errno`, such as "No space left on device".
  static std::string system_reason(int code) {
    return code == 0 ? "the system gave no reason" : std::generic_category().message(code);
  }

 private:
  // Waits until the content of a file, or the names in a folder, are on the disk. Not every file system can do that for
  // folders, and not every folder that may be written to may be read.
  void sync(const std::filesystem::path& path) const {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const int code = descriptor >= 0 && ::fsync(descriptor) == 0 ? 0 : errno;
    if (descriptor >= 0) ::close(descriptor);
    if (code != 0 && code != EACCES && code != EINVAL && code != ENOTSUP) fail(target_, system_reason(code));
  }

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

/// Writes a file through a stream and puts it in place only if all of it could be written; it then survives a power cut.
/// @param target the file to make or to replace.
/// @param write called once with a binary stream; it need not check the stream. What it throws is passed on.
/// @throws std::runtime_error "TARGET: cannot write: No space left on device" and the like. An older file of this name
///   is then untouched (unless only the last step failed, bringing the new name to the disk), and nothing is left behind.
inline void write_file_atomically(const std::filesystem::path& target,
                                  const std::function<void(std::ostream&)>& write) {
  AtomicFile file(target);
  errno = 0;
  std::ofstream stream(file.temporary_path(), std::ios::binary | std::ios::trunc);
  if (stream) write(stream);
  // Closing writes out what is still buffered, and is where most errors show.
  if (stream) stream.close();
  if (!stream) AtomicFile::fail(target, AtomicFile::system_reason(errno));
  file.commit_to_disk();
}

}  // namespace smooseg::io
