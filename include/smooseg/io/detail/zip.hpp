#pragma once

// Zip archives as PyTorch writes them: the entries that matter are stored uncompressed (with zip64 from 4 GB on).
// Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 and 4.5.3.

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "smooseg/io/detail/crc32.hpp"
#include "smooseg/io/detail/file_bytes.hpp"
#include "smooseg/io/detail/text.hpp"

namespace smooseg::io::detail {

/// Reads the directory of an archive and hands out the entries' bytes without copying them. No two entries share bytes,
/// so all of them together are never larger than the file.
class ZipArchive {
 public:
  /// @throws c10::Error naming the file where the directory is damaged.
  explicit ZipArchive(FileBytes file) : file_(std::move(file)) {
    const Directory directory = find_directory();
    Cursor cursor(file_, directory.offset);
    for (uint64_t i = 0; i < directory.entries; ++i) read_entry(cursor);

    for (const auto& [entry, location] : entries_) boundaries_.push_back(location.offset);
    boundaries_.push_back(directory.offset);
    std::sort(boundaries_.begin(), boundaries_.end());
    const auto twice = std::adjacent_find(boundaries_.begin(), boundaries_.end());
    TORCH_CHECK(twice == boundaries_.end(), name(), ": corrupt archive: two entries at byte ", *twice);
  }

  /// The file's path.
  const std::string& name() const { return file_.name(); }

  bool contains(const std::string& entry) const { return entries_.count(entry) > 0; }

  /// The names of all entries that are `name` or end with "/" + `name`.
  std::vector<std::string> find(const std::string& name) const {
    std::vector<std::string> found;
    for (const auto& [entry, location] : entries_) {
      if (entry == name || ends_with(entry, "/" + name)) found.push_back(entry);
    }
    return found;
  }

  /// The bytes of an entry.
  /// @throws c10::Error naming file and entry where it is compressed, encrypted or not there.
  FileBytes read(const std::string& entry) const {
    const auto found = entries_.find(entry);
    TORCH_CHECK(found != entries_.end(), name(), ": corrupt archive: no entry '", printable(entry), "'");
    const auto [offset, size, checksum, stored] = found->second;
    TORCH_CHECK(stored, name(), ": entry '", printable(entry),
                "' is compressed or encrypted, which those of PyTorch's tensors never are");
    // The local header repeats the directory's entry. Only its length matters, and that it belongs to this entry.
    Cursor cursor(file_, offset);
    bool is_entry = cursor.number<uint32_t>() == kLocalHeader;
    cursor.take(22);
    const auto name_length = cursor.number<uint16_t>();
    const auto extra_length = cursor.number<uint16_t>();
    is_entry = is_entry && cursor.take(name_length) == entry;
    cursor.take(extra_length);
    const uint64_t begin = cursor.position();
    const uint64_t end = *std::upper_bound(boundaries_.begin(), boundaries_.end() - 1, offset);
    TORCH_CHECK(is_entry && begin <= end && size <= end - begin && file_.holds(begin, size), name(),
                ": truncated or corrupt archive: entry '", printable(entry), "' of ", size, " bytes is not at byte ",
                offset);
    return file_.slice(begin, size);
  }

  /// Reads all of an entry and checks it against its checksum. A checksum of 0 stands for none: PyTorch writes it where
  /// checksums are switched off.
  /// @throws c10::Error naming file and entry where they differ.
  void verify(const std::string& entry) const {
    const FileBytes bytes = read(entry);
    const uint32_t expected = entries_.at(entry).checksum, got = expected == 0 ? 0 : crc32(bytes.view());
    TORCH_CHECK(got == expected, name(), ": damaged: entry '", printable(entry), "' has the checksum ", got,
                ", expected ", expected);
  }

  /// Verifies every entry that is stored uncompressed.
  void verify_all() const {
    for (const auto& [entry, location] : entries_) {
      if (location.stored) verify(entry);
    }
  }

 private:
  struct Directory {
    uint64_t offset;
    uint64_t entries;
  };
  struct Location {
    uint64_t offset;  // of the local header
    uint64_t size;
    uint32_t checksum;
    bool stored;  // neither compressed nor encrypted
  };

