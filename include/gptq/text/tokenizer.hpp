/// The tokenizer of a model folder: text to ids and back. It is read from tokenizer.json, else from tokenizer.model.
///
///   auto const t = gptq::tokenizer::from_file(folder);
///   std::string const text = t.decode(t.encode("To be, or not to be", true));
///
///   text ─► added tokens cut out ─► normalizer ─► added tokens again ─► pre-tokenizer ─► BPE ─► post-processor ─► ids
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/io/json.hpp>
#include <gptq/text/encode_report.hpp>
#include <gptq/text/json_tokenizer.hpp>
#include <gptq/text/sentencepiece.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace gptq {
inline namespace v0 {

/// One tokenizer; movable. Several threads may use it at once.
class tokenizer {
 public:
  /// Reads a tokenizer.json or a SentencePiece tokenizer.model, or the one in a folder; tokenizer.json where both are.
  /// Throws format_error naming the file and, where one is not known, the part and its type.
  static tokenizer from_file(std::filesystem::path file) {
    if (std::filesystem::is_directory(file)) {
      auto const folder = file;
      file /= "tokenizer.json";
      if (!std::filesystem::exists(file) && std::filesystem::exists(folder / "tokenizer.model"))
        file = folder / "tokenizer.model";
    }
    if (file.extension() == ".model") return tokenizer(text::sentencepiece_tokenizer(file));
    return tokenizer(read_json(file), file.string());
  }

  /// The same from a document; `name` stands for the file in messages.
  tokenizer(json const& document, std::string const& name) : engine_(text::json_tokenizer(document, name)) {}

  /// The ids of a text. Bytes that are no UTF-8 count as U+FFFD; what else did not go smoothly is added to `report`.
  /// `add_special_tokens`: with what the tokenizer's template puts around a text (BOS, EOS).
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view utf8, bool add_special_tokens = false,
                                                 encode_report* report = nullptr) const {
    return std::visit([&](auto const& t) { return t.encode(utf8, add_special_tokens, report); }, engine_);
  }

  /// The text of ids, special tokens too unless told otherwise. Throws format_error for an id that is no token.
  [[nodiscard]] std::string decode(std::span<std::int32_t const> ids, bool skip_special_tokens = false) const {
    return std::visit([&](auto const& t) { return t.decode(ids, skip_special_tokens); }, engine_);
  }

  /// One more than the largest id: the embedding rows that a model must have at least.
  [[nodiscard]] index_t vocabulary_size() const {
    return std::visit([](auto const& t) { return t.vocabulary_size(); }, engine_);
  }

  /// The id of a token as the file spells it; nothing for what is no token.
  [[nodiscard]] std::optional<std::int32_t> token_to_id(std::string_view token) const {
    return std::visit([&](auto const& t) { return t.token_to_id(token); }, engine_);
  }

  /// The token as the file spells it.
  [[nodiscard]] std::optional<std::string_view> id_to_token(std::int32_t id) const {
    return std::visit([&](auto const& t) { return t.id_to_token(id); }, engine_);
  }

  /// What encode puts before a text when asked to add special tokens: BOS, usually, or nothing.
  [[nodiscard]] std::vector<std::int32_t> const& prefix() const {
    return std::visit(
        [](auto const& t) -> auto const& { return t.prefix(); }, engine_);
  }

 private:
  explicit tokenizer(text::sentencepiece_tokenizer&& t) : engine_(std::move(t)) {}

  std::variant<text::json_tokenizer, text::sentencepiece_tokenizer> engine_;
};

}  // namespace v0
}  // namespace gptq
