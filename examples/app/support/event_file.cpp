#include "support/event_file.hpp"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace smooseg::app {
namespace {

constexpr auto kPrefix = "events.out.tfevents.";

// Protocol buffers: a field is its number and wire type, then its value.
enum class Wire : uint8_t { kVarint = 0, k64 = 1, kBytes = 2, k32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  out += static_cast<char>(value);
}

void put_key(std::string& out, uint32_t field, Wire wire) {
  put_varint(out, field << 3 | static_cast<uint32_t>(wire));
}

template <class Number>
void put_fixed(std::string& out, Number value) {
  std::array<char, sizeof value> bytes{};
  std::memcpy(bytes.data(), &value, sizeof value);  // little-endian, as all machines that LibTorch runs on
  out.append(bytes.data(), bytes.size());
}

void put_bytes(std::string& out, uint32_t field, const std::string& bytes) {
  put_key(out, field, Wire::kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

/// An Event with time and step, to which one more field is added.
std::string event_at(int64_t step) {
  constexpr uint32_t kWallTime = 1, kStep = 2;
  std::string event;
  put_key(event, kWallTime, Wire::k64);
  put_fixed(event, std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  put_key(event, kStep, Wire::kVarint);
  put_varint(event, static_cast<uint64_t>(step));
  return event;
}

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < entries.size(); ++i) {
      uint32_t entry = i;
      for (int bit = 0; bit < 8; ++bit) entry = entry >> 1 ^ (entry & 1U) * 0x82f63b78U;
      entries[i] = entry;
    }
    return entries;
  }();
  uint32_t crc = 0xffffffffU;
  for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<uint8_t>(c)) & 255U];
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& folder, int64_t step) {
  const auto now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch());
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '-';
  path_ = folder / (kPrefix + std::to_string(now.count()) + "." + host.data() + "." + std::to_string(::getpid()));
  stream_.open(path_, std::ios::binary | std::ios::app);

  constexpr uint32_t kFileVersion = 3, kSessionLog = 7, kStatus = 1, kStart = 1;
  std::string version = event_at(0);
  put_bytes(version, kFileVersion, "brain.Event:2");
  write_record(version);
  if (step == 0) return;
  std::string session, start = event_at(step + 1);  // all from this step on is forgotten
  put_key(session, kStatus, Wire::kVarint);
  put_varint(session, kStart);
  put_bytes(start, kSessionLog, session);
  write_record(start);
}

void EventFile::write(int64_t step, const std::map<std::string, double>& values) {
  constexpr uint32_t kSummary = 5, kValue = 1, kTag = 1, kSimpleValue = 2;
  std::string summary;
  for (const auto& [name, number] : values) {
    std::string value;
    put_bytes(value, kTag, name);
    put_key(value, kSimpleValue, Wire::k32);
    put_fixed(value, static_cast<float>(number));
    put_bytes(summary, kValue, value);
  }
  std::string event = event_at(step);
  put_bytes(event, kSummary, summary);
  write_record(event);
}

void EventFile::remove_all(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) return;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().rfind(kPrefix, 0) == 0) files.push_back(entry.path());
  }
  for (const auto& file : files) std::filesystem::remove(file);
}

/// A record: its length and the length's checksum, its content and the content's checksum.
void EventFile::write_record(const std::string& event) {
  std::string length, record;
  put_fixed(length, uint64_t{event.size()});
  record = length;
  put_fixed(record, masked_crc(length));
  record += event;
  put_fixed(record, masked_crc(event));
  stream_ << record << std::flush;
  if (!stream_) throw std::runtime_error(path_.string() + ": cannot write events for TensorBoard: is the disk full?");
}

}  // namespace smooseg::app
