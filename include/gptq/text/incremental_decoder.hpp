/// Text from tokens that come one by one.
#pragma once

#include <gptq/text/tokenizer.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Gives the text of each token as soon as it is made of whole characters; special tokens have none. A token's text may
/// depend on its neighbours (a space before a word, bytes of one character), so the last ones are always decoded together.
class incremental_decoder {
 public:
  /// `context`: what the tokens follow, a prompt's last ones. The tokenizer must outlive the decoder.
  explicit incremental_decoder(tokenizer const& t, std::span<std::int32_t const> context = {}) : tokenizer_(&t) {
    constexpr std::size_t enough = 8;
    for (std::int32_t const id : context.last((std::min)(context.size(), enough))) add(id);
    given_ = ids_.size();
  }

  /// The text that this token completes, maybe none. A token that the tokenizer lacks is U+FFFD.
  std::string next(std::int32_t id) {
    if (!tokenizer_->id_to_token(id)) return finish() + "\uFFFD";
    ids_.push_back(id);
    std::string const text = decode(ids_.size());
    if (std::string_view(text).ends_with("\uFFFD")) return {};  // bytes are missing, as far as one can see
    return give(text);
  }

  /// What is left at the end.
  std::string finish() { return give(decode(ids_.size())); }

 private:
  void add(std::int32_t id) {
    if (tokenizer_->id_to_token(id)) ids_.push_back(id);
  }
  [[nodiscard]] std::string decode(std::size_t count) const {
    return tokenizer_->decode(std::span<std::int32_t const>(ids_).first(count), true);
  }
  /// What of the text was not given yet; its tokens become the context of the next ones.
  std::string give(std::string const& text) {
    std::string const before = decode(given_);
    if (text == before) return {};  // special tokens alone are no context
    std::size_t same = 0;           // all of it, but where the context ends in the middle of a character
    while (same < (std::min)(before.size(), text.size()) && before[same] == text[same]) ++same;
    while (same < text.size() && (static_cast<unsigned char>(text[same]) & 0xC0) == 0x80) --same;
    ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(given_));
    given_ = ids_.size();
    return text.substr(same);
  }

  tokenizer const* tokenizer_;
  std::vector<std::int32_t> ids_;  ///< the context, then tokens whose text is to come
  std::size_t given_ = 0;          ///< how many the context is
};

}  // namespace v0
}  // namespace gptq
