/// How far a run is: on a terminal one line that is refreshed, otherwise a plain line now and then.
#pragma once

#include "console.hpp"

#include <gptq/quantize/pipeline_types.hpp>

#include <fmt/format.h>

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>

namespace app {

class stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

/// A line of a terminal that is written over. Does nothing where stderr is no terminal.
class status_line {
 public:
  status_line() = default;
  status_line(status_line const&) = delete;
  status_line& operator=(status_line const&) = delete;
  ~status_line() { clear(); }

  [[nodiscard]] bool live() const { return live_; }

  /// Shows the text, but not more often than the eye follows.
  void show(std::string_view text) {
    if (!live_ || (shown_ && since_.seconds() < 0.1)) return;
    winsize size{};
    std::size_t const columns = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
    tell(fmt::format("\r\x1b[K{}", text.substr(0, columns - 1)));
    std::fflush(stderr);
    shown_ = true;
    since_ = {};
  }
  void clear() {
    if (shown_) tell("\r\x1b[K");
    shown_ = false;
  }

 private:
  bool live_ = stderr_is_terminal();
  bool shown_ = false;
  stopwatch since_;
};

/// Time left where a share `done` of the work took `seconds`; nothing while that says little.
inline std::string time_left(double done, double seconds) {
  if (done < 0.01) return {};
  return fmt::format(", {} left", duration(seconds * (1 - done) / done));
}

/// For quantize: blocks, linears, speed (calibration tokens through a whole block, solving included) and time left.
class quantize_progress {
 public:
  void operator()(gptq::pipeline_progress const& p) {
    double const in_group = p.of_tokens > 0 ? static_cast<double>(p.tokens) / static_cast<double>(p.of_tokens) : 0;
    double const blocks =
        static_cast<double>(p.block) + (static_cast<double>(p.group) + in_group) / static_cast<double>(p.groups);
    double const seconds = since_.seconds();
    auto const speed = [&] {
      double const rate = seconds > 0 ? blocks * static_cast<double>(p.of_tokens) / seconds : 0;
      return fmt::format(", {:.0f} tokens/s{}", rate, time_left(blocks / static_cast<double>(p.blocks), seconds));
    };
    if (line_.live())
      line_.show(fmt::format("block {} of {}, {}{}", p.block + 1, p.blocks, p.name, speed()));
    else if (p.block != announced_)
      tell(fmt::format("block {} of {}{}\n", p.block + 1, p.blocks, p.block > 0 ? speed() : ""));
    announced_ = p.block;
  }
  void finish() { line_.clear(); }

 private:
  status_line line_;
  stopwatch since_;
  gptq::index_t announced_ = -1;
};

/// For perplexity: blocks, and time left; without a terminal a line every ten seconds.
class evaluate_progress {
 public:
  void operator()(gptq::index_t done, gptq::index_t all) {
    double const share = static_cast<double>(done) / static_cast<double>(all);
    std::string const text = fmt::format("block {} of {}{}", done, all, time_left(share, since_.seconds()));
    if (line_.live()) return line_.show(text);
    if (quiet_.seconds() < 10) return;
    tell(fmt::format("{}\n", text));
    quiet_ = {};
  }
  void finish() { line_.clear(); }

 private:
  status_line line_;
  stopwatch since_;
  stopwatch quiet_;
};

}  // namespace app
