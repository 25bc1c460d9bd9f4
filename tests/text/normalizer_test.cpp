#include "support/catch.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/normalizer.hpp>

#include <string>

namespace {
std::string normalized(std::string const& definition, std::string text) {
  auto const document = test::json(definition);
  gptq::text::normalizer(gptq::text::part(document, "t.json: normalizer")).apply(text);
  return text;
}
}  // namespace

TEST_CASE("normalizers of each type") {
  CHECK(normalized("null", "e\u0301") == "e\u0301");
  CHECK(normalized(R"({"type": "NFC"})", "e\u0301") == "\u00e9");
  CHECK(normalized(R"({"type": "NFD"})", "\u00e9") == "e\u0301");
  CHECK(normalized(R"({"type": "NFKC"})", "\ufb01") == "fi");
  CHECK(normalized(R"({"type": "NFKD"})", "\u00e9\ufb01") == "e\u0301fi");
  CHECK(normalized(R"({"type": "Prepend", "prepend": "▁"})", "a") == "▁a");
  CHECK(normalized(R"({"type": "Prepend", "prepend": "▁"})", "").empty());
  CHECK(normalized(R"({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})", " a  b") == "▁a▁▁b");
  CHECK(normalized(R"({"type": "Replace", "pattern": {"Regex": " +"}, "content": "_"})", "a  b c") == "a_b_c");
}

TEST_CASE("a sequence works in its order and may be empty or nested") {
  CHECK(normalized(R"({"type": "Sequence", "normalizers": []})", "a") == "a");
  CHECK(normalized(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": " "},
                      {"type": "Sequence", "normalizers": [
                        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}]})",
                   "a b") == "▁a▁b");
}

TEST_CASE("an unknown normalizer is refused with its place and type") {
  CHECK_THROWS_WITH(
      normalized(R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Precompiled"}]})", ""),
      test::contains("t.json: normalizer: normalizers[1]: type \"Precompiled\" is not supported"));
  CHECK_THROWS_WITH(normalized(R"({"kind": "NFC"})", ""), test::contains("\"type\" is missing"));
  CHECK_THROWS_AS(normalized(R"("NFC")", ""), gptq::format_error);
  CHECK_THROWS_AS(normalized(R"({"type": "Sequence", "normalizers": {}})", ""), gptq::format_error);
  CHECK_THROWS_AS(normalized(R"({"type": "Prepend"})", ""), gptq::format_error);
}
