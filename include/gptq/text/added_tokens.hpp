/// Tokens outside the model: found in the text before the model sees it, and cut out whole.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/text/normalizer.hpp>
#include <gptq/text/part.hpp>
#include <gptq/text/regex.hpp>
#include <gptq/text/utf8.hpp>
#include <gptq/text/vocabulary.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// A token that is found in the text before it is split into words, as `added_tokens` of tokenizer.json describe it.
struct added_token {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< swallows the white space before it
  bool rstrip = false;       ///< swallows the white space after it
  bool normalized = false;   ///< looked for, normalized itself, in the normalized text
  bool special = false;      ///< a control token, left out when decoding for readers
};

/// Finds any of many strings: leftmost, then longest. The time is that of one pass over the text while few starts of
/// matches come to nothing, and never more than proportional to the longest string.
class string_set {
 public:
  string_set() = default;

  /// The strings, each with a value; of equal strings the first counts, empty ones never match.
  explicit string_set(std::vector<std::pair<std::string, std::size_t>> strings) : strings_(std::move(strings)) {
    std::erase_if(strings_, [](auto const& s) { return s.first.empty(); });
    std::stable_sort(strings_.begin(), strings_.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
    for (auto const& s : strings_) starts_[static_cast<unsigned char>(s.first[0])] = true;
  }

  struct match {
    std::size_t begin;
    std::size_t end;
    std::size_t value;
  };

  /// The first match that begins at or after `from`.
  [[nodiscard]] std::optional<match> find(std::string_view text, std::size_t from) const {
    if (strings_.empty()) return std::nullopt;
    for (; from < text.size(); ++from) {
      if (!starts_[static_cast<unsigned char>(text[from])]) continue;
      std::optional<match> longest;
      auto low = strings_.begin();
      auto high = strings_.end();
      // [low, high) are the strings that agree with the text in `size` bytes; a string of that size comes first.
      for (std::size_t size = 0; low != high; ++size) {
        if (low->first.size() == size) {
          longest = {from, from + size, low->second};
          low = std::find_if(low, high, [&](auto const& s) { return s.first.size() > size; });
        }
        if (from + size == text.size()) break;
        auto const byte = [size](auto const& s) { return static_cast<unsigned char>(s.first[size]); };
        auto const wanted = static_cast<unsigned char>(text[from + size]);
        low = std::partition_point(low, high, [&](auto const& s) { return byte(s) < wanted; });
        high = std::partition_point(low, high, [&](auto const& s) { return byte(s) == wanted; });
      }
      if (longest) return longest;
    }
    return std::nullopt;
  }

 private:
  std::vector<std::pair<std::string, std::size_t>> strings_;  ///< sorted, with their values
  std::array<bool, 256> starts_{};                            ///< first bytes
};

/// The added tokens of one tokenizer.
class added_tokens {
 public:
  /// `p`: the array under "added_tokens", or null. Throws format_error, also where an id is not the one that the
  /// vocabulary, or the next free place after it, gives to the token.
  added_tokens(part const& p, vocabulary const& known, normalizer const& n)
      : word_('[' + std::string(word_class) + join_controls + ']', p.where()) {
    if (p.null()) return;
    read(p, known);
    std::vector<std::pair<std::string, std::size_t>> as_is;
    std::vector<std::pair<std::string, std::size_t>> normalized;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      std::string content = tokens_[i].content;
      if (tokens_[i].normalized) n.apply(content);
      (tokens_[i].normalized ? normalized : as_is).emplace_back(std::move(content), i);
    }
    as_is_ = string_set(std::move(as_is));
    normalized_ = string_set(std::move(normalized));
  }

  [[nodiscard]] std::vector<added_token> const& tokens() const { return tokens_; }

  [[nodiscard]] added_token const* find(std::string_view content) const {
    auto const found = by_content_.find(std::string(content));
    return found == by_content_.end() ? nullptr : &tokens_[found->second];
  }
  [[nodiscard]] added_token const* find(std::int32_t id) const {
    auto const found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &tokens_[found->second];
  }

