// Reads a model folder, if one is named.
#include <gptq/io/reader.hpp>

int main(int count, char** arguments) {
  if (count < 2) return 0;
  gptq::checkpoint_reader const reader{arguments[1]};
  return reader.contains("model.embed_tokens.weight") && !reader.names().empty() ? 0 : 1;
}
