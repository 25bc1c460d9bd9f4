/// The prompt of generate, and the text of what follows it.
#pragma once

#include <gptq/core/matrix.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace app {

struct prompt_request {
  std::string text, file;         ///< one of these
  std::vector<std::int32_t> ids;  ///< or these, and no tokenizer
  bool chat = false;              ///< the text is a user's turn
  std::string chat_format;        ///< empty: what the template in the model folder stands for
};

struct prompt {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> stop_ids;
  std::function<std::string(std::int32_t)>
      next;                             ///< the text that a new token completes; ids as numbers without a text
  std::function<std::string()> finish;  ///< the text that was held back
};

/// Throws usage_error for options that make no sense together and format_error for what can't be read or encoded.
prompt read_prompt(prompt_request const& request, std::filesystem::path const& model, gptq::index_t vocabulary);

}  // namespace app
