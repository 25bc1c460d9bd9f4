/// Remembers the ids of words met before. Bounded: when it is full it forgets everything and starts anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// The ids of words that were encoded before, for one thread: text repeats its words. A hash table of fixed size that
/// forgets everything when it is full.
class word_cache {
 public:
  static constexpr std::size_t longest_word = 256;     ///< bytes; longer ones are not kept
  static constexpr std::size_t most_words = 1u << 16;  ///< before it forgets

  /// A place in the table, found for a word; use it at once.
  struct place {
    std::size_t slot;
    std::uint64_t hash;
    bool known;
  };

  [[nodiscard]] place find(std::string_view word) const {
    std::uint64_t const hash = std::hash<std::string_view>{}(word);
    for (std::size_t i = static_cast<std::size_t>(hash) & mask;; i = (i + 1) & mask) {
      entry const& e = entries_[i];
      if (e.word_size == 0) return {i, hash, false};
      if (e.hash == hash && word == std::string_view(words_).substr(e.word, e.word_size)) return {i, hash, true};
    }
  }

  /// The ids of a known word.
  [[nodiscard]] std::span<std::int32_t const> ids(place p) const {
    entry const& e = entries_[p.slot];
    return std::span(ids_).subspan(e.ids, e.id_count);
  }

  /// Keeps the ids of a word of 1 to longest_word bytes that is not known.
  void insert(place p, std::string_view word, std::span<std::int32_t const> ids) {
    if (count_ == most_words) {
      *this = word_cache();
      p = find(word);
    }
    entries_[p.slot] = {p.hash, static_cast<std::uint32_t>(words_.size()), static_cast<std::uint32_t>(ids_.size()),
                        static_cast<std::uint32_t>(word.size()), static_cast<std::uint32_t>(ids.size())};
    words_ += word;
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++count_;
  }

 private:
  static constexpr std::size_t mask = 2 * most_words - 1;

  struct entry {
    std::uint64_t hash = 0;
    std::uint32_t word = 0;  ///< start in words_
    std::uint32_t ids = 0;   ///< start in ids_
    std::uint32_t word_size = 0;
    std::uint32_t id_count = 0;
  };

  std::vector<entry> entries_ = std::vector<entry>(2 * most_words);
  std::string words_;
  std::vector<std::int32_t> ids_;
  std::size_t count_ = 0;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
