/// What people read: messages on stderr, one line each, and numbers in a form that is easy to read.
#pragma once

#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace app {

/// Text that may come from a file, fit for one line of a terminal.
inline std::string one_line(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

/// Writes to stderr. Where that fails (a full disk, a reader that has gone) a run goes on without a word.
inline void tell(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

/// One line on stderr. Nothing but results goes to stdout.
inline void say(std::string_view text) { tell(fmt::format("gptq: {}\n", one_line(text))); }
inline void warn(std::string_view text) { say(fmt::format("warning: {}", text)); }

inline bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

/// "1 layer", "3 layers"
inline std::string counted(std::int64_t n, std::string_view noun) {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s");
}

/// "0.42 s", "12.3 s", "4:07 min", "1:02:33 h"
inline std::string duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.995) return fmt::format("{:.2f} s", seconds);
  if (seconds < 99.95) return fmt::format("{:.1f} s", seconds);
  auto const s = static_cast<std::int64_t>((std::min)(std::round(seconds), 1e12));
  if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02} h", s / 3600, s / 60 % 60, s % 60);
}

/// Bytes in decimal units: "1.84 MB"
inline std::string megabytes(std::uint64_t bytes) { return fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6); }

}  // namespace app
