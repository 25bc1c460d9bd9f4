/// The alphabet of byte-level tokenizers: each byte is written as one printable character. 33–126, 161–172 and 174–255
/// stand for themselves, the other 68 bytes in rising order for 256, 257, …
#pragma once

#include <gptq/text/utf8.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace gptq {
inline namespace v0 {
namespace text {

namespace detail {

struct byte_alphabet {
  std::array<char16_t, 256> character{};  ///< of each byte
  std::array<short, 324> byte{};          ///< of each character; -1 for those outside the alphabet

  constexpr byte_alphabet() {
    byte.fill(-1);
    char16_t next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      bool const itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      character[b] = itself ? static_cast<char16_t>(b) : next++;
      byte[character[b]] = static_cast<short>(b);
    }
  }
};
inline constexpr byte_alphabet bytes_as_text;

}  // namespace detail

/// The expression by which GPT-2, and ByteLevel with `use_regex`, cuts text; in Oniguruma's syntax.
inline constexpr char gpt2_pattern[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Appends the characters of the bytes of `text`.
inline void append_byte_level(std::string& out, std::string_view text) {
  for (char const c : text) utf8::append(out, detail::bytes_as_text.character[static_cast<unsigned char>(c)]);
}

/// Appends the bytes that the characters of a token stand for; a token with a character outside the alphabet is taken
/// as it is.
inline void append_bytes(std::string& out, std::string_view token) {
  std::size_t const before = out.size();
  for (std::size_t at = 0; at < token.size();) {
    char32_t const c = utf8::decode(token, at);
    short const byte = c < detail::bytes_as_text.byte.size() ? detail::bytes_as_text.byte[c] : short{-1};
    if (byte < 0) {
      out.resize(before);
      out += token;
      return;
    }
    out += static_cast<char>(static_cast<unsigned char>(byte));
  }
}

}  // namespace text
}  // namespace v0
}  // namespace gptq
