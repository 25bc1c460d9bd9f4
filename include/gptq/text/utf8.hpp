/// UTF-8: repairing bytes from outside once, then walking over text known to be valid.
#pragma once

#include <gptq/core/matrix.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace gptq {
inline namespace v0 {
namespace utf8 {

/// What takes the place of bytes that are no UTF-8.
inline constexpr char32_t replacement = 0xFFFD;

/// Bytes of the sequence that starts with `lead`, in valid text.
constexpr std::size_t sequence_size(char lead) {
  auto const b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/// The code point at `at`, which is moved past it. The text is valid and does not end at `at`.
constexpr char32_t decode(std::string_view text, std::size_t& at) {
  auto const byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  char32_t const lead = byte(0);
  std::size_t const size = sequence_size(text[at]);
  char32_t code = lead;
  if (size == 2) code = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
  if (size == 3) code = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  if (size == 4) code = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  at += size;
  return code;
}

/// The code point that ends at `at`, which is moved to its start. The text is valid and does not start at `at`.
constexpr char32_t decode_before(std::string_view text, std::size_t& at) {
  do {
    --at;
  } while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  std::size_t start = at;
  return decode(text, start);
}

/// Appends a code point up to U+10FFFF.
inline void append(std::string& out, char32_t code) {
  auto const put = [&](char32_t b) { out += static_cast<char>(static_cast<unsigned char>(b)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  }
}

/// How a sequence starts in text of unknown origin: its bytes, and whether they are a whole code point. If not, they
/// are the longest start of one ("maximal subpart", Unicode 3.9), at least one byte.
struct sequence {
  std::size_t size;
  bool valid;
};

/// Looks at the start of `text`, which is not empty.
constexpr sequence inspect(std::string_view text) {
  auto const lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  std::size_t const size = sequence_size(text[0]);
  // The second byte excludes overlong forms, surrogates and what lies above U+10FFFF.
  unsigned low = lead == 0xE0 ? 0xA0u : lead == 0xF0 ? 0x90u : 0x80u;
  unsigned high = lead == 0xED ? 0x9Fu : lead == 0xF4 ? 0x8Fu : 0xBFu;
  for (std::size_t i = 1; i < size; ++i, low = 0x80, high = 0xBF) {
    if (i == text.size()) return {i, false};
    auto const b = static_cast<unsigned char>(text[i]);
    if (b < low || b > high) return {i, false};
  }
  return {size, true};
}

/// The first position at or after `from` with a byte above 127, or the size.
inline std::size_t skip_ascii(std::string_view text, std::size_t from) {
  for (; from + 8 <= text.size(); from += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + from, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (from < text.size() && static_cast<unsigned char>(text[from]) < 0x80) ++from;
  return from;
}

/// The bytes up to the first that is no UTF-8.
inline std::size_t valid_size(std::string_view text) {
  std::size_t at = skip_ascii(text, 0);
  while (at < text.size()) {
    sequence const s = inspect(text.substr(at, 4));
    if (!s.valid) return at;
    at += s.size;
    if (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) at = skip_ascii(text, at);
  }
  return at;
}

/// The text itself if it is valid, else a copy in `storage` with U+FFFD for each maximal subpart of a broken sequence.
/// `replaced`, if given, is raised by their number.
inline std::string_view repair(std::string_view text, std::string& storage, index_t* replaced = nullptr) {
  std::size_t good = valid_size(text);
  if (good == text.size()) return text;
  storage.clear();
  storage.reserve(text.size() + text.size() / 8);
  for (;;) {
    storage.append(text.substr(0, good));
    text.remove_prefix(good);
    if (text.empty()) return storage;
    append(storage, replacement);
    if (replaced) ++*replaced;
    text.remove_prefix(inspect(text).size);
    good = valid_size(text);
  }
}

/// The property White_Space, as in Unicode since 6.3 (U+180E has it no more).
constexpr bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Valid text without the white space at its ends.
constexpr std::string_view strip(std::string_view text) {
  while (!text.empty()) {
    std::size_t at = 0;
    if (!is_white_space(decode(text, at))) break;
    text.remove_prefix(at);
  }
  while (!text.empty()) {
    std::size_t at = text.size();
    if (!is_white_space(decode_before(text, at))) break;
    text = text.substr(0, at);
  }
  return text;
}

}  // namespace utf8
}  // namespace v0
}  // namespace gptq
