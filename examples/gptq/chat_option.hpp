/// The option --chat-format, and what it stands for with a model.
#pragma once

#include "app.hpp"

#include <gptq/core/error.hpp>
#include <gptq/text/chat_format.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <filesystem>
#include <string>
#include <string_view>

namespace app {

/// `name` is a string, or an optional one.
template <class Name>
CLI::Option* add_chat_format(CLI::App& command, Name& name) {
  return command
      .add_option(
          "--chat-format", name,
          "How chats become text: chatml, qwen2, qwen2.5, qwen3, llama3, llama3.1, llama2, mistral, mistral-v3, "
          "mistral-nemo, telechat2, phi3, gemma; default: as the model's template says")
      ->check(CLI::IsMember({"chatml", "qwen2", "qwen2.5", "qwen3", "llama3", "llama3.1", "llama2", "mistral",
                             "mistral-v3", "mistral-nemo", "telechat2", "phi3", "gemma"}))
      ->type_name("NAME");
}

/// The format of that name, or that of the folder; its markers must be tokens.
template <class Tokenizer>
gptq::chat_format conversation_format(std::string const& name, std::filesystem::path const& model,
                                      Tokenizer const& encoder) {
  auto const named = gptq::find_chat_format(name);
  gptq::chat_format const format = named ? *named : gptq::read_chat_format(model);
  for (std::string const& marker : gptq::chat_markers(format.kind))
    if (!encoder.token_to_id(marker))
      throw gptq::format_error(
          fmt::format("{}: the tokenizer has no token {}, which chat format {} needs; choose one "
                      "with --chat-format",
                      model.string(), marker, to_string(format)));
  return format;
}

}  // namespace app
