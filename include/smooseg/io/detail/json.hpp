#pragma once

// The JSON that a safetensors header needs: a pull reader that accepts only what its caller asks for (so that nothing
// nests deeper than the format), and the escaping of strings. Needs no LibTorch.

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "smooseg/io/detail/text.hpp"

namespace smooseg::io::detail {

inline bool is_utf8(std::string_view text) {
  constexpr std::array<uint32_t, 4> kLeast{0, 0x80, 0x800, 0x10000};  // code points that need 0 to 3 more bytes
  for (size_t i = 0; i < text.size();) {
    const uint32_t lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    if (lead < 0xC0 || lead >= 0xF8) return false;
    const size_t more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1, end = i + more;
    uint32_t code = lead & (0x3FU >> more);
    for (; i < end; ++i) {
      if (i == text.size() || (text[i] & 0xC0) != 0x80) return false;
      code = code << 6 | (text[i] & 0x3F);
    }
    const bool is_surrogate = code >= 0xD800 && code <= 0xDFFF;
    if (code < kLeast[more] || is_surrogate || code > 0x10FFFF) return false;
  }
  return true;
}

/// `text` (UTF-8) as a JSON string, quotes included.
inline std::string json_quoted(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += {'\\', 'u', '0', '0', kHex[c >> 4], kHex[c & 15]};
    } else {
      out += c;
    }
  }
  return out + '"';
}

/// Reads a JSON text from front to back; each call demands one kind of value.
class JsonReader {
 public:
  /// @param source what errors begin with.
  JsonReader(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  /// An object: calls `member(key)`, which reads the value, for each member. A key may occur only once.
  template <typename Member>
  void object(Member&& member) {
    std::set<std::string> keys;
    expect('{');
    if (accept('}')) return;
    do {
      const std::string key = string();
      if (!keys.insert(key).second) check(false, "the key '" + printable(key) + "' stands twice");
      expect(':');
      member(key);
    } while (accept(','));
    expect('}');
  }

  /// An array: calls `element()`, which reads it, for each element.
  template <typename Element>
  void array(Element&& element) {
    expect('[');
    if (accept(']')) return;
    do element();
    while (accept(','));
    expect(']');
  }

  std::string string() {
    expect('"');
    std::string out;
    for (char c = next(); c != '"'; c = next()) {
      if (c == '\\') {
        append_escape(out);
      } else {
        check(static_cast<unsigned char>(c) >= 0x20, "a control character in a string");
        out += c;
      }
    }
    check(is_utf8(out), "a string that is not UTF-8");
    return out;
  }

  /// An integer of 0 to 2^63 - 1.
  int64_t integer() {
    skip_spaces();
    const std::string_view rest = text_.substr(position_);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    check(error != std::errc::invalid_argument, "expected a number that is whole and not negative");
    check(error == std::errc() && value >> 63 == 0, "a number of more than 63 bits");
    check(rest[0] != '0' || end == rest.data() + 1, "a number with leading zeros");
    position_ += static_cast<size_t>(end - rest.data());
    return static_cast<int64_t>(value);
  }

  /// Demands that nothing but spaces follows.
  void end() {
    skip_spaces();
    check(position_ == text_.size(), "something follows the end");
  }

  /// Throws std::invalid_argument saying `problem` and where it is, unless `condition`.
  void check(bool condition, std::string_view problem) const {
    if (condition) return;
    throw std::invalid_argument(std::string(source_) + ": invalid header: " + std::string(problem) + ", at character " +
                                std::to_string(position_));
  }

 private:
  char next() {
    check(position_ < text_.size(), "it ends too early");
    return text_[position_++];
  }

  void skip_spaces() { position_ = std::min(text_.find_first_not_of(" \t\r\n", position_), text_.size()); }

  bool accept(char wanted) {
    skip_spaces();
    if (position_ == text_.size() || text_[position_] != wanted) return false;
    ++position_;
    return true;
  }

  void expect(char wanted) { check(accept(wanted), std::string("expected '") + wanted + "'"); }

  void append_escape(std::string& out) {
    static constexpr std::string_view kLetters = "\"\\/bfnrt";
    static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const char letter = next();
    const size_t known = kLetters.find(letter);
    if (known != std::string_view::npos) {
      out += kMeanings[known];
    } else {
      check(letter == 'u', "an unknown escape in a string");
      append_utf8(out, code_point());
    }
  }

  // The code point after "\u", of one unit of UTF-16 or of a pair of surrogates.
  uint32_t code_point() {
    const uint32_t unit = hex4();
    if (unit < 0xD800 || unit > 0xDFFF) return unit;
    check(unit < 0xDC00 && next() == '\\' && next() == 'u', "half a surrogate pair in a string");
    const uint32_t low = hex4();
    check(low >= 0xDC00 && low <= 0xDFFF, "half a surrogate pair in a string");
    return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
  }

  uint32_t hex4() {
    const std::string_view digits = text_.substr(position_, 4);
    uint32_t value = 0;
    const char* const end = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16).ptr;
    check(end == digits.data() + 4, "a bad \\u escape in a string");
    position_ += 4;
    return value;
  }

  static void append_utf8(std::string& out, uint32_t code) {
    static constexpr std::array<uint32_t, 4> kLeads{0, 0xC0, 0xE0, 0xF0};  // of 0 to 3 more bytes, with 6 bits each
    const size_t more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    out += static_cast<char>(kLeads[more] | code >> (6 * more));
    for (size_t i = more; i > 0; --i) out += static_cast<char>(0x80 | (code >> (6 * (i - 1)) & 0x3F));
  }

  std::string_view text_;
  std::string_view source_;
  size_t position_ = 0;
};

}  // namespace smooseg::io::detail
