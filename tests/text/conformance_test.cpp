// Whole tokenizers against ids from elsewhere: shared/tokenizers (made with the original tokenizers) and the token ids in
// the golden files of the trained models.
#include "text/conformance.hpp"
#include "support/catch.hpp"
#include "support/shared.hpp"

#include <gptq/io/safetensors.hpp>
#include <gptq/text/text_file.hpp>
#include <gptq/text/tokenizer.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace {

using ids = std::vector<std::int32_t>;

/// Row `r` of input_ids in a golden file.
ids golden_row(std::filesystem::path const& folder, gptq::index_t r) {
  gptq::safetensors_file const file(folder / "golden.safetensors");
  for (gptq::tensor_view const& t : file.tensors()) {
    if (t.name != "input_ids") continue;
    ids row;
    for (gptq::index_t i = 0; i < t.shape.at(1); ++i)
      row.push_back(gptq::load<std::int32_t>(t.bytes.data(), r * t.shape.at(1) + i));
    return row;
  }
  return {};
}

ids part_of(ids const& all, std::size_t first, std::size_t count) {
  REQUIRE(all.size() >= first + count);
  auto const begin = all.begin() + static_cast<std::ptrdiff_t>(first);
  return ids(begin, begin + static_cast<std::ptrdiff_t>(count));
}

}  // namespace

TEST_CASE("the conformance cases of published tokenizers") {
  std::string const name = GENERATE(as<std::string>(), "qwen2", "llama3", "gpt2", "llama2");
  std::filesystem::path const relative = std::filesystem::path("tokenizers") / name;
  GPTQ_REQUIRE_SHARED(relative);
  auto const folder = test::shared_dir() / relative;
  gptq::tokenizer const tokenizer = gptq::tokenizer::from_file(folder);
  auto const cases = test::conformance_cases(folder);
  REQUIRE(cases.size() == 46);
  for (auto const& [text, expected] : cases) {
    INFO(name << ": " << text);
    CHECK(tokenizer.encode(text) == expected);
    std::string back = tokenizer.decode(expected);
    if (name == "llama2" && !text.empty()) back.insert(0, 0, ' ');
    CHECK(back == text);
  }
}

TEST_CASE("tokenizers that add BOS say so in their template") {
  GPTQ_REQUIRE_SHARED("tokenizers");
  auto const prefix = [](char const* name) {
    return gptq::tokenizer::from_file(test::shared_dir() / "tokenizers" / name).prefix();
  };
  CHECK(prefix("llama3") == ids{128000});
  CHECK(prefix("llama2") == ids{1});
  CHECK(prefix("gpt2").empty());
  CHECK(prefix("qwen2").empty());
}

TEST_CASE("the first ids of the golden files") {
  struct golden {
    char const* model;
    char const* text;
    std::size_t tokens;
    bool bos;
  };
  auto const g = GENERATE(values<golden>({
      {"bard-qwen2-1m", "models/bard-qwen2-1m/heldout_shakespeare.txt", 21'917, false},
      {"web-qwen2-22m", "text/wikitext2_raw_test.txt", 393'823, false},
      {"web-qwen3-8m", "text/wikitext2_raw_test.txt", 393'823, false},
      {"web-telechat2-9m", "text/wikitext2_raw_test.txt", 393'823, false},
      {"tinystories-656k-llama", "text/tinystories_train_head_2MiB.txt", 523'425, true},
  }));
  std::filesystem::path const relative = std::filesystem::path("models") / g.model;
  GPTQ_REQUIRE_SHARED(relative);
  GPTQ_REQUIRE_SHARED(g.text);
  auto const folder = test::shared_dir() / relative;
  gptq::tokenizer const tokenizer = gptq::tokenizer::from_file(folder);
  std::string const text = gptq::read_text(test::shared_dir() / g.text);
  ids const all = tokenizer.encode(text);
  CHECK(all.size() == g.tokens);
  CHECK(golden_row(folder, 0) == part_of(tokenizer.encode(text, true), 0, 96));
  CHECK(golden_row(folder, 1) == part_of(all, 5000, 96));
  CHECK(tokenizer.encode(text, true).size() == all.size() + (g.bos ? 1 : 0));
}

TEST_CASE("special tokens inside text, with every tokenizer") {
  GPTQ_REQUIRE_SHARED("tokenizers");
  auto const encode = [](char const* name, std::string const& text) {
    return gptq::tokenizer::from_file(test::shared_dir() / "tokenizers" / name).encode(text);
  };
  CHECK(encode("qwen2", "<|im_start|>user\nHello<|im_end|>\n") == ids{151644, 872, 198, 9707, 151645, 198});
  CHECK(encode("llama3", "<|begin_of_text|>Hello<|eot_id|>") == ids{128000, 9906, 128009});
  CHECK(encode("gpt2", "Hello<|endoftext|>Hello") == ids{15496, 50256, 15496});
  CHECK(encode("llama2", "<s>Hello</s>Hello") == ids{1, 15043, 2, 15043});
}
