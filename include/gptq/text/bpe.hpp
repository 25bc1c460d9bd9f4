/// Byte-pair encoding: the model of nearly all tokenizers of large language models.
///
/// A word starts as its characters. The adjacent pair with the lowest rank (its position in the list of merges) becomes
/// one symbol, the leftmost on a tie, until no pair is left that has a rank.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/text/flat_map.hpp>
#include <gptq/text/part.hpp>
#include <gptq/text/utf8.hpp>
#include <gptq/text/vocabulary.hpp>
#include <gptq/text/word_cache.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// What one thread of encoding needs: words met before, and arrays that keep their capacity.
struct bpe_workspace {
  struct symbol {
    std::int32_t id;        ///< -1: merged into the one before
    std::int32_t previous;  ///< position, or -1
    std::int32_t next;      ///< position, or -1
  };
  word_cache cache;
  std::vector<symbol> symbols;
  std::vector<std::uint64_t> heap;  ///< rank << 32 | position of the left symbol
};

/// Byte-pair encoding (Sennrich et al., arXiv 1508.07909): a word becomes the ids of its pieces, merged in the order of
/// the merge list. Immutable; a thread brings its own scratch memory.
class bpe {
 public:
  /// The object under "model". Throws format_error for another kind of model, and for a part of one that changes the
  /// result and is not known here.
  explicit bpe(part const& p) : file_(p.where()) {
    check(p);
    vocabulary_ = vocabulary(p.child("vocab"));
    ignore_merges_ = p.get_or("ignore_merges", false);
    fuse_unknown_ = p.get_or("fuse_unk", false);
    if (!p.child("unk_token").null()) {
      unknown_token_ = p.get<std::string>("unk_token");
      unknown_ = vocabulary_.id(*unknown_token_).value_or(-1);
    }
    byte_tokens_.fill(-1);
    if (p.get_or("byte_fallback", false)) {
      for (std::size_t b = 0; b < 256; ++b) {
        constexpr char hex[] = "0123456789ABCDEF";
        std::string const token{'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};
        byte_tokens_[b] = vocabulary_.id(token).value_or(-1);
      }
    }
    read_characters();
    read_merges(p);
  }

  [[nodiscard]] vocabulary const& tokens() const { return vocabulary_; }

  /// Appends the ids of a word, which is not empty and valid UTF-8. Returns the number of characters that have no
  /// token, where nothing stands for unknown ones: they are lost.
  index_t encode(std::string_view word, std::vector<std::int32_t>& ids, bpe_workspace& work) const {
    constexpr std::size_t worth_cutting = 32;
    if (ignore_merges_ || word.size() <= worth_cutting) return encode_part(word, ids, work);
    // A tokenizer without pre-tokenizer gives a whole text as one word. Between two characters that no merge joins it
    // may be cut without changing anything, and its parts are words that come again and again.
    index_t lost = 0;
    std::size_t begin = 0;
    std::size_t at = 0;
    char32_t before = utf8::decode(word, at);
    bool before_known = character(before) >= 0;
    while (at < word.size()) {
      std::size_t const here = at;
      char32_t const c = utf8::decode(word, at);
      bool const known = character(c) >= 0;
      if (known && before_known && !joined_.find(key(before, c))) {
        lost += encode_part(word.substr(begin, here - begin), ids, work);
        begin = here;
      }
      before = c;
      before_known = known;
    }
    return lost + encode_part(word.substr(begin), ids, work);
  }

 private:
  struct merge_rule {
    std::int32_t rank;
    std::int32_t id;  ///< of the symbol that the pair becomes
  };

  static constexpr std::uint64_t key(std::uint32_t a, std::uint32_t b) { return std::uint64_t{a} << 32 | b; }
  static constexpr std::uint64_t key(std::int32_t a, std::int32_t b) {
    return key(static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b));
  }

