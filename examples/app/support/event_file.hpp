#pragma once

// Scalars for TensorBoard. Needs no LibTorch.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>

namespace smooseg::app {

/// An event file as TensorBoard reads it: records of TensorFlow's TFRecord format, each of them an `Event` in protocol
/// buffers' encoding (https://github.com/tensorflow/tensorboard, tensorboard/compat/proto/event.proto).
class EventFile {
 public:
  /// Makes a new file in the folder, besides those of a run that this one goes on with.
  /// @param step where the run goes on: TensorBoard forgets what older files say of later steps.
  /// @throws std::runtime_error naming the file where it cannot be written.
  EventFile(const std::filesystem::path& folder, int64_t step);

  /// Appends the values of a step, by their names ("loss/total"). @throws std::runtime_error as the constructor.
  void write(int64_t step, const std::map<std::string, double>& values);

  /// Removes all event files from a folder, which need not be there.
  static void remove_all(const std::filesystem::path& folder);

 private:
  void write_record(const std::string& event);

  std::filesystem::path path_;
  std::ofstream stream_;
};

/// CRC-32C (Castagnoli) of some bytes: 0xe3069283 of "123456789".
uint32_t crc32c(std::string_view bytes);

}  // namespace smooseg::app
