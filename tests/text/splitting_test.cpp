#include "support/catch.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/splitting.hpp>
#include <gptq/text/unicode.hpp>

#include <string>
#include <string_view>
#include <vector>

using gptq::text::split_behavior;
using gptq::text::text_pattern;
using words = std::vector<std::string>;

namespace {
words cut(std::string_view text, text_pattern const& pattern, split_behavior behavior, bool invert = false) {
  words out;
  split(text, pattern, behavior, invert,
        [&](std::size_t begin, std::size_t end) { out.emplace_back(text.substr(begin, end - begin)); });
  return out;
}
}  // namespace

TEST_CASE("the five behaviours of a split") {
  text_pattern const dash(std::string("-"));
  std::string const text = "the-final--countdown";
  CHECK(cut(text, dash, split_behavior::removed) == words{"the", "final", "countdown"});
  CHECK(cut(text, dash, split_behavior::isolated) == words{"the", "-", "final", "-", "-", "countdown"});
  CHECK(cut(text, dash, split_behavior::merged_with_previous) == words{"the-", "final-", "-", "countdown"});
  CHECK(cut(text, dash, split_behavior::merged_with_next) == words{"the", "-final", "-", "-countdown"});
  CHECK(cut(text, dash, split_behavior::contiguous) == words{"the", "-", "final", "--", "countdown"});
}

TEST_CASE("splits at the ends of a text") {
  text_pattern const dash(std::string("-"));
  CHECK(cut("--a-", dash, split_behavior::removed) == words{"a"});
  CHECK(cut("--a-", dash, split_behavior::merged_with_previous) == words{"-", "-", "a-"});
  CHECK(cut("--a-", dash, split_behavior::merged_with_next) == words{"-", "-a", "-"});
  CHECK(cut("--", dash, split_behavior::contiguous) == words{"--"});
  CHECK(cut("", dash, split_behavior::isolated).empty());
}

TEST_CASE("inverting exchanges matches and gaps") {
  text_pattern const letters(gptq::text::regex::from_oniguruma("[a-z]+", "t"));
  CHECK(cut("ab, cd", letters, split_behavior::removed, true) == words{"ab", "cd"});
  CHECK(cut("ab, cd!", letters, split_behavior::merged_with_next, true) == words{"ab", ", cd", "!"});
  // Inverted, two gaps may follow one another.
  text_pattern const dash(std::string("-"));
  CHECK(cut("a--b", dash, split_behavior::merged_with_next, true) == words{"a-", "-", "b"});
  CHECK(cut("a--b", dash, split_behavior::merged_with_previous, true) == words{"a", "-", "-b"});
  CHECK(cut("a--b", dash, split_behavior::contiguous, true) == words{"a", "--", "b"});
}

TEST_CASE("characters of a kind match one by one") {
  text_pattern const digits(&gptq::text::is_number);
  CHECK(cut("a12\u00bd\u0663", digits, split_behavior::isolated) == words{"a", "1", "2", "\u00bd", "\u0663"});
  CHECK(cut("a12\u00bd\u0663b", digits, split_behavior::contiguous) == words{"a", "12\u00bd\u0663", "b"});
}

TEST_CASE("an empty string matches nowhere") {
  CHECK(cut("ab", text_pattern(std::string()), split_behavior::isolated) == words{"ab"});
  CHECK(text_pattern(std::string()).replaced("ab", "x") == "ab");
}

TEST_CASE("replacing takes every match, and the replacement as it stands") {
  CHECK(text_pattern(std::string("aa")).replaced("aaab", "$0") == "$0ab");
  CHECK(text_pattern(gptq::text::regex::from_oniguruma(" +", "t")).replaced("a  b c", "_") == "a_b_c");
}

TEST_CASE("patterns and behaviours that are unknown are refused") {
  auto const number = test::json(R"({"Glob": "*"})");
  CHECK_THROWS_WITH(text_pattern(gptq::text::part(number, "t.json: pre_tokenizer: pattern")),
                    test::contains("t.json: pre_tokenizer: pattern: ") && test::contains("Regex"));
  auto const odd = test::json(R"({"behavior": "Sideways"})");
  CHECK_THROWS_WITH(parse_split_behavior(gptq::text::part(odd, "t.json"), "behavior"),
                    test::contains("t.json: behavior \"Sideways\""));
}
