#pragma once

// Commands that end in good order when they are asked to. Needs no LibTorch.

#include <stdexcept>
#include <string>

namespace smooseg::app {

/// While one exists, the first SIGINT, SIGTERM or SIGHUP (unless ignored, as under nohup) is only noted, for the command
/// to stop at a good moment; the next one ends the process at once. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The number of the signal that came, 0 if none did.
  int received() const;
};

/// What a command throws when it has stopped for a signal; the program ends with 128 + the signal's number, as shells
/// expect it.
struct Stopped : std::runtime_error {
  Stopped(int number, const std::string& message) : std::runtime_error(message), signal(number) {}
  int signal;
};

}  // namespace smooseg::app
