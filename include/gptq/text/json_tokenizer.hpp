/// A tokenizer as Hugging Face's tokenizer.json describes it: text to ids and back.
///
///   text ─► added tokens cut out ─► normalizer ─► added tokens again ─► pre-tokenizer ─► BPE ─► post-processor ─► ids
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/io/json.hpp>
#include <gptq/text/added_tokens.hpp>
#include <gptq/text/bpe.hpp>
#include <gptq/text/decoder.hpp>
#include <gptq/text/encode_report.hpp>
#include <gptq/text/normalizer.hpp>
#include <gptq/text/part.hpp>
#include <gptq/text/post_processor.hpp>
#include <gptq/text/pre_tokenizer.hpp>
#include <gptq/text/utf8.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// Movable. Several threads may use it at once: one of them has the memory of words met before, the others do without.
class json_tokenizer {
 public:
  /// `name` stands for the file in messages. Throws format_error naming it and, where one is not known, the part and its
  /// type.
  json_tokenizer(json const& document, std::string const& name) : json_tokenizer(part(document, name)) {}

  /// The ids of a text. Bytes that are no UTF-8 count as U+FFFD; what else did not go smoothly is added to `report`.
  /// `add_special_tokens`: with what the tokenizer's template puts around a text (BOS, EOS).
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view utf8, bool add_special_tokens = false,
                                                 encode_report* report = nullptr) const {
    std::unique_lock const lock(shared_->mutex, std::try_to_lock);
    std::optional<bpe_workspace> own;
    bpe_workspace& work = lock ? shared_->workspace : own.emplace();

    encode_report seen;
    std::string storage;
    std::string_view const valid = utf8::repair(utf8, storage, &seen.replaced_sequences);
    std::vector<std::int32_t> ids;
    std::string piece;
    auto const on_token = [&](std::int32_t id) { ids.push_back(id); };
    auto const on_word = [&](std::string_view word) { seen.lost_characters += model_.encode(word, ids, work); };
    added_.cut(
        valid, false,
        [&](std::size_t begin, std::size_t end) {
          piece.assign(valid, begin, end - begin);
          normalizer_.apply(piece);
          added_.cut(
              piece, true,
              [&](std::size_t b, std::size_t e) {
                pre_tokenizer_.run(std::string_view(piece).substr(b, e - b), begin == 0 && b == 0, on_word);
              },
              on_token);
        },
        on_token);
    if (add_special_tokens) post_processor_.apply(ids);
    if (report) *report += seen;
    return ids;
  }

  /// The text of ids, special tokens too unless told otherwise. Throws format_error for an id that is no token.
  [[nodiscard]] std::string decode(std::span<std::int32_t const> ids, bool skip_special_tokens = false) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (std::int32_t const id : ids) {
      added_token const* const added = added_.find(id);
      if (added && added->special && skip_special_tokens) continue;
      auto const token = id_to_token(id);
      if (!token) throw format_error(name_ + ": id " + std::to_string(id) + " is no token of it");
      tokens.emplace_back(*token);
    }
    return decoder_.run(std::move(tokens));
  }

  /// One more than the largest id: the embedding rows that a model must have at least.
  [[nodiscard]] index_t vocabulary_size() const {
    index_t end = model_.tokens().end();
    for (auto const& t : added_.tokens()) end = (std::max)(end, index_t{t.id} + 1);
    return end;
  }

  [[nodiscard]] std::optional<std::int32_t> token_to_id(std::string_view token) const {
    if (auto const* const added = added_.find(token)) return added->id;
    return model_.tokens().id(token);
  }

  /// The token as the file spells it.
  [[nodiscard]] std::optional<std::string_view> id_to_token(std::int32_t id) const {
    if (auto const* const added = added_.find(id)) return added->content;
    auto const* const token = model_.tokens().token(id);
    return token ? std::optional<std::string_view>(*token) : std::nullopt;
  }

  /// What encode puts before a text when asked to add special tokens: BOS, usually, or nothing.
  [[nodiscard]] std::vector<std::int32_t> const& prefix() const { return post_processor_.prefix(); }

 private:
  struct shared_state {
    std::mutex mutex;
    bpe_workspace workspace;
  };

  explicit json_tokenizer(part const& p)
      : name_(p.where()),
        normalizer_(p.child("normalizer")),
        pre_tokenizer_(p.child("pre_tokenizer")),
        model_(p.child("model")),
        added_(p.child("added_tokens"), model_.tokens(), normalizer_),
        post_processor_(p.child("post_processor")),
        decoder_(p.child("decoder")) {
    for (auto const* const ids : {&post_processor_.prefix(), &post_processor_.suffix()})
      for (std::int32_t const id : *ids)
        if (!id_to_token(id)) p.child("post_processor").refuse("id " + std::to_string(id) + " is no token");
  }

  std::string name_;
  normalizer normalizer_;
  pre_tokenizer pre_tokenizer_;
  bpe model_;
  added_tokens added_;
  post_processor post_processor_;
  decoder decoder_;
  std::unique_ptr<shared_state> shared_ = std::make_unique<shared_state>();
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
