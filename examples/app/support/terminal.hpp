#pragma once

// What the place where a command prints can show. Needs no LibTorch.

#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>

namespace smooseg::app {

/// How many colours a terminal shows.
enum class TerminalColors { kNone, k256, kAll };

struct Terminal {
  bool is_terminal = false;
  int columns = 80;
  TerminalColors colors = TerminalColors::kNone;
};

/// What the environment says of a terminal's colours; none where NO_COLOR is set
/// (https://no-color.org) or TERM is "dumb".
inline TerminalColors colors_by_environment() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string_view(value == nullptr ? "" : value);
  };
  const std::string_view all = variable("COLORTERM"), kind = variable("TERM");
  if (!variable("NO_COLOR").empty() || kind.empty() || kind == "dumb") return TerminalColors::kNone;
  if (all == "truecolor" || all == "24bit") return TerminalColors::kAll;
  return kind.find("256color") != std::string_view::npos ? TerminalColors::k256 : TerminalColors::kNone;
}

/// What is behind std::cout or std::cerr; any other stream is no terminal.
inline Terminal terminal_of(const std::ostream& stream) {
  const int descriptor = &stream == &std::cout ? STDOUT_FILENO : &stream == &std::cerr ? STDERR_FILENO : -1;
  Terminal terminal;
  if (descriptor < 0 || isatty(descriptor) != 1) return terminal;
  terminal.is_terminal = true;
  terminal.colors = colors_by_environment();
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) terminal.columns = size.ws_col;
  return terminal;
}

/// A text on a background of a colour (red, green, blue), or the text alone where there are no colours.
inline std::string on_color(const std::string& text, const std::array<uint8_t, 3>& color, TerminalColors colors) {
  if (colors == TerminalColors::kNone) return text;
  std::string code = "\x1b[48;";
  if (colors == TerminalColors::kAll) {
    code += "2;" + std::to_string(color[0]) + ";" + std::to_string(color[1]) + ";" + std::to_string(color[2]);
  } else {
    const auto step = [](uint8_t level) { return (level * 5 + 127) / 255; };  // of a cube of 6 x 6 x 6 from 16 on
    code += "5;" + std::to_string(16 + 36 * step(color[0]) + 6 * step(color[1]) + step(color[2]));
  }
  return code + "m" + text + "\x1b[0m";
}

}  // namespace smooseg::app