  /// Calls on_text(begin, end) and on_token(id) for what is between the tokens and for the tokens, from left to right.
  /// `normalized`: looks for those tokens that are looked for in normalized text, else for the others.
  template <class OnText, class OnToken>
  void cut(std::string_view text, bool normalized, OnText&& on_text, OnToken&& on_token) const {
    string_set const& wanted = normalized ? normalized_ : as_is_;
    std::size_t done = 0;
    std::size_t white_end = 0;  // of the run of white space swallowed last
    for (std::size_t from = 0; auto const m = wanted.find(text, from);) {
      from = m->end;
      added_token const& token = tokens_[m->value];
      if (token.single_word && !stands_alone(text, m->begin, m->end)) continue;
      std::size_t begin = m->begin;
      std::size_t end = m->end;
      if (token.lstrip) begin = begin > done ? before_white_space(text, done, begin) : done;
      if (token.rstrip) end = white_end = end < white_end ? white_end : after_white_space(text, end);
      if (done < begin) on_text(done, begin);
      // White space that the token before has swallowed may be a token itself: it counts twice, unless nothing is left
      // of it. Odd, but it is how the reference reads it.
      if (begin < end) on_token(token.id);
      done = end;
    }
    if (done < text.size()) on_text(done, text.size());
  }

 private:
  void read(part const& p, vocabulary const& known) {
    if (!p.value().is_array()) p.refuse("a JSON array is needed");
    index_t next = known.size();  // the id of a token that the vocabulary lacks
    std::size_t n = 0;
    for (json const& element : p.value()) {
      part const entry(element, p.where() + '[' + std::to_string(n++) + ']');
      added_token t;
      t.content = entry.get<std::string>("content");
      if (t.content.empty()) continue;
      t.id = entry.get<std::int32_t>("id");
      t.single_word = entry.get_or("single_word", false);
      t.lstrip = entry.get_or("lstrip", false);
      t.rstrip = entry.get_or("rstrip", false);
      t.normalized = entry.get_or("normalized", false);
      t.special = entry.get_or("special", false);
      auto const in_vocabulary = known.id(t.content);
      index_t const expected = in_vocabulary ? *in_vocabulary : next;
      if (expected >= next) next = expected + 1;
      std::string const name = "\"" + gptq::detail::printable(t.content, 60) + "\"";
      if (t.id != expected)
        entry.refuse("token " + name + " has id " + std::to_string(t.id) + ", but " +
                     (in_vocabulary ? "the vocabulary gives it " : "the next free one is ") + std::to_string(expected));
      if (!in_vocabulary && known.token(t.id)) entry.refuse("token " + name + " has the id of another token");
      if (!by_content_.emplace(t.content, tokens_.size()).second) entry.refuse("token " + name + " is listed twice");
      by_id_.emplace(t.id, tokens_.size());
      tokens_.push_back(std::move(t));
    }
  }

  [[nodiscard]] bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) const {
    std::size_t before = begin;
    if (begin > 0) utf8::decode_before(text, before);
    std::size_t after = end;
    if (end < text.size()) utf8::decode(text, after);
    return !word_.found_in(text.substr(before, begin - before)) && !word_.found_in(text.substr(end, after - end));
  }
  static std::size_t before_white_space(std::string_view text, std::size_t done, std::size_t begin) {
    for (std::size_t at = begin; at > done; begin = at)
      if (!utf8::is_white_space(utf8::decode_before(text, at))) break;
    return begin;
  }
  static std::size_t after_white_space(std::string_view text, std::size_t end) {
    for (std::size_t at = end; at < text.size(); end = at)
      if (!utf8::is_white_space(utf8::decode(text, at))) break;
    return end;
  }

  std::vector<added_token> tokens_;
  std::unordered_map<std::string, std::size_t> by_content_;
  std::unordered_map<std::int32_t, std::size_t> by_id_;
  string_set as_is_;
  string_set normalized_;
  regex word_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
