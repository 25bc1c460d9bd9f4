/// The text that a served model sees of a conversation. The formats are those of the models' own templates; which of
/// them a folder's template is, is read off its markers.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/io/json.hpp>
#include <gptq/text/text_file.hpp>
#include <gptq/text/utf8.hpp>

#include <array>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Who speaks.
enum class chat_role : unsigned char { system, user, assistant };

/// What one speaker says, without any marker.
struct chat_turn {
  chat_role role = chat_role::user;
  std::string content;
};
/// Turns in their order; a system turn, if there is one, comes first.
using conversation = std::vector<chat_turn>;

/// The ways in which turns become text: markers, line breaks, where a system turn goes.
enum class chat_kind : unsigned char {
  chatml,
  qwen3,
  llama3,
  llama3_1,
  llama2,
  mistral,
  mistral_v3,
  mistral_nemo,
  telechat2,
  phi3,
  gemma
};

/// A format and its one free part.
struct chat_format {
  chat_kind kind = chat_kind::chatml;
  std::string default_system;  ///< the system turn where a conversation has none; empty: no turn
};

namespace detail {

inline constexpr char const* telechat2_system =
    "你是中国电信星辰语义大模型，英文名是TeleChat，你是由中电信人工智能科技有限公司和中国电信人工智能研究院（TeleAI）"
    "研发的人工智能助手。";

struct named_chat_format {
  char const* name;
  chat_kind kind;
  char const* default_system;
};

inline constexpr std::array<named_chat_format, 13> chat_formats = {{
    {"chatml", chat_kind::chatml, ""},
    {"qwen2", chat_kind::chatml, "You are a helpful assistant."},
    {"qwen2.5", chat_kind::chatml, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {"qwen3", chat_kind::qwen3, ""},
    {"llama3", chat_kind::llama3, ""},
    {"llama3.1", chat_kind::llama3_1, ""},
    {"llama2", chat_kind::llama2, ""},
    {"mistral", chat_kind::mistral, ""},
    {"mistral-v3", chat_kind::mistral_v3, ""},
    {"mistral-nemo", chat_kind::mistral_nemo, ""},
    {"telechat2", chat_kind::telechat2, telechat2_system},
    {"phi3", chat_kind::phi3, ""},
    {"gemma", chat_kind::gemma, ""},
}};

}  // namespace detail

/// "chatml, qwen2, …"
inline std::string chat_format_names() {
  std::string text;
  for (auto const& f : detail::chat_formats) text += (text.empty() ? "" : ", ") + std::string(f.name);
  return text;
}

/// The format of that name, as chat_format_names() lists them; nothing for another name.
inline std::optional<chat_format> find_chat_format(std::string_view name) {
  for (auto const& f : detail::chat_formats)
    if (name == f.name) return chat_format{f.kind, f.default_system};
  return std::nullopt;
}

/// The name of the format nearest to it.
inline std::string to_string(chat_format const& format) {
  char const* name = "";
  for (auto const& f : detail::chat_formats) {
    if (f.kind != format.kind) continue;
    if (!*name || format.default_system == f.default_system) name = f.name;
  }
  return name;
}

/// The tokens that a tokenizer must have for the format to mean anything.
inline std::vector<std::string> chat_markers(chat_kind kind) {
  switch (kind) {
    case chat_kind::chatml:
    case chat_kind::qwen3: return {"<|im_start|>", "<|im_end|>"};
    case chat_kind::llama3:
    case chat_kind::llama3_1: return {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
    case chat_kind::llama2:
    case chat_kind::mistral: return {"<s>", "</s>"};
    case chat_kind::mistral_v3:
    case chat_kind::mistral_nemo: return {"<s>", "</s>", "[INST]", "[/INST]"};
    case chat_kind::telechat2: return {"<_user>", "<_bot>", "<_system>", "<_end>"};
    case chat_kind::phi3: return {"<|user|>", "<|assistant|>", "<|end|>"};
    default: return {"<bos>", "<start_of_turn>", "<end_of_turn>"};
  }
}

namespace detail {

/// The text of a conversation piece by piece.
class chat_writer {
 public:
  chat_writer(chat_format const& format, conversation const& turns) : format_(format), turns_(turns) {
    if (!turns_.empty() && turns_.front().role == chat_role::system) {
      system_ = turns_.front().content;
      has_system_ = true;
      turns_.erase(turns_.begin());
    } else if (!format.default_system.empty()) {
      system_ = format.default_system;
      has_system_ = true;
    }
  }

  std::string run() {
    switch (format_.kind) {
      case chat_kind::chatml:
      case chat_kind::qwen3: chatml(); break;
      case chat_kind::llama3:
      case chat_kind::llama3_1: llama3(); break;
      case chat_kind::llama2: llama2(); break;
      case chat_kind::mistral:
      case chat_kind::mistral_v3:
      case chat_kind::mistral_nemo: mistral(); break;
      case chat_kind::telechat2: telechat2(); break;
      case chat_kind::phi3: phi3(); break;
      default: gemma();
    }
    return std::move(out_);
  }

 private:
  static std::string strip(std::string const& s) { return std::string(utf8::strip(s)); }
  static char const* role_name(chat_role r) {
    return r == chat_role::system ? "system" : r == chat_role::user ? "user" : "assistant";
  }

  void chatml() {
    auto const turn = [&](char const* role, std::string const& text) {
      out_ += "<|im_start|>" + std::string(role) + "\n" + text + "<|im_end|>\n";
    };
    if (has_system_) turn("system", system_);
    for (std::size_t i = 0; i < turns_.size(); ++i) {
      bool const last_answer = i + 1 == turns_.size() && turns_[i].role == chat_role::assistant;
      bool const think =
          format_.kind == chat_kind::qwen3 && last_answer && turns_[i].content.find("<think>") == std::string::npos;
      turn(role_name(turns_[i].role), (think ? "<think>\n\n</think>\n\n" : "") + turns_[i].content);
    }
  }

  void llama3() {
    auto const turn = [&](char const* role, std::string const& text) {
      out_ += "<|start_header_id|>" + std::string(role) + "<|end_header_id|>\n\n" + text + "<|eot_id|>";
    };
    out_ = "<|begin_of_text|>";
    if (format_.kind == chat_kind::llama3_1)
      turn("system", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" + strip(system_));
    else if (has_system_)
      turn("system", strip(system_));
    for (chat_turn const& t : turns_) turn(role_name(t.role), strip(t.content));
  }

  void llama2() {
    bool first = true;
    for (chat_turn const& t : turns_) {
      if (t.role == chat_role::assistant) {
        out_ += " " + strip(t.content) + " </s>";
        continue;
      }
      std::string const system = first && has_system_ ? "<<SYS>>\n" + system_ + "\n<</SYS>>\n\n" : "";
      out_ += "<s>[INST] " + strip(system + t.content) + " [/INST]";
      first = false;
    }
  }

  void mistral() {
    bool const nemo = format_.kind == chat_kind::mistral_nemo;
    char const* const close = format_.kind == chat_kind::mistral ? " [/INST]" : "[/INST]";
    std::size_t place = turns_.size();  // the user's turn that the system text goes before
    for (std::size_t i = 0; i < turns_.size(); ++i)
      if (turns_[i].role == chat_role::user && (format_.kind != chat_kind::mistral || place == turns_.size()))
        place = i;
    out_ = "<s>";
    for (std::size_t i = 0; i < turns_.size(); ++i) {
      if (turns_[i].role == chat_role::assistant) {
        out_ += (nemo ? "" : " ") + (nemo ? turns_[i].content : strip(turns_[i].content)) + "</s>";
        continue;
      }
      std::string const system = i == place && has_system_ ? system_ + "\n\n" : "";
      out_ += (nemo ? "[INST]" : "[INST] ") + system + turns_[i].content + close;
    }
  }

  void telechat2() {
    std::string system = system_;
    while (!system.empty() && (system.back() == '\n' || system.back() == '\r')) system.pop_back();
    out_ = "<_system>" + system + "\n";
    for (chat_turn const& t : turns_)
      out_ += t.role == chat_role::assistant ? "<_bot>" + t.content + "<_end>\n" : "<_user>" + t.content;
  }

  void phi3() {
    auto const turn = [&](char const* role, std::string const& text) {
      out_ += "<|" + std::string(role) + "|>\n" + text + "<|end|>\n";
    };
    if (has_system_) turn("system", system_);
    for (chat_turn const& t : turns_) turn(role_name(t.role), t.content);
  }

  /// There is no system role: its text goes before the first turn of the user.
  void gemma() {
    out_ = "<bos>";
    std::string system = has_system_ ? system_ + "\n\n" : "";
    for (chat_turn const& t : turns_) {
      bool const user = t.role == chat_role::user;
      out_ += "<start_of_turn>" + std::string(user ? "user" : "model") + "\n" +
              strip((user ? system : "") + t.content) + "<end_of_turn>\n";
      if (user) system.clear();
    }
  }

  chat_format const& format_;
  conversation turns_;
  std::string system_;
  bool has_system_ = false;
  std::string out_;
};

/// The text between the ChatML markers of a system turn that a template writes by itself.
inline std::string literal_system(std::string_view text) {
  for (std::string_view const start : {"<|im_start|>system\\n", "<|im_start|>system\n"})
    for (std::size_t at = text.find(start); at != std::string_view::npos; at = text.find(start, at + 1)) {
      std::string_view const rest = text.substr(at + start.size());
      std::string_view const content = rest.substr(0, rest.find("<|im_end|>"));
      if (content.size() < rest.size() && !content.empty() && content.find_first_of("'\"{}") == std::string_view::npos)
        return std::string(content);
    }
  return {};
}

}  // namespace detail

/// The text of a whole conversation, BOS included where the format has one.
inline std::string format_chat(chat_format const& format, conversation const& turns) {
  return detail::chat_writer(format, turns).run();
}

/// What a conversation that ends with the user's turn goes on with, so that an answer follows.
constexpr char const* answer_opening(chat_kind kind) {
  switch (kind) {
    case chat_kind::chatml:
    case chat_kind::qwen3: return "<|im_start|>assistant\n";
    case chat_kind::llama3:
    case chat_kind::llama3_1: return "<|start_header_id|>assistant<|end_header_id|>\n\n";
    case chat_kind::telechat2: return "<_bot>";
    case chat_kind::phi3: return "<|assistant|>\n";
    case chat_kind::gemma: return "<start_of_turn>model\n";
    default: return "";  // [/INST] is there
  }
}

/// The token that ends an answer.
constexpr char const* answer_end(chat_kind kind) {
  switch (kind) {
    case chat_kind::chatml:
    case chat_kind::qwen3: return "<|im_end|>";
    case chat_kind::llama3:
    case chat_kind::llama3_1: return "<|eot_id|>";
    case chat_kind::telechat2: return "<_end>";
    case chat_kind::phi3: return "<|end|>";
    case chat_kind::gemma: return "<end_of_turn>";
    default: return "</s>";
  }
}

/// The built-in format that a Jinja template stands for, if it is one of them.
inline std::optional<chat_format> recognise_template(std::string_view text) {
  auto const has = [&](std::string_view marker) { return text.find(marker) != std::string_view::npos; };
  if (has("<|im_start|>"))
    return has("<|im_end|>") && !has("<|im_sep|>")
               ? std::optional(
                     chat_format{has("<think>") ? chat_kind::qwen3 : chat_kind::chatml, detail::literal_system(text)})
               : std::nullopt;
  if (has("<|start_header_id|>") && has("<|eot_id|>"))
    return find_chat_format(has("Cutting Knowledge Date") ? "llama3.1" : "llama3");
  if (has("<start_of_turn>")) return find_chat_format("gemma");
  if (has("<_user>") && has("<_bot>")) return find_chat_format("telechat2");
  if (has("<|user|>\\n") && has("<|end|>\\n")) return find_chat_format("phi3");
  if (has("<<SYS>>")) return find_chat_format("llama2");
  if (has("[INST]") && has("[/INST]")) {
    if (has(" [/INST]")) return find_chat_format("mistral");
    return find_chat_format(has("[INST] ") ? "mistral-v3" : "mistral-nemo");
  }
  return std::nullopt;
}

/// The chat format of a model folder: what its template stands for (chat_template.jinja, or chat_template of
/// tokenizer_config.json), or TeleChat2's for that family. Throws format_error naming the template that is none of the
/// built-in formats, or the folder that has none.
inline chat_format read_chat_format(std::filesystem::path const& folder) {
  std::filesystem::path place = folder / "chat_template.jinja";
  std::string text;
  std::error_code none;
  if (std::filesystem::exists(place, none)) {
    text = read_text(place);
  } else if (std::filesystem::exists(folder / "tokenizer_config.json", none)) {
    place = folder / "tokenizer_config.json";
    json const config = read_json(place);
    json found = config.is_object() && config.contains("chat_template") ? config.at("chat_template") : json();
    if (found.is_array()) {
      json chosen;
      for (json const& entry : found)
        if (entry.is_object() && entry.contains("template") &&
            (chosen.is_null() || entry.value("name", "") == "default"))
          chosen = entry.at("template");
      found = std::move(chosen);
    }
    if (found.is_string()) text = found.get<std::string>();
  }
  if (!text.empty()) {
    if (auto const format = recognise_template(text)) return *format;
    throw format_error(place.string() + ": the chat template \"" + detail::printable(text, 60) +
                           "\" is none of the built-in formats; say which to use (" + chat_format_names() + ")",
                       remedy::chat_format);
  }
  json const config =
      std::filesystem::exists(folder / "config.json", none) ? read_json(folder / "config.json") : json();
  if (config.is_object() && config.contains("model_type") && config.at("model_type") == "telechat")
    return *find_chat_format("telechat2");
  throw format_error(folder.string() + ": no chat template; say which format to use (" + chat_format_names() + ")",
                     remedy::chat_format);
}

}  // namespace v0
}  // namespace gptq
