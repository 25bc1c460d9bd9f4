/// Sizes as people write them.
#pragma once

#include "app.hpp"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace app {

/// Bytes of "4GB", "500 MB", "2GiB", "1.5g", "1000000". Throws usage_error naming the option.
inline std::uint64_t parse_size(std::string_view option, std::string_view text) {
  auto const refuse = [&]() -> std::uint64_t {
    throw usage_error(fmt::format("{}: \"{}\" is no size such as 4GB, 500MB, 2GiB or a number of bytes", option, text));
  };
  double number = 0;
  char const* const last = text.data() + text.size();
  auto const [end, code] = std::from_chars(text.data(), last, number, std::chars_format::fixed);
  if (code != std::errc()) return refuse();
  std::string unit;
  for (char const* c = end; c != last; ++c)
    if (*c != ' ') unit += static_cast<char>(std::toupper(static_cast<unsigned char>(*c)));
  constexpr std::array<std::pair<std::string_view, double>, 14> units = {{{"", 1},
                                                                          {"B", 1},
                                                                          {"K", 1e3},
                                                                          {"KB", 1e3},
                                                                          {"M", 1e6},
                                                                          {"MB", 1e6},
                                                                          {"G", 1e9},
                                                                          {"GB", 1e9},
                                                                          {"T", 1e12},
                                                                          {"TB", 1e12},
                                                                          {"KIB", 0x1p10},
                                                                          {"MIB", 0x1p20},
                                                                          {"GIB", 0x1p30},
                                                                          {"TIB", 0x1p40}}};
  for (auto const& [name, factor] : units) {
    if (unit != name) continue;
    double const bytes = number * factor;
    return bytes >= 1 && bytes <= 1e18 ? static_cast<std::uint64_t>(bytes) : refuse();
  }
  return refuse();
}

}  // namespace app
