/// gptq tokenize: a text file as token ids.
#include "app.hpp"
#include "text_input.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <string>

namespace app {
namespace {

struct tokenize_arguments {
  std::string tokenizer, text;
  bool add_special = false;
  bool json = false;
};

int tokenize(tokenize_arguments const& a) {
  auto const ids = encode_file("--text", a.text, a.tokenizer, a.add_special);
  if (a.json)
    fmt::print("{{\"ids\": [{}]}}\n", fmt::join(ids, ", "));
  else
    fmt::print("{}\n", fmt::join(ids, " "));
  return success;
}

}  // namespace

void add_tokenize(CLI::App& root, action& run) {
  auto const a = std::make_shared<tokenize_arguments>();
  CLI::App* const command = root.add_subcommand("tokenize", "Token ids of a text file, read as a whole");
  command->add_option("tokenizer", a->tokenizer, "tokenizer.json or tokenizer.model, or a folder that holds one")
      ->required()
      ->type_name("");
  command->add_option("--text", a->text, "Text file")->required()->type_name("FILE");
  command->add_flag("--add-special", a->add_special, "With the BOS and EOS that the tokenizer's template says");
  command->add_flag("--json", a->json, "Print {\"ids\": [...]}");
  command->callback([a, &run] { run = [a] { return tokenize(*a); }; });
}

}  // namespace app
