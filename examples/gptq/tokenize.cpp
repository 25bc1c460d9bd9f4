/// gptq tokenize: a text file as token ids.
#include "app.hpp"
#include "console.hpp"
#include "text_input.hpp"

#include <gptq/checkpoint/json.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <iterator>
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
#if GPTQ_WITH_TEXT
  gptq::tokenizer const tokenizer = open_tokenizer(a.tokenizer);
  require_text_file("--text", a.text, true);
  gptq::encode_report report;
  auto const ids = tokenizer.encode(gptq::read_text(a.text), a.add_special, &report);
  for (auto const& note : encoding_notes(a.text, report)) warn(note);
  std::string line;
  for (std::int32_t const id : ids) {
    if (!line.empty()) line += a.json ? ", " : " ";
    fmt::format_to(std::back_inserter(line), "{}", id);
  }
  if (a.json)
    fmt::print("{{\"ids\": [{}]}}\n", line);
  else
    fmt::print("{}\n", line);
  return success;
#else
  static_cast<void>(a);
  refuse_text("tokenize");
#endif
}

}  // namespace

void add_tokenize(CLI::App& root, action& run) {
  auto const a = std::make_shared<tokenize_arguments>();
  CLI::App* const command = root.add_subcommand("tokenize", "Token ids of a text file, read as a whole");
  command->add_option("tokenizer", a->tokenizer, "tokenizer.json, or a folder that holds one")
      ->required()
      ->type_name("");
  command->add_option("--text", a->text, "Text file")->required()->type_name("FILE");
  command->add_flag("--add-special", a->add_special, "With the BOS and EOS that the tokenizer's template says");
  command->add_flag("--json", a->json, "Print {\"ids\": [...]}");
  command->callback([a, &run] { run = [a] { return tokenize(*a); }; });
}

}  // namespace app
