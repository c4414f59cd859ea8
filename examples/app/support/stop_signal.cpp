#include "support/stop_signal.hpp"

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>

namespace smooseg::app {
namespace {

constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};
std::array<struct sigaction, kSignals.size()> before;
std::atomic<int> noted{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler must not wait");

/// Gives each signal that is not ignored a handler.
void handle_by(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    if (before[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
  }
}

extern "C" void note_signal(int signal) {
  noted = signal;
  handle_by(SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
  noted = 0;
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], nullptr, &before[i]);
  handle_by(note_signal);
}

StopSignal::~StopSignal() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before[i], nullptr);
}

int StopSignal::received() const {
  return noted;
}

}  // namespace smooseg::app