  static void check(part const& p) {
    if (!p.value().is_object()) p.refuse("a JSON object is needed");
    bool const old_file = p.child("type").null() && !p.child("merges").null();  // before the type was written
    std::string const type = old_file ? "BPE" : p.type();
    if (type != "BPE") p.refuse_type(type);
    if (!p.child("dropout").null() && p.get<double>("dropout") != 0) p.refuse("dropout is not supported");
    for (char const* const affix : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!p.get_or<std::string>(affix, "").empty()) p.refuse(std::string(affix) + " is not supported");
  }

  void read_characters() {
    for (index_t i = 0; i < vocabulary_.end(); ++i) {
      std::string const* const token = vocabulary_.token(static_cast<std::int32_t>(i));
      if (!token || token->empty() || token->size() != utf8::sequence_size(token->front())) continue;
      std::size_t at = 0;
      char32_t const c = utf8::decode(*token, at);
      if (c >= first_characters_.size())
        other_characters_.insert_or_assign(c, static_cast<std::int32_t>(i));
      else
        first_characters_[c] = static_cast<std::int32_t>(i);
    }
  }

  void read_merges(part const& p) {
    part const list = p.child("merges");
    if (!list.value().is_array()) list.refuse("a JSON array is needed");
    if (list.value().size() > (std::numeric_limits<std::int32_t>::max)()) list.refuse("too many");
    merges_ = flat_map<merge_rule>(list.value().size());
    std::int32_t rank = 0;
    for (json const& entry : list.value()) {
      std::string_view left;
      std::string_view right;
      if (entry.is_string()) {
        std::string_view const both = entry.get_ref<std::string const&>();
        if (both.substr(0, 8) == "#version") continue;
        std::size_t const space = both.find(' ');
        if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos)
          refuse_merge(list, rank, "exactly one space is needed");
        left = both.substr(0, space);
        right = both.substr(space + 1);
      } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
        left = entry[0].get_ref<std::string const&>();
        right = entry[1].get_ref<std::string const&>();
      } else {
        refuse_merge(list, rank, "\"a b\" or [\"a\", \"b\"] is needed");
      }
      if (left.empty() || right.empty()) refuse_merge(list, rank, "one side is empty");
      std::string const whole = std::string(left) + std::string(right);
      auto const a = vocabulary_.id(left);
      auto const b = vocabulary_.id(right);
      auto const ab = vocabulary_.id(whole);
      if (!a || !b || !ab)
        refuse_merge(list, rank, "\"" + gptq::detail::printable(!a ? left : !b ? right : whole, 60) + "\" is no token");
      merges_.insert_or_assign(key(*a, *b), {rank, *ab});
      std::size_t end = left.size();
      std::size_t start = 0;
      char32_t const last = utf8::decode_before(left, end);
      joined_.insert_or_assign(key(last, utf8::decode(right, start)), {});
      ++rank;
    }
  }
  [[noreturn]] static void refuse_merge(part const& list, std::int32_t rank, std::string const& reason) {
    list.refuse("entry " + std::to_string(rank) + ": " + reason);
  }

  /// The symbol of a character, or -1.
  [[nodiscard]] std::int32_t character(char32_t c) const {
    if (c < first_characters_.size()) return first_characters_[c];
    std::int32_t const* const found = other_characters_.find(c);
    return found ? *found : -1;
  }

  index_t encode_part(std::string_view word, std::vector<std::int32_t>& ids, bpe_workspace& work) const {
    std::optional<word_cache::place> place;
    if (word.size() <= word_cache::longest_word) {
      place = work.cache.find(word);
      if (place->known) {
        auto const known = work.cache.ids(*place);
        ids.insert(ids.end(), known.begin(), known.end());
        return 0;
      }
    }
    std::size_t const before = ids.size();
    index_t lost = 0;
    std::optional<std::int32_t> const whole = ignore_merges_ ? vocabulary_.id(word) : std::nullopt;
    if (whole)
      ids.push_back(*whole);
    else
      lost = merge(word, ids, work);
    if (place && lost == 0) work.cache.insert(*place, word, std::span(ids).subspan(before));
    return lost;
  }

  /// The symbols that a word starts as. Returns the number of lost characters.
  index_t start(std::string_view word, std::vector<bpe_workspace::symbol>& symbols) const {
    index_t lost = 0;
    bool after_unknown = false;
    symbols.clear();
    auto const push = [&](std::int32_t id) {
      auto const n = static_cast<std::int32_t>(symbols.size());
      symbols.push_back({id, n - 1, n + 1});
    };
    for (std::size_t at = 0; at < word.size();) {
      std::size_t const begin = at;
      std::int32_t const id = character(utf8::decode(word, at));
      if (id >= 0) {
        push(id);
        after_unknown = false;
        continue;
      }
      std::string_view const bytes = word.substr(begin, at - begin);
      auto const byte_token = [&](char b) { return byte_tokens_[static_cast<unsigned char>(b)]; };
      if (std::all_of(bytes.begin(), bytes.end(), [&](char b) { return byte_token(b) >= 0; })) {
        for (char const b : bytes) push(byte_token(b));
        after_unknown = false;
      } else if (unknown_token_) {
        if (unknown_ < 0)
          throw format_error(file_ + ": unk_token \"" + gptq::detail::printable(*unknown_token_, 60) +
                             "\" is needed, but not in the vocabulary");
        if (!(fuse_unknown_ && after_unknown)) push(unknown_);
        after_unknown = true;
      } else {
        ++lost;
      }
    }
    if (!symbols.empty()) symbols.back().next = -1;
    return lost;
  }

  index_t merge(std::string_view word, std::vector<std::int32_t>& ids, bpe_workspace& work) const {
    if (word.size() > (std::numeric_limits<std::int32_t>::max)())
      throw format_error(file_ + ": a word of " + std::to_string(word.size()) + " bytes is too long");
    auto& symbols = work.symbols;
    auto& heap = work.heap;
    index_t const lost = start(word, symbols);
    auto const at = [&](std::int32_t i) -> bpe_workspace::symbol& { return symbols[static_cast<std::size_t>(i)]; };
    auto const rule_at = [&](std::int32_t i) { return merges_.find(key(at(i).id, at(at(i).next).id)); };
    auto const entry = [](merge_rule const& rule, std::int32_t i) { return key(rule.rank, i); };

    heap.clear();
    for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(symbols.size()); ++i)
      if (auto const* const rule = rule_at(i)) heap.push_back(entry(*rule, i));
    std::make_heap(heap.begin(), heap.end(), std::greater<>());
    auto const push = [&](std::int32_t i) {
      if (auto const* const rule = rule_at(i)) {
        heap.push_back(entry(*rule, i));
        std::push_heap(heap.begin(), heap.end(), std::greater<>());
      }
    };
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      auto const top = heap.back();
      heap.pop_back();
      auto const left = static_cast<std::int32_t>(top & 0xFFFFFFFFu);
      if (at(left).id < 0 || at(left).next < 0) continue;
      auto const* const rule = rule_at(left);
      if (!rule || entry(*rule, left) != top) continue;  // stale: one of the two has changed since
      std::int32_t const right = at(left).next;
      at(left).id = rule->id;
      at(left).next = at(right).next;
      at(right).id = -1;
      if (at(left).next >= 0) {
        at(at(left).next).previous = left;
        push(left);
      }
      if (at(left).previous >= 0) push(at(left).previous);
    }
    for (auto const& s : symbols)
      if (s.id >= 0) ids.push_back(s.id);
    return lost;
  }

  struct nothing {};

  std::string file_;
  vocabulary vocabulary_;
  flat_map<merge_rule> merges_;  ///< by the ids of a pair
  flat_map<nothing> joined_;     ///< pairs of characters between which some merge takes place
  std::array<std::int32_t, 0x800> first_characters_ = filled();
  flat_map<std::int32_t> other_characters_;
  std::array<std::int32_t, 256> byte_tokens_{};  ///< by byte; -1 where there is none, or no byte_fallback
  std::optional<std::string> unknown_token_;
  std::int32_t unknown_ = -1;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;

  static constexpr std::array<std::int32_t, 0x800> filled() {
    std::array<std::int32_t, 0x800> a{};
    a.fill(-1);
    return a;
  }
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
