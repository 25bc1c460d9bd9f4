#include "support/catch.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/pre_tokenizer.hpp>

#include <string>
#include <string_view>
#include <vector>

using words = std::vector<std::string>;

namespace {
words cut(std::string const& definition, std::string_view text, bool first = true) {
  auto const document = test::json(definition);
  words out;
  gptq::text::pre_tokenizer(gptq::text::part(document, "t.json: pre_tokenizer"))
      .run(text, first, [&](std::string_view word) { out.emplace_back(word); });
  return out;
}
}  // namespace

TEST_CASE("without pre-tokenizer a text is one word") {
  CHECK(cut("null", "a b") == words{"a b"});
  CHECK(cut("null", "").empty());
}

TEST_CASE("ByteLevel writes bytes as characters") {
  std::string const whole = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})";
  CHECK(cut(whole, "a b\n\u00e9") == words{"a\u0120b\u010a\u00c3\u00a9"});
}

TEST_CASE("the byte alphabet has 256 characters and back") {
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  std::string spelled;
  gptq::text::append_byte_level(spelled, all);
  std::string back;
  gptq::text::append_bytes(back, spelled);
  CHECK(back == all);
  spelled.clear();
  gptq::text::append_byte_level(spelled, std::string_view("\0 !~\x7f\xa0\xa1\xad\xae\xff", 10));
  CHECK(spelled == "\u0100\u0120!~\u0121\u0142\u00a1\u0143\u00ae\u00ff");
  std::string odd = "x";
  gptq::text::append_bytes(odd, "a\u8a9e");
  CHECK(odd == "xa\u8a9e");
}

TEST_CASE("ByteLevel cuts with the expression of GPT-2 and adds a space unless told otherwise") {
  CHECK(cut(R"({"type": "ByteLevel"})", "it's  12") == words{"\u0120it", "'s", "\u0120", "\u012012"});
  CHECK(cut(R"({"type": "ByteLevel"})", " a") == words{"\u0120a"});
  CHECK(cut(R"({"type": "ByteLevel", "add_prefix_space": false})", "a b") == words{"a", "\u0120b"});
}

TEST_CASE("Split in a sequence with ByteLevel, as Qwen2 and Llama 3 have it") {
  std::string const definition = R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})";
  CHECK(cut(definition, "ab cd1234!") == words{"ab", "\u0120cd", "123", "4", "!"});
}

TEST_CASE("Digits, Punctuation and white space") {
  CHECK(cut(R"({"type": "Digits", "individual_digits": true})", "a12\u00bdb") == words{"a", "1", "2", "\u00bd", "b"});
  CHECK(cut(R"({"type": "Digits"})", "a12\u00bdb") == words{"a", "12\u00bd", "b"});
  CHECK(cut(R"({"type": "Punctuation"})", "a,$\u3002b") == words{"a", ",", "$", "\u3002", "b"});
  CHECK(cut(R"({"type": "Punctuation", "behavior": "Removed"})", "a,b") == words{"a", "b"});
  CHECK(cut(R"({"type": "WhitespaceSplit"})", " a,\u3000b ") == words{"a,", "b"});
  CHECK(cut(R"({"type": "Whitespace"})", " a, e\u0301\u200dx ") == words{"a", ",", "e\u0301\u200dx"});
}

TEST_CASE("Metaspace") {
  CHECK(cut(R"({"type": "Metaspace", "replacement": "▁"})", "a  b") == words{"▁a", "▁", "▁b"});
  CHECK(cut(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false})", "a b") ==
        words{"▁a▁b"});
  CHECK(cut(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})", "a b") == words{"a", "▁b"});
  CHECK(cut(R"({"type": "Metaspace", "replacement": "▁"})", " a") == words{"▁a"});
}

TEST_CASE("Metaspace with the scheme first prepends at the start of the text only") {
  std::string const definition = R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"})";
  CHECK(cut(definition, "a b", true) == words{"▁a", "▁b"});
  CHECK(cut(definition, "a b", false) == words{"a", "▁b"});
  std::string const after =
      R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, )" + definition + "]}";
  CHECK(cut(after, "a1b") == words{"▁a", "1", "b"});
}

TEST_CASE("steps of a sequence see the pieces of the step before, one by one") {
  // The lookahead must not see beyond the piece.
  std::string const definition = R"~({"type": "Sequence", "pretokenizers": [{"type": "Digits"},
      {"type": "Split", "pattern": {"Regex": "a(?!1)"}, "behavior": "Isolated"}]})~";
  CHECK(cut(definition, "ba1") == words{"b", "a", "1"});
}

TEST_CASE("unknown or contradictory pre-tokenizers are refused with their place") {
  CHECK_THROWS_WITH(cut(R"({"type": "BertPreTokenizer"})", ""),
                    test::contains("t.json: pre_tokenizer: type \"BertPreTokenizer\" is not supported"));
  CHECK_THROWS_WITH(cut(R"({"type": "Metaspace", "prepend_scheme": "last"})", ""), test::contains("\"last\""));
  CHECK_THROWS_WITH(cut(R"({"type": "Metaspace", "add_prefix_space": false})", ""), test::contains("contradict"));
  CHECK_THROWS_AS(cut(R"({"type": "Metaspace", "replacement": ""})", ""), gptq::format_error);
  CHECK_THROWS_AS(cut(R"({"type": "Split", "behavior": "Isolated"})", ""), gptq::format_error);
  CHECK_THROWS_WITH(cut(R"({"type": "Digits", "individual_digits": "yes"})", ""), test::contains("individual_digits"));
}
