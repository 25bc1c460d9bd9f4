/// A SentencePiece model (tokenizer.model) through the sentencepiece library, where the program is built with it.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/io/json.hpp>
#include <gptq/text/encode_report.hpp>
#include <gptq/text/utf8.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#if GPTQ_WITH_SENTENCEPIECE
#include <gptq/text/text_file.hpp>

#include <sentencepiece_processor.h>
#endif

namespace gptq {
inline namespace v0 {
namespace text {

/// What tokenizer_config.json beside a tokenizer.model says. Without the file or the keys it is as Llama's: BOS before a
/// text, nothing behind it.
struct sentencepiece_settings {
  bool add_bos = true;
  bool add_eos = false;
  std::vector<std::string> added;  ///< tokens that are to be cut out of text first

  static sentencepiece_settings read(std::filesystem::path const& folder) {
    sentencepiece_settings s;
    std::filesystem::path const file = folder / "tokenizer_config.json";
    if (std::filesystem::exists(file)) {
      json const config = read_json(file);
      if (!config.is_object()) throw format_error(file.string() + ": not a JSON object");
      s.add_bos = value_or(config, "add_bos_token", s.add_bos, file.string());
      s.add_eos = value_or(config, "add_eos_token", s.add_eos, file.string());
      if (auto const at = config.find("added_tokens_decoder"); at != config.end() && at->is_object())
        for (json const& token : *at) s.added.push_back(value_of<std::string>(token, "content", file.string()));
    }
    return s;
  }
};

/// Has the interface of json_tokenizer. The library encodes by itself, so its rules hold: control symbols inside text
/// are text, user-defined ones are tokens.
class sentencepiece_tokenizer {
 public:
#if GPTQ_WITH_SENTENCEPIECE
  /// Throws format_error naming a file that is no such model, or tokens of tokenizer_config.json that it lacks.
  explicit sentencepiece_tokenizer(std::filesystem::path const& file)
      : name_(file.string()), model_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
    std::string const bytes = read_text(file);
    if (bytes.empty() || !model_->LoadFromSerializedProto(bytes).ok())
      throw format_error(name_ + ": not a SentencePiece model");
    auto const settings = sentencepiece_settings::read(file.parent_path());
    for (std::string const& token : settings.added)
      if (!token_to_id(token))
        throw format_error(name_ + ": tokenizer_config.json adds \"" + gptq::detail::printable(token, 60) +
                           "\", which the model lacks; a tokenizer.json is needed");
    if (settings.add_bos && model_->bos_id() >= 0) prefix_.push_back(model_->bos_id());
    if (settings.add_eos && model_->eos_id() >= 0) suffix_.push_back(model_->eos_id());
  }

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view utf8, bool add_special_tokens = false,
                                                 encode_report* report = nullptr) const {
    encode_report seen;
    std::string storage;
    std::vector<int> pieces;
    auto const status = model_->Encode(utf8::repair(utf8, storage, &seen.replaced_sequences), &pieces);
    if (!status.ok()) throw format_error(name_ + ": " + status.ToString());
    std::vector<std::int32_t> ids;
    if (add_special_tokens) ids = prefix_;
    for (int const id : pieces) {
      seen.lost_characters += model_->IsUnknown(id);
      ids.push_back(id);
    }
    if (add_special_tokens) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
    if (report) *report += seen;
    return ids;
  }

  [[nodiscard]] std::string decode(std::span<std::int32_t const> ids, bool skip_special_tokens = false) const {
    std::string text;
    std::vector<int> run;
    auto const flush = [&] {
      std::string part;
      auto const status = model_->Decode(run, &part);
      if (!status.ok()) throw format_error(name_ + ": " + status.ToString());
      text += part;
      run.clear();
    };
    for (std::int32_t const id : ids) {
      auto const token = id_to_token(id);
      if (!token) throw format_error(name_ + ": id " + std::to_string(id) + " is no token of it");
      if (!model_->IsControl(id)) {
        run.push_back(id);
        continue;
      }
      flush();  // the library drops control symbols
      if (!skip_special_tokens) text += *token;
    }
    flush();
    return text;
  }

  [[nodiscard]] index_t vocabulary_size() const { return model_->GetPieceSize(); }

  [[nodiscard]] std::optional<std::int32_t> token_to_id(std::string_view token) const {
    int const id = model_->PieceToId(token);
    return id_to_token(id) == token ? std::optional<std::int32_t>(id) : std::nullopt;
  }
  [[nodiscard]] std::optional<std::string_view> id_to_token(std::int32_t id) const {
    if (id < 0 || id >= model_->GetPieceSize()) return std::nullopt;
    return model_->IdToPiece(id);
  }
  [[nodiscard]] std::vector<std::int32_t> const& prefix() const { return prefix_; }

 private:
  std::string name_;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> model_;
  std::vector<std::int32_t> prefix_;
  std::vector<std::int32_t> suffix_;
#else
  explicit sentencepiece_tokenizer(std::filesystem::path const& file) {
    throw format_error(file.string() +
                       ": a SentencePiece model; this program was built without the sentencepiece library "
                       "(libsentencepiece-dev), so a tokenizer.json is needed");
  }
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view, bool = false, encode_report* = nullptr) const {
    return {};
  }
  [[nodiscard]] std::string decode(std::span<std::int32_t const>, bool = false) const { return {}; }
  [[nodiscard]] index_t vocabulary_size() const { return 0; }
  [[nodiscard]] std::optional<std::int32_t> token_to_id(std::string_view) const { return std::nullopt; }
  [[nodiscard]] std::optional<std::string_view> id_to_token(std::int32_t) const { return std::nullopt; }
  [[nodiscard]] std::vector<std::int32_t> const& prefix() const { return prefix_; }

 private:
  std::vector<std::int32_t> prefix_;
#endif
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
