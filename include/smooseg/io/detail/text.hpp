#pragma once

// Text from files: how it begins and ends, and how errors show it. Needs no LibTorch.

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace smooseg::io::detail {

inline bool starts_with(std::string_view text, std::string_view beginning) {
  return text.substr(0, beginning.size()) == beginning;
}

inline bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

/// `text` as an error may show it: control characters, which could move a terminal's cursor, are replaced by '?', and
/// at most 200 bytes are kept.
inline std::string printable(std::string_view text) {
  constexpr size_t kMost = 200;
  std::string out(text.substr(0, kMost));
  std::replace_if(
      out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
  return text.size() > kMost ? out + "..." : out;
}

}  // namespace smooseg::io::detail
