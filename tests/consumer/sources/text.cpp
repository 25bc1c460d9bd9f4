// Reads the tokenizer of a model folder, if one is named.
#include <gptq/text/tokenizer.hpp>

#include <filesystem>

int main(int count, char** arguments) {
  if (count < 2) return 0;
  auto const tokenizer = gptq::tokenizer::from_file(std::filesystem::path(arguments[1]) / "tokenizer.json");
  auto const ids = tokenizer.encode("To be, or not to be");
  return tokenizer.decode(ids) == "To be, or not to be" ? 0 : 1;
}
