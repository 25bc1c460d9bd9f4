/// The pre-tokenizer: cuts a normalized text into the words that the model sees.
#pragma once

#include <gptq/text/byte_level.hpp>
#include <gptq/text/part.hpp>
#include <gptq/text/splitting.hpp>
#include <gptq/text/text_pattern.hpp>
#include <gptq/text/unicode.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// Steps, each applied to every piece of the one before: Split, Digits, Punctuation, Whitespace, WhitespaceSplit,
/// ByteLevel, Metaspace. A Sequence is its members, null has none.
class pre_tokenizer {
 public:
  pre_tokenizer() = default;

  /// Throws format_error for an unknown type.
  explicit pre_tokenizer(part const& p) { add(p); }

  /// Calls sink(word) for the words of a piece of valid UTF-8, none of them empty; a word is valid during the call.
  /// `first`: the piece opens the whole text.
  template <class Sink>
  void run(std::string_view piece, bool first, Sink&& sink) const {
    std::vector<std::string> buffers(steps_.size());
    run_from(0, piece, first, buffers, sink);
  }

 private:
  struct split_step {
    text_pattern pattern;
    split_behavior behavior;
    bool invert;

    template <class Next>
    void run(std::string_view piece, bool first, std::string&, Next&& next) const {
      split(piece, pattern, behavior, invert,
            [&](std::size_t begin, std::size_t end) { next(piece.substr(begin, end - begin), first && begin == 0); });
    }
  };

  struct byte_level_step {
    bool add_prefix_space;
    std::optional<text_pattern> pattern;

    template <class Next>
    void run(std::string_view piece, bool first, std::string& buffer, Next&& next) const {
      std::string prefixed;
      if (add_prefix_space && piece[0] != ' ') {
        prefixed.reserve(piece.size() + 1);
        prefixed += ' ';
        prefixed += piece;
        piece = prefixed;
      }
      auto const emit = [&](std::size_t begin, std::size_t end) {
        buffer.clear();
        append_byte_level(buffer, piece.substr(begin, end - begin));
        next(buffer, first && begin == 0);
      };
      if (pattern)
        split(piece, *pattern, split_behavior::isolated, false, emit);
      else
        emit(0, piece.size());
    }
  };

  struct metaspace_step {
    enum prepend_scheme { never, first_piece, always };
    std::string replacement;
    prepend_scheme prepend;
    bool cut;

    template <class Next>
    void run(std::string_view piece, bool first, std::string& buffer, Next&& next) const {
      buffer = text_pattern(std::string(" ")).replaced(piece, replacement);
      bool const wanted = prepend == always || (prepend == first_piece && first);
      if (wanted && buffer.compare(0, replacement.size(), replacement) != 0) buffer.insert(0, replacement);
      if (!cut) {
        next(buffer, first);
        return;
      }
      split(buffer, text_pattern(replacement), split_behavior::merged_with_next, false,
            [&](std::size_t begin, std::size_t end) {
              next(std::string_view(buffer).substr(begin, end - begin), first && begin == 0);
            });
    }
  };

  template <class Sink>
  void run_from(std::size_t step, std::string_view piece, bool first, std::vector<std::string>& buffers,
                Sink& sink) const {
    if (piece.empty()) return;
    if (step == steps_.size()) {
      sink(piece);
      return;
    }
    auto const next = [&](std::string_view p, bool f) { run_from(step + 1, p, f, buffers, sink); };
    std::visit([&](auto const& s) { s.run(piece, first, buffers[step], next); }, steps_[step]);
  }

  void add(part const& p) {
    if (p.null()) return;
    std::string const type = p.type();
    if (type == "Sequence") {
      p.for_each("pretokenizers", [&](part const& member) { add(member); });
    } else if (type == "Split") {
      steps_.emplace_back(
          split_step{text_pattern(p.child("pattern")), parse_split_behavior(p, "behavior"), p.get_or("invert", false)});
    } else if (type == "Digits") {
      auto const behavior =
          p.get_or("individual_digits", false) ? split_behavior::isolated : split_behavior::contiguous;
      steps_.emplace_back(split_step{text_pattern(&is_number), behavior, false});
    } else if (type == "Punctuation") {
      auto const behavior = p.child("behavior").null() ? split_behavior::isolated : parse_split_behavior(p, "behavior");
      steps_.emplace_back(split_step{text_pattern(&is_punctuation), behavior, false});
    } else if (type == "WhitespaceSplit") {
      steps_.emplace_back(split_step{text_pattern(&utf8::is_white_space), split_behavior::removed, false});
    } else if (type == "Whitespace") {
      std::string const word = std::string(word_class) + join_controls;
      regex const words('[' + word + "]+|[^" + word + white_space_class + "]+", p.where());
      steps_.emplace_back(split_step{text_pattern(words), split_behavior::removed, true});
    } else if (type == "ByteLevel") {
      byte_level_step step{p.get_or("add_prefix_space", true), std::nullopt};
      if (p.get_or("use_regex", true)) step.pattern.emplace(regex::from_oniguruma(gpt2_pattern, p.where()));
      steps_.emplace_back(std::move(step));
    } else if (type == "Metaspace") {
      add_metaspace(p);
    } else {
      p.refuse_type(type);
    }
  }

  void add_metaspace(part const& p) {
    metaspace_step step{p.get_or<std::string>("replacement", "\u2581"), metaspace_step::always,
                        p.get_or("split", true)};
    std::string const scheme = p.get_or<std::string>("prepend_scheme", "always");
    if (scheme == "never")
      step.prepend = metaspace_step::never;
    else if (scheme == "first")
      step.prepend = metaspace_step::first_piece;
    else if (scheme != "always")
      p.refuse("prepend_scheme \"" + gptq::detail::printable(scheme, 60) + "\" is not supported");
    if (step.prepend != metaspace_step::never && !p.get_or("add_prefix_space", true))
      p.refuse("add_prefix_space false and prepend_scheme \"" + scheme + "\" contradict each other");
    if (step.replacement.empty()) p.refuse("replacement is empty");
    steps_.emplace_back(std::move(step));
  }

  std::vector<std::variant<split_step, byte_level_step, metaspace_step>> steps_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
