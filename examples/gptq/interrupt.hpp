/// Ctrl-C and kill, made into an exception at a point where everything half-written is removed on the way out.
#pragma once

#include <fmt/format.h>

#include <csignal>
#include <stdexcept>

namespace app {

/// Thrown by interrupt_guard::check() after a signal; main ends the program as the shell expects of that signal.
class interrupted : public std::runtime_error {
 public:
  explicit interrupted(int signal)
      : std::runtime_error(fmt::format("stopped by {}; nothing was written", signal == SIGINT    ? "Ctrl-C"
                                                                             : signal == SIGTERM ? "SIGTERM"
                                                                                                 : "SIGHUP")),
        signal_(signal) {}
  [[nodiscard]] int signal() const { return signal_; }

 private:
  int signal_;
};

namespace detail {
inline std::sig_atomic_t volatile pending_signal = 0;
}

/// While it lives, SIGINT, SIGTERM and SIGHUP only leave a note, unless they were ignored before (nohup, a background
/// job).
class interrupt_guard {
 public:
  interrupt_guard() {
    for (int i = 0; i < count; ++i) {
      struct sigaction ours {};
      ours.sa_handler = [](int signal) { detail::pending_signal = signal; };
      ours.sa_flags = SA_RESTART;
      sigemptyset(&ours.sa_mask);
      ::sigaction(signals[i], nullptr, &before_[i]);
      if (before_[i].sa_handler != SIG_IGN) ::sigaction(signals[i], &ours, nullptr);
    }
  }
  interrupt_guard(interrupt_guard const&) = delete;
  interrupt_guard& operator=(interrupt_guard const&) = delete;
  ~interrupt_guard() {
    for (int i = 0; i < count; ++i) ::sigaction(signals[i], &before_[i], nullptr);
  }

  /// Throws interrupted if one of the signals has come.
  void check() const {
    if (detail::pending_signal != 0) throw interrupted(detail::pending_signal);
  }

 private:
  static constexpr int count = 3;
  static constexpr int signals[count] = {SIGINT, SIGTERM, SIGHUP};
  struct sigaction before_[count] = {};
};

}  // namespace app
