/// Regular expressions of tokenizer files are written for Oniguruma (Ruby syntax); we match them with PCRE2. This
/// translates what the two read differently and refuses what it can't vouch for, instead of splitting text wrongly.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/io/message.hpp>
#include <gptq/text/utf8.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// White space inside a class: PCRE2's \s also takes U+180E, which is none for Oniguruma.
inline constexpr char white_space_class[] =
    R"(\t-\r\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

/// Word characters inside a class: PCRE2's \w is letters, numbers and the low line only.
inline constexpr char word_class[] = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

/// What \w takes besides outside a class: superscripts and fractions of Latin-1.
inline constexpr char word_outside_class[] = R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

/// What the expressions that Hugging Face compiles with another engine (Rust's) count as word characters besides.
inline constexpr char join_controls[] = R"(\x{200c}\x{200d})";

namespace detail {

class pattern_translator {
 public:
  pattern_translator(std::string_view pattern, std::string const& where) : in_(pattern), where_(where) {}

  std::string run() {
    if (peek("(?i)")) copy(4), groups_.back().fold = true;  // elsewhere its reach differs
    while (at_ < in_.size()) {
      char const c = in_[at_];
      if (c != '\\' && c != '[' && c != '(' && c != '{' && c != ')') {
        literal();
        continue;
      }
      last_ = 0;
      if (c == '\\') escape(false);
      if (c == '[') char_class();
      if (c == '(') group();
      if (c == '{') interval();
      if (c == ')') {
        if (groups_.size() > 1) groups_.pop_back();
        copy(1);
      }
    }
    return out_;
  }

 private:
  struct group_state {
    bool fold;  ///< upper and lower case are one
  };

