/// How a text is cut where a pattern matches: the five behaviours of tokenizer files.
#pragma once

#include <gptq/text/part.hpp>
#include <gptq/text/text_pattern.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace gptq {
inline namespace v0 {
namespace text {

/// "the-final--countdown" cut at "-":
enum class split_behavior : unsigned char {
  removed,               ///< the  final  countdown
  isolated,              ///< the  -  final  -  -  countdown
  merged_with_previous,  ///< the-  final-  -  countdown
  merged_with_next,      ///< the  -final  -  -countdown
  contiguous,            ///< the  -  final  --  countdown
};

/// The behaviour under `key` ("behavior"). Throws format_error for an unknown one.
inline split_behavior parse_split_behavior(part const& p, char const* key) {
  std::string const name = p.get<std::string>(key);
  if (name == "Removed") return split_behavior::removed;
  if (name == "Isolated") return split_behavior::isolated;
  if (name == "MergedWithPrevious") return split_behavior::merged_with_previous;
  if (name == "MergedWithNext") return split_behavior::merged_with_next;
  if (name == "Contiguous") return split_behavior::contiguous;
  p.refuse("behavior \"" + gptq::detail::printable(name, 60) + "\" is not supported");
}

/// Calls emit(begin, end) for each piece from left to right. `invert` exchanges matches and gaps.
template <class Emit>
void split(std::string_view text, text_pattern const& pattern, split_behavior behavior, bool invert, Emit&& emit) {
  struct {
    std::size_t begin = 0;
    std::size_t end = 0;
    bool matches = false;  // whether the span that came last is a match
    bool open = false;     // whether begin and end are a piece that is still to be emitted
  } last;
  pattern.for_each_span(text, [&](std::size_t begin, std::size_t end, bool matches) {
    matches = matches != invert;
    bool joins = false;
    switch (behavior) {
      case split_behavior::removed:
        if (!matches) emit(begin, end);
        return;
      case split_behavior::isolated: emit(begin, end); return;
      case split_behavior::merged_with_previous: joins = matches && !last.matches; break;
      case split_behavior::merged_with_next: joins = !matches && last.matches; break;
      case split_behavior::contiguous: joins = matches == last.matches; break;
    }
    if (last.open && joins) {
      last.end = end;
    } else {
      if (last.open) emit(last.begin, last.end);
      last.begin = begin;
      last.end = end;
      last.open = true;
    }
    last.matches = matches;
  });
  if (last.open) emit(last.begin, last.end);
}

}  // namespace text
}  // namespace v0
}  // namespace gptq
