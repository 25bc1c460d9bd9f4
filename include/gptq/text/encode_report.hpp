/// What every tokenizer offers, whatever kind of file it was read from, and what it says about an encoding.
#pragma once

#include <gptq/core/matrix.hpp>

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What was lost or replaced on the way from text to ids.
struct encode_report {
  index_t replaced_sequences = 0;  ///< bytes that were no UTF-8, read as U+FFFD, counted as that many characters
  index_t lost_characters = 0;     ///< characters outside the vocabulary that no unknown or byte token stands for

  encode_report& operator+=(encode_report const& other) {
    replaced_sequences += other.replaced_sequences;
    lost_characters += other.lost_characters;
    return *this;
  }
};

/// A tokenizer: encode(text, add_special_tokens, report), decode(ids), vocabulary_size().
template <class T>
concept text_encoder = requires(T const& t, std::string_view text, std::span<std::int32_t const> ids,
                                encode_report* report) {
  { t.encode(text, true, report) } -> std::same_as<std::vector<std::int32_t>>;
  { t.decode(ids) } -> std::same_as<std::string>;
  { t.vocabulary_size() } -> std::same_as<index_t>;
};

}  // namespace v0
}  // namespace gptq