  [[noreturn]] void refuse(std::string const& what) const {
    throw format_error(where_ + ": " + gptq::detail::printable(what) + " is not supported in a regular expression");
  }
  [[nodiscard]] bool peek(std::string_view s) const { return in_.substr(at_, s.size()) == s; }
  [[nodiscard]] char next(std::size_t offset) const { return at_ + offset < in_.size() ? in_[at_ + offset] : '\0'; }
  void copy(std::size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }
  static bool digit(char c) { return c >= '0' && c <= '9'; }
  static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
  static bool hex(char c) { return digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

  void literal() {
    // Where case is ignored, Oniguruma also matches ligatures and sharp s with two letters.
    char const c = letter(in_[at_]) ? static_cast<char>(in_[at_] | 0x20) : in_[at_];
    if (groups_.back().fold) {
      std::string const two{last_, c};
      if (two == "ss" || two == "st" || two == "ff" || two == "fi" || two == "fl")
        refuse("(?i) around \"" + two + "\"");
    }
    last_ = c;
    copy(utf8::sequence_size(in_[at_]));
  }

  void group() {
    if (next(1) == '*') refuse("\"(*\"");
    bool fold = groups_.back().fold;
    std::size_t size = 1;
    if (next(1) == '?') {
      size = 0;
      for (std::string_view const known : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"})
        if (peek(known)) size = known.size();
      if (size == 0) refuse("a group that starts with \"" + std::string(in_.substr(at_, 4)) + "\"");
      if (peek("(?i:")) fold = true;
      if (peek("(?-i:")) fold = false;
    }
    groups_.push_back({fold});
    copy(size);
  }

  void interval() {
    std::size_t n = 1;
    while (digit(next(n))) ++n;
    bool const lower = n > 1;
    bool const comma = next(n) == ',';
    if (comma) ++n;
    while (digit(next(n))) ++n;
    if (!lower || next(n) != '}') refuse("an unescaped \"{\" that opens no {n}, {n,} or {n,m}");
    copy(n + 1);
    if (peek("+")) refuse("\"+\" after an interval");  // possessive for PCRE2, one more repetition for Oniguruma
    if (!comma && peek("?")) refuse("\"{n}?\"");       // lazy for PCRE2, optional for Oniguruma
  }

  void char_class() {
    copy(1);
    if (peek("^")) copy(1);
    enum { nothing, character, set, range } before = nothing;
    for (int depth = 1; depth > 0;) {
      if (at_ >= in_.size()) refuse("a class without end");
      if (peek("&&")) refuse("\"&&\" inside a class");
      if (peek("[")) {  // a union for Oniguruma, a character for PCRE2: its members simply join the others
        if (next(1) == '^' || next(1) == ':') refuse("such a class inside a class");
        before = nothing;
        ++depth;
        ++at_;
      } else if (peek("]")) {
        if (before == nothing) refuse("an empty class or one that starts with \"]\"");
        before = set;
        if (--depth == 0)
          copy(1);
        else
          ++at_;
      } else if (peek("-") && (before == nothing || next(1) == ']')) {
        out_ += '\\';  // itself, and it stays so with other members around it
        copy(1);
        before = character;
      } else if (peek("-")) {
        copy(1);
        if (before != character || peek("[") || item() != character) refuse("such a use of \"-\" inside a class");
        before = range;
      } else {
        before = item() == character ? character : set;
      }
    }
  }

  /// Copies one item of a class: 1 for a character, 2 for a set of them.
  int item() {
    if (peek("\\")) return escape(true) ? 2 : 1;
    if (at_ >= in_.size()) refuse("a class without end");
    copy(utf8::sequence_size(in_[at_]));
    return 1;
  }

  /// Translates what starts with a backslash; true if it stands for more than one character.
  bool escape(bool in_class) {
    char const c = next(1);
    auto const put = [&](std::string const& text) {
      out_ += text;
      at_ += 2;
    };
    auto const set = [&](std::string const& members, bool negated) {
      put(in_class ? members : (negated ? "[^" : "[") + members + ']');
      return true;
    };
    switch (c) {
      case 's': return set(white_space_class, false);
      case 'S': return in_class ? (put("\\P{White_Space}"), true) : set(white_space_class, true);
      case 'w': return set(std::string(word_class) + (in_class ? "" : word_outside_class), false);
      case 'd':
      case 'D': return copy(2), true;
      case 'p':
      case 'P': return property(), true;
      case 'v': return put("\\x0b"), false;
      case 'n':
      case 'r':
      case 't':
      case 'f': return copy(2), false;
      case 'x':
      case 'u': return code_point(), false;
      default: break;
    }
    if (c == 'W' && !in_class) return set(std::string(word_class) + word_outside_class, true);
    if ((c == 'A' || c == 'z') && !in_class) return copy(2), true;
    bool const printable = c >= ' ' && c <= '~' && !letter(c) && !digit(c);
    if (!printable)
      refuse(std::string("the escape \"\\") + (c ? std::string(1, c) : "") + (in_class ? "\" inside a class" : "\""));
    return copy(2), false;
  }

  void property() {
    std::size_t const end = in_.find('}', at_);
    if (next(2) != '{' || end == std::string_view::npos) refuse("\"\\p\" without {name}");
    std::string const name(in_.substr(at_ + 3, end - at_ - 3));
    for (char const c : name)
      if (!letter(c)) refuse("the property \"" + name + "\"");
    if (groups_.back().fold && (name == "Lu" || name == "Ll" || name == "Lt"))
      refuse("(?i) around \"\\p{" + name + "}\"");
    out_ += in_.substr(at_, 3);
    if (name.size() > 2) out_ += "sc:";  // a script; without this PCRE2 takes script extensions
    out_ += name + '}';
    at_ = end + 1;
  }

  void code_point() {
    std::size_t n = 2;
    if (next(1) == 'x' && next(2) == '{') {
      for (n = 3; hex(next(n)); ++n) continue;
      if (n == 3 || next(n) != '}') refuse("such a use of \"\\x{\"");
      copy(n + 1);
      return;
    }
    while (n < (next(1) == 'u' ? 6u : 4u) && hex(next(n))) ++n;
    std::string const digits(in_.substr(at_ + 2, n - 2));
    if (next(1) == 'u' ? n != 6 : n != 4 || digits[0] > '7')
      refuse("\"\\" + std::string(in_.substr(at_ + 1, n - 1)) + "\"");
    out_ += "\\x{" + digits + '}';
    at_ += n;
  }

  std::string_view in_;
  std::string const& where_;
  std::size_t at_ = 0;
  std::string out_;
  std::vector<group_state> groups_{{false}};
  char last_ = 0;  ///< the literal before, in lower case
};

}  // namespace detail

/// The same expression for PCRE2 (with UTF, UCP and MULTILINE, newline LF). `where` opens the message of the
/// format_error thrown for a feature that is not known to mean the same.
inline std::string translate_pattern(std::string_view pattern, std::string const& where) {
  return detail::pattern_translator(pattern, where).run();
}

}  // namespace text
}  // namespace v0
}  // namespace gptq
