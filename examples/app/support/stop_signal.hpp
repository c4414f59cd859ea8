#pragma once

// Commands that end in good order when they are asked to. Needs no LibTorch.

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <stdexcept>
#include <string>

namespace smooseg::app {

/// While one exists, the first SIGINT, SIGTERM or SIGHUP (unless it is ignored, as under nohup) is only noted, for the
/// command to stop at a good moment; the next one ends the process at once. One at a time.
class StopSignal {
 public:
  StopSignal() {
    received_ = 0;
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], nullptr, &before_[i]);
    handle_by([](int signal) {
      received_ = signal;
      handle_by(SIG_DFL);
    });
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  ~StopSignal() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
  }

  /// The number of the signal that came, 0 if none did.
  int received() const { return received_; }

 private:
  static void handle_by(void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    for (std::size_t i = 0; i < kSignals.size(); ++i) {
      if (before_[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
    }
  }

  static constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};
  inline static std::array<struct sigaction, kSignals.size()> before_;
  inline static std::atomic<int> received_{0};
  static_assert(std::atomic<int>::is_always_lock_free, "a signal handler must not wait");
};

/// Thrown by a command that has stopped for a signal; the program then ends with 128 + its number, as shells expect.
struct Stopped : std::runtime_error {
  Stopped(int number, const std::string& message) : std::runtime_error(message), signal(number) {}
  int signal;
};

}  // namespace smooseg::app
