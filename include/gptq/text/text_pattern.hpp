/// What a component of a tokenizer looks for in text: a string, a regular expression, or characters of a kind.
#pragma once

#include <gptq/text/part.hpp>
#include <gptq/text/regex.hpp>
#include <gptq/text/utf8.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace gptq {
inline namespace v0 {
namespace text {

/// A kind of character; each such character is a match of its own.
using character_kind = bool (*)(char32_t);

/// What a normalizer or a pre-tokenizer looks for: a literal, a regular expression, or a kind of character.
class text_pattern {
 public:
  explicit text_pattern(std::string literal) : pattern_(std::move(literal)) {}
  explicit text_pattern(regex expression) : pattern_(std::move(expression)) {}
  explicit text_pattern(character_kind kind) : pattern_(kind) {}

  /// {"String": …} or {"Regex": …}. Throws format_error.
  explicit text_pattern(part const& p) : pattern_(std::string()) {
    if (p.value().is_object() && p.value().contains("Regex"))
      pattern_ = regex::from_oniguruma(p.get<std::string>("Regex"), p.where());
    else if (p.value().is_object() && p.value().contains("String"))
      pattern_ = p.get<std::string>("String");
    else
      p.refuse("{\"String\": ...} or {\"Regex\": ...} is needed");
  }

  /// Calls f(begin, end) for the matches in valid UTF-8, from left to right. An empty string matches nowhere.
  template <class F>
  void for_each_match(std::string_view text, F&& f) const {
    if (auto const* const literal = std::get_if<std::string>(&pattern_)) {
      if (literal->empty()) return;
      for (std::size_t at = text.find(*literal); at != std::string_view::npos; at = text.find(*literal, at)) {
        std::size_t const begin = at;
        at += literal->size();
        f(begin, at);
      }
    } else if (auto const* const expression = std::get_if<regex>(&pattern_)) {
      expression->for_each_match(text, f);
    } else {
      for (std::size_t at = 0; at < text.size();) {
        std::size_t const begin = at;
        if (std::get<character_kind>(pattern_)(utf8::decode(text, at))) f(begin, at);
      }
    }
  }

  /// Calls f(begin, end, matches) for the matches and the gaps between them, which together are the text.
  template <class F>
  void for_each_span(std::string_view text, F&& f) const {
    std::size_t done = 0;
    for_each_match(text, [&](std::size_t begin, std::size_t end) {
      if (done < begin) f(done, begin, false);
      f(begin, end, true);
      done = end;
    });
    if (done < text.size()) f(done, text.size(), false);
  }

  /// The text with each match replaced.
  [[nodiscard]] std::string replaced(std::string_view text, std::string_view by) const {
    std::string out;
    out.reserve(text.size());
    for_each_span(text, [&](std::size_t begin, std::size_t end, bool matches) {
      out += matches ? by : text.substr(begin, end - begin);
    });
    return out;
  }

 private:
  std::variant<std::string, regex, character_kind> pattern_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