  static constexpr uint32_t kLocalHeader = 0x04034b50;
  static constexpr uint32_t kDirectoryEntry = 0x02014b50;
  static constexpr uint32_t kEnd64 = 0x06064b50;
  static constexpr uint32_t kEnd64Locator = 0x07064b50;
  static constexpr std::string_view kEnd = "PK\5\6";
  static constexpr uint64_t kEndSize = 22;
  static constexpr uint64_t kEnd64LocatorSize = 20;

  Directory find_directory() const {
    // The end record is the file's last, but for a comment of up to 65535 bytes.
    constexpr size_t kMost = kEndSize + 0xFFFF;
    const size_t tail_begin = file_.size() > kMost ? file_.size() - kMost : 0;
    const std::string_view tail = file_.view().substr(tail_begin);
    const size_t found = tail.size() < kEndSize ? std::string_view::npos : tail.rfind(kEnd, tail.size() - kEndSize);
    TORCH_CHECK(found != std::string_view::npos, name(), ": truncated archive: it has no directory at its end");
    const uint64_t end = tail_begin + found;
    Cursor cursor(file_, end + 10);
    const uint64_t entries = cursor.number<uint16_t>();
    cursor.take(4);
    const Directory directory{cursor.number<uint32_t>(), entries};
    if ((entries != 0xFFFF && directory.offset != 0xFFFFFFFF) || end < kEnd64LocatorSize) return directory;
    Cursor locator(file_, end - kEnd64LocatorSize);
    if (locator.number<uint32_t>() != kEnd64Locator) return directory;  // 65535 entries are possible without zip64
    locator.take(4);
    return read_directory64(Cursor(file_, locator.number<uint64_t>()));
  }

  Directory read_directory64(Cursor cursor) const {
    TORCH_CHECK(cursor.number<uint32_t>() == kEnd64, name(), ": corrupt archive: a bad zip64 directory");
    cursor.take(28);
    const auto entries = cursor.number<uint64_t>();
    cursor.take(8);
    return {cursor.number<uint64_t>(), entries};
  }

  void read_entry(Cursor& cursor) {
    TORCH_CHECK(cursor.number<uint32_t>() == kDirectoryEntry, name(), ": corrupt archive: a bad directory entry");
    cursor.take(4);
    const auto flags = cursor.number<uint16_t>();
    const auto method = cursor.number<uint16_t>();
    cursor.take(4);
    const auto checksum = cursor.number<uint32_t>();
    uint64_t stored_size = cursor.number<uint32_t>();
    uint64_t size = cursor.number<uint32_t>();
    const auto name_length = cursor.number<uint16_t>();
    const auto extra_length = cursor.number<uint16_t>();
    const auto comment_length = cursor.number<uint16_t>();
    cursor.take(8);
    uint64_t offset = cursor.number<uint32_t>();
    const std::string entry(cursor.take(name_length));
    const uint64_t extra_begin = cursor.position();
    cursor.take(uint64_t{extra_length} + comment_length);
    read_extra64(Cursor(file_, extra_begin), extra_begin + extra_length, {&size, &stored_size, &offset});

    const bool stored = method == 0 && (flags & 1) == 0 && size == stored_size;
    TORCH_CHECK(entries_.emplace(entry, Location{offset, size, checksum, stored}).second, name(),
                ": corrupt archive: two entries '", printable(entry), "'");
  }

  // Zip64 puts the numbers that do not fit 32 bits, in this order, into an extra field with the id 1.
  void read_extra64(Cursor cursor, uint64_t end, std::initializer_list<uint64_t*> numbers) const {
    while (cursor.position() + 4 <= end) {
      const auto id = cursor.number<uint16_t>();
      const auto length = cursor.number<uint16_t>();
      const uint64_t next = cursor.position() + length;
      for (uint64_t* number : numbers) {
        if (id == 1 && *number == 0xFFFFFFFF && cursor.position() + 8 <= next) *number = cursor.number<uint64_t>();
      }
      if (next > end) return;
      cursor.take(next - cursor.position());
    }
  }

  FileBytes file_;
  std::map<std::string, Location> entries_;
  std::vector<uint64_t> boundaries_;  // where entries begin, then the directory; ascending
};

}  // namespace smooseg::io::detail
