#include "support/catch.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/decoder.hpp>

#include <string>
#include <vector>

namespace {
std::string decoded(std::string const& definition, std::vector<std::string> tokens) {
  auto const document = test::json(definition);
  return gptq::text::decoder(gptq::text::part(document, "t.json: decoder")).run(std::move(tokens));
}
std::string sequence(std::string const& members) { return R"({"type": "Sequence", "decoders": [)" + members + "]}"; }
}  // namespace

TEST_CASE("without a decoder tokens are joined with spaces") { CHECK(decoded("null", {"a", "b"}) == "a b"); }

TEST_CASE("ByteLevel puts bytes together across tokens") {
  std::string const d = R"({"type": "ByteLevel"})";
  CHECK(decoded(d, {"\u0120a", "\u00c3", "\u00a9"}) == " a\u00e9");
  CHECK(decoded(d, {"\u00c3", "a"}) == "\uFFFDa");           // half a character
  CHECK(decoded(d, {"<\u8a9e>", "\u0120"}) == "<\u8a9e> ");  // an added token is no spelling of bytes
}

TEST_CASE("the decoder of Llama 2") {
  std::string const d = sequence(R"({"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})");
  CHECK(decoded(d, {"▁▁a", "<0xE8>", "<0xAA>", "<0x9E>", "▁b"}) == " a\u8a9e b");
  CHECK(decoded(d, {"<0xE8>", "<0xAA>", "a"}) == "\uFFFD\uFFFDa");  // one for each byte
  CHECK(decoded(d, {"<0xZZ>", "<0x0>", "<0x41>"}) == "<0xZZ><0x0>A");
}

TEST_CASE("Metaspace drops the marks of the first token where they were prepended") {
  CHECK(decoded(R"({"type": "Metaspace", "replacement": "▁"})", {"▁a", "▁b▁"}) == "a b ");
  CHECK(decoded(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})", {"▁a", "▁b"}) == " a b");
}

TEST_CASE("Strip takes at most as many as it says from each token") {
  CHECK(decoded(R"({"type": "Strip", "content": "x", "start": 2, "stop": 1})", {"xxxaxx", "x", ""}) == "xax");
}

TEST_CASE("an unknown decoder is refused with its place and type") {
  CHECK_THROWS_WITH(decoded(sequence(R"({"type": "Fuse"}, {"type": "WordPiece"})"), {}),
                    test::contains("t.json: decoder: decoders[1]: type \"WordPiece\" is not supported"));
  CHECK_THROWS_AS(decoded(R"({"type": "Strip", "content": "", "start": 1, "stop": 0})", {}), gptq::format_error);
}
