/// The form of messages about files: one line, whatever the files contain.
#pragma once

#include <gptq/core/error.hpp>

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Text from a file made fit for a message: control characters become '?', long text is cut.
inline std::string printable(std::string_view text, std::size_t limit = 200) {
  std::string out;
  for (char const c : text) {
    auto const byte = static_cast<unsigned char>(c);
    if (out.size() >= limit && (byte & 0xc0u) != 0x80u) return out + "...";  // never inside a UTF-8 character
    out += byte < 0x20 || byte == 0x7f ? '?' : c;
  }
  return out;
}

/// "path: doing what: reason", the reason being that of an errno value.
inline format_error file_error(std::filesystem::path const& file, std::string const& what, int code) {
  return format_error(file.string() + ": " + what + ": " + std::generic_category().message(code));
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
