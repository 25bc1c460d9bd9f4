/// Unicode through utf8proc: normalization forms and character kinds.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/text/utf8.hpp>

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// General category N: decimal digits, and letters and signs that are numbers, such as ½.
inline bool is_number(char32_t c) {
  auto const k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

/// ASCII punctuation (with symbols such as $ and +), or general category P.
inline bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c > 0x20 && c < 0x30) || (c > 0x39 && c < 0x41) || (c > 0x5A && c < 0x61) || (c > 0x7A && c < 0x7F);
  auto const k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

/// The normalization forms of Unicode (UAX #15).
enum class normalization_form : unsigned char { nfc, nfd, nfkc, nfkd };

namespace detail {

constexpr bool composes(normalization_form f) { return f == normalization_form::nfc || f == normalization_form::nfkc; }

/// Appends the normalized form of a stretch of text. utf8proc_map does the same with an ordering of combining marks
/// that takes quadratic time on a long run of them.
inline void normalize_stretch(std::string_view text, normalization_form form, std::vector<utf8proc_int32_t>& codes,
                              std::string& out) {
  bool const compatible = form == normalization_form::nfkc || form == normalization_form::nfkd;
  auto const options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  codes.clear();
  for (std::size_t at = 0; at < text.size();) {
    std::array<utf8proc_int32_t, 32> some;  // the longest decomposition has 18
    auto const code = static_cast<utf8proc_int32_t>(utf8::decode(text, at));
    utf8proc_ssize_t const n =
        utf8proc_decompose_char(code, some.data(), static_cast<utf8proc_ssize_t>(some.size()), options, nullptr);
    if (n < 0 || n > static_cast<utf8proc_ssize_t>(some.size()))
      throw error(std::string("utf8proc: ") + utf8proc_errmsg(n));
    codes.insert(codes.end(), some.begin(), some.begin() + n);
  }
  auto const combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto run = codes.begin(); run != codes.end();) {
    if (combining_class(*run) == 0) {
      ++run;
      continue;
    }
    auto const end = std::find_if(run, codes.end(), [&](auto c) { return combining_class(c) == 0; });
    if (end - run > 1)
      std::stable_sort(run, end, [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    run = end;
  }
  auto size = static_cast<utf8proc_ssize_t>(codes.size());
  if (composes(form))
    size = utf8proc_normalize_utf32(codes.data(), size,
                                    static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  for (utf8proc_ssize_t i = 0; i < size; ++i)
    utf8::append(out, static_cast<char32_t>(codes[static_cast<std::size_t>(i)]));
}

/// Code points that NFC leaves alone among others of this kind: Latin-1, ideographs, Hangul syllables, quotation marks.
constexpr bool stable_in_nfc(char32_t c) {
  return c < 0x300 || (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0x2010 && c <= 0x2027);
}

}  // namespace detail

/// Valid UTF-8 in a normalization form. Linear in the text, but for sorting long runs of combining marks.
inline std::string normalize(std::string_view text, normalization_form form) {
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> codes;
  for (std::size_t at = 0; at < text.size();) {
    // ASCII stays, and nothing before an ASCII character interacts with it; only the last of a run may be a base.
    std::size_t begin = utf8::skip_ascii(text, at);
    if (begin > at && begin < text.size()) --begin;
    out += text.substr(at, begin - at);
    bool stable = form == normalization_form::nfc;
    std::size_t end = begin;
    while (end < text.size() && (end == begin || static_cast<unsigned char>(text[end]) >= 0x80))
      stable = detail::stable_in_nfc(utf8::decode(text, end)) && stable;
    if (stable)
      out += text.substr(begin, end - begin);
    else
      detail::normalize_stretch(text.substr(begin, end - begin), form, codes, out);
    at = end;
  }
  return out;
}

}  // namespace text
}  // namespace v0
}  // namespace gptq
