#include "support/catch.hpp"

#include <gptq/text/byte_level.hpp>
#include <gptq/text/regex.hpp>

#include <string>
#include <string_view>
#include <vector>

using gptq::text::regex;

namespace {

constexpr char qwen_pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  std::vector<std::string> out;
  regex::from_oniguruma(pattern, "here").for_each_match(text, [&](std::size_t begin, std::size_t end) {
    out.emplace_back(text.substr(begin, end - begin));
  });
  return out;
}

using words = std::vector<std::string>;

}  // namespace

TEST_CASE("the Qwen2 expression cuts as Oniguruma does") {
  CHECK(matches(qwen_pattern, "Hello  world's 123\n\n x") ==
        words{"Hello", " ", " world", "'s", " ", "1", "2", "3", "\n\n", " x"});
  CHECK(matches(qwen_pattern, "don'T.\r\n  ...!") == words{"don", "'T", ".\r\n", " ", " ...!"});
}

TEST_CASE("ignoring case reaches beyond ASCII") {
  CHECK(matches("(?i:'s)x", "'\u017fx 'Sx") == words{"'\u017fx", "'Sx"});
}

TEST_CASE("U+180E is no white space, in any spelling of it") {
  CHECK(matches(R"(\s+)", "a \u180e b") == words{" ", " "});
  CHECK(matches(R"([\s]+)", "\u180e\u3000") == words{"\u3000"});
  CHECK(matches(R"(\S+)", " \u180ea ") == words{"\u180ea"});
  CHECK(matches(R"([^\s]+)", " \u180ea ") == words{"\u180ea"});
  CHECK(matches(R"([\S]+)", " \u180ea ") == words{"\u180ea"});
  CHECK(matches(gptq::text::gpt2_pattern, "a\u180eb") == words{"a", "\u180e", "b"});
}

TEST_CASE("word characters are those of Unicode") {
  CHECK(matches(R"(\w+)", "e\u0301\u203f_1 \u00bd-") == words{"e\u0301\u203f_1", "\u00bd"});
  CHECK(matches(R"([\w]+)", "x\u00bd") == words{"x"});  // Oniguruma's own exception
  CHECK(matches(R"(\W+)", "e\u0301-\u00bd") == words{"-"});
}

TEST_CASE("what Oniguruma and PCRE2 spell differently is translated") {
  CHECK(matches(R"(\u00e9|\v|\x41)", "\u00e9\v\nA") == words{"\u00e9", "\v", "A"});
  CHECK(matches(R"(^.)", "ab\ncd") == words{"a", "c"});
  CHECK(matches(R"([a[b-d]-]+)", "ab-[d]e") == words{"ab-", "d"});
  CHECK(matches(R"(\p{Han}+)", "x\u8a9e\u3002") == words{"\u8a9e"});  // the script, not its extensions
}

TEST_CASE("empty matches are passed over after a match and found elsewhere") {
  std::vector<std::size_t> starts;
  regex::from_oniguruma("x*", "here").for_each_match("axxb\u8a9e", [&](std::size_t b, std::size_t) {
    starts.push_back(b);
  });
  CHECK(starts == std::vector<std::size_t>{0, 1, 4, 7});
}

TEST_CASE("what PCRE2 reads otherwise is refused by name") {
  struct {
    char const* pattern;
    char const* named;
  } const cases[] = {
      {R"([a&&b])", "&&"},
      {R"(\h)", "\\h"},
      {R"([[:alpha:]])", "class inside"},
      {R"([a[^b]])", "class"},
      {R"([]a])", "empty class"},
      {R"(\p{N}{1,3}+)", "after an interval"},
      {R"(a{2}?)", "{n}?"},
      {R"(a{,3})", "unescaped"},
      {R"((?x)a)", "(?x)"},
      {R"((?<n>a))", "(?<n"},
      {R"((*UCP)a)", "(*"},
      {R"(a(?i)b)", "(?i)"},
      {R"(\xe9)", "\\xe9"},
      {R"(\bx)", "\\b"},
      {R"([\s-z])", "\"-\""},
      {R"((?i:stra\u00dfe|ss))", "ss"},
      {R"((?i:\p{Lu}))", "Lu"},
      {R"(\p{^L})", "^L"},
      {R"(\1)", "\\1"},
      {R"([\W])", "inside a class"},
      {R"([a)", "without end"},
  };
  for (auto const& c : cases) {
    INFO(c.pattern);
    CHECK_THROWS_WITH(regex::from_oniguruma(c.pattern, "t.json: pre_tokenizer"),
                      test::contains(c.named) && test::contains("t.json: pre_tokenizer: "));
  }
}

TEST_CASE("a malformed expression is refused with its place") {
  CHECK_THROWS_WITH(regex::from_oniguruma("(a", "t.json: x"), test::contains("t.json: x: bad regular expression"));
  CHECK_THROWS_AS(regex::from_oniguruma(R"(\p{Nonsense})", "t"), gptq::format_error);
}

TEST_CASE("a million equal characters take linear time", "[slow]") {
  // Quadratic work would be 10^12 steps here.
  std::string const pattern(qwen_pattern);
  for (char const* const unit : {"a", " ", "\n", "1", "!", " \n", "\u8a9e", "\u0301", "\xF0\x9F\x98\x80", "\u180e"}) {
    std::string text;
    while (text.size() < 3'000'000) text += unit;
    std::size_t covered = 0;
    regex::from_oniguruma(pattern, "t").for_each_match(text, [&](std::size_t b, std::size_t e) { covered += e - b; });
    CHECK(covered == text.size());
  }
}

TEST_CASE("an expression that needs absurdly many steps ends in an error") {
  CHECK_THROWS_WITH(matches(R"((a+a+)+b)", std::string(100, 'a') + "cb"),
                    test::contains("here: the regular expression failed"));
}
