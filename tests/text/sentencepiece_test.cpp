#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"
#include "text/conformance.hpp"

#include <gptq/text/text_file.hpp>
#include <gptq/text/tokenizer.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#if GPTQ_WITH_SENTENCEPIECE

namespace {

using ids = std::vector<std::int32_t>;

std::filesystem::path model() { return test::shared_dir() / "tokenizers/sentencepiece-bpe/tokenizer.model"; }

/// A folder with the model and a tokenizer_config.json.
std::filesystem::path folder_with(test::temp_dir const& dir, std::string const& config) {
  dir.write("m/tokenizer.model", gptq::read_text(model()));
  dir.write("m/tokenizer_config.json", config);
  return dir / "m";
}

}  // namespace

TEST_CASE("sentencepiece: the conformance cases") {
  GPTQ_REQUIRE_SHARED("tokenizers/sentencepiece-bpe");
  auto const tokenizer = gptq::tokenizer::from_file(model().parent_path());
  auto const cases = test::conformance_cases(model().parent_path());
  REQUIRE(cases.size() == 52);
  std::size_t total = 0;
  for (auto const& c : cases) {
    INFO(c.text);
    CHECK(tokenizer.encode(c.text) == c.expected);
    total += c.expected.size();
  }
  CHECK(total == 1017);
  CHECK(tokenizer.vocabulary_size() == 6000);
}

TEST_CASE("sentencepiece: a text comes back") {
  GPTQ_REQUIRE_SHARED("tokenizers/sentencepiece-bpe");
  auto const tokenizer = gptq::tokenizer::from_file(model());
  std::string const text = "<_user>Hello, 世界 \n 3 < 4<_bot>ok<_end>";
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  CHECK_THROWS_AS(tokenizer.decode(ids{6000}), gptq::format_error);
  CHECK_THROWS_AS(tokenizer.decode(ids{-1}), gptq::format_error);
}

TEST_CASE("sentencepiece: names of tokens") {
  GPTQ_REQUIRE_SHARED("tokenizers/sentencepiece-bpe");
  auto const tokenizer = gptq::tokenizer::from_file(model());
  auto const user = tokenizer.token_to_id("<_user>");
  REQUIRE(user);
  CHECK(tokenizer.id_to_token(*user) == "<_user>");
  CHECK(tokenizer.encode("<_user>").back() == *user);
  CHECK_FALSE(tokenizer.token_to_id("no such token"));
  CHECK_FALSE(tokenizer.id_to_token(6000));
}

TEST_CASE("sentencepiece: BOS and EOS as tokenizer_config.json says, BOS where it says nothing") {
  GPTQ_REQUIRE_SHARED("tokenizers/sentencepiece-bpe");
  test::temp_dir const dir;
  auto const bare = gptq::tokenizer::from_file(model());
  auto const plain = bare.encode("one");
  bool const has_bos = !bare.prefix().empty();
  CHECK(bare.encode("one", true).size() == plain.size() + (has_bos ? 1 : 0));
  auto const without = gptq::tokenizer::from_file(folder_with(dir, R"({"add_bos_token": false})"));
  CHECK(without.prefix().empty());
  CHECK(without.encode("one", true) == plain);
}

TEST_CASE("sentencepiece: tokenizer.json wins where both are") {
  GPTQ_REQUIRE_SHARED("tokenizers/sentencepiece-bpe");
  test::temp_dir const dir;
  auto const folder = folder_with(dir, "{}");
  dir.write("m/tokenizer.json", gptq::read_text(test::bundled_model() / "tokenizer.json"));
  CHECK(gptq::tokenizer::from_file(folder).vocabulary_size() == 1024);
}

TEST_CASE("sentencepiece: what is no model, and tokens that a model lacks, are refused") {
  test::temp_dir const dir;
  std::string const bytes = GENERATE(std::string(), std::string("not a model"), std::string(200, '\x0a'));
  dir.write("tokenizer.model", bytes);
  CHECK_THROWS_WITH(gptq::tokenizer::from_file(dir / "tokenizer.model"),
                    test::contains("tokenizer.model") && test::contains("not a SentencePiece model"));
  GPTQ_REQUIRE_SHARED("tokenizers/sentencepiece-bpe");
  auto const folder = folder_with(dir, R"({"added_tokens_decoder": {"7000": {"content": "<tool>"}}})");
  CHECK_THROWS_WITH(gptq::tokenizer::from_file(folder), test::contains("<tool>") && test::contains("tokenizer.json"));
}

#else

TEST_CASE("sentencepiece: without the library one error says what is missing") {
  test::temp_dir const dir;
  dir.write("tokenizer.model", "x");
  CHECK_THROWS_WITH(gptq::tokenizer::from_file(dir / "tokenizer.model"),
                    test::contains("libsentencepiece-dev") && test::contains("tokenizer.json"));
}

#endif
