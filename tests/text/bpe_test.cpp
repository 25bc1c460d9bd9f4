#include "support/catch.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/bpe.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

using test::ids;
using test::small_tokenizer;

namespace {

/// The definition: merge the pair of lowest rank, the leftmost on a tie, over and over.
std::vector<std::string> by_definition(std::vector<std::string> symbols,
                                       std::vector<std::pair<std::string, std::string>> const& merges) {
  for (;;) {
    std::size_t best = merges.size();
    std::size_t where = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      auto const rank = static_cast<std::size_t>(
          std::find(merges.begin(), merges.end(), std::pair(symbols[i], symbols[i + 1])) - merges.begin());
      if (rank < best) best = rank, where = i;
    }
    if (best == merges.size()) return symbols;
    symbols[where] += symbols[where + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
}

}  // namespace

TEST_CASE("merges happen by rank, not by length or place") {
  small_tokenizer t;  // ab before bc before abc
  CHECK(t.encode("abc") == ids{4});
  t.merges = R"(["b c", "a b", "ab c"])";
  CHECK(t.encode("abc") == ids{0, 6});
  t.merges = R"([["a", "b"], ["b", "c"]])";  // pairs as arrays
  CHECK(t.encode("abcab") == ids{3, 2, 3});
}

TEST_CASE("the leftmost of equal pairs is merged first") {
  small_tokenizer t;
  t.vocab = R"({"a": 0, "aa": 1, "aaa": 2})";
  t.merges = R"(["a a"])";
  CHECK(t.encode("aaa") == ids{1, 0});
  CHECK(t.encode("aaaaa") == ids{1, 1, 0});
  t.merges = R"(["a a", "aa a"])";
  CHECK(t.encode("aaaaa") == ids{1, 2});
}

TEST_CASE("a pair that changes takes its new rank, not that of the pair before") {
  small_tokenizer t;
  t.vocab = R"({"a": 0, "b": 1, "c": 2, "d": 3, "ab": 4, "bc": 5, "bcd": 6, "abc": 7})";
  t.merges = R"(["b c", "a b", "bc d", "a bc"])";  // a|bc must wait for bc|d, although a|b need not
  CHECK(t.encode("abcd") == ids{0, 6});
  CHECK(t.encode("abc") == ids{7});
}

TEST_CASE("a merge listed twice has its last rank") {
  small_tokenizer t;
  t.merges = R"(["a b", "b c", "a b"])";
  CHECK(t.encode("abc") == ids{0, 6});
}

TEST_CASE("encoding follows the definition on random vocabularies, for short and long words") {
  std::mt19937 random(7);
  auto const below = [&](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  for (int round = 0; round < 40; ++round) {
    std::vector<std::string> const alphabet{"a", "b", "\u00e9", "\u8a9e", "\u2581"};
    std::vector<std::string> symbols = alphabet;
    std::vector<std::pair<std::string, std::string>> merges;
    for (std::size_t i = 0; i < 5 + below(30); ++i) {
      std::pair<std::string, std::string> pair(symbols[below(symbols.size())], symbols[below(symbols.size())]);
      if (std::find(merges.begin(), merges.end(), pair) != merges.end()) continue;
      std::string const whole = pair.first + pair.second;
      if (std::find(symbols.begin(), symbols.end(), whole) == symbols.end()) symbols.push_back(whole);
      merges.push_back(std::move(pair));
    }
    small_tokenizer t;
    t.vocab.clear();
    t.merges.clear();
    for (std::size_t i = 0; i < symbols.size(); ++i)
      t.vocab += (i ? ", \"" : "{\"") + symbols[i] + "\": " + std::to_string(i);
    t.vocab += '}';
    for (auto const& [a, b] : merges) t.merges += (t.merges.empty() ? "[\"" : ", \"") + a + ' ' + b + '"';
    t.merges += ']';
    gptq::tokenizer const tokenizer = t.make();
    for (std::size_t length : {1u, 3u, 9u, 30u, 200u}) {
      for (int k = 0; k < 10; ++k) {
        std::vector<std::string> word(length);
        std::string text;
        for (auto& s : word) text += s = alphabet[below(alphabet.size())];
        ids expected;
        for (auto const& s : by_definition(word, merges)) expected.push_back(*tokenizer.token_to_id(s));
        REQUIRE(tokenizer.encode(text) == expected);
        REQUIRE(tokenizer.encode(text) == expected);  // now remembered
      }
    }
  }
}

TEST_CASE("ignore_merges takes a word whole that is in the vocabulary") {
  small_tokenizer t;
  t.merges = R"(["b c"])";
  CHECK(t.encode("abc") == ids{0, 6});
  t.model = R"(, "ignore_merges": true)";
  CHECK(t.encode("abc") == ids{4});
  CHECK(t.encode("abca") == ids{0, 6, 0});
}

TEST_CASE("ignore_merges holds for words longer than the cache keeps") {
  std::string const word(300, 'a');
  small_tokenizer t;
  t.vocab = "{\"a\": 0, \"aa\": 1, \"" + word + "\": 2}";
  t.merges = R"(["a a"])";
  t.model = R"(, "ignore_merges": true)";
  CHECK(t.encode(word) == ids{2});
  CHECK(t.encode(word + "aa") == ids(151, 1));
}

TEST_CASE("characters outside the vocabulary become bytes, the unknown token, or are counted as lost") {
  small_tokenizer t;
  gptq::encode_report report;
  CHECK(t.make().encode("ax\u8a9eb", false, &report) == ids{3});  // nothing stands between a and b any more
  CHECK(report.lost_characters == 2);
  CHECK(t.make().encode("ab", false, &report) == ids{3});
  CHECK(report.lost_characters == 2);

  t.model = R"(, "unk_token": "d")";
  CHECK(t.encode("axyb") == ids{0, 8, 8, 1});
  t.model = R"(, "unk_token": "d", "fuse_unk": true)";
  CHECK(t.encode("axyb\u8a9ez") == ids{0, 8, 1, 8});

  t.vocab = R"({"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "bc": 5, "d": 6, "<0x78>": 7, "<0xE8>": 8, "<0xAA>": 9,
               "<0x9E>": 10, "<0xE2>": 11, "<0x82>": 12})";
  t.model = R"(, "unk_token": "d", "fuse_unk": true, "byte_fallback": true)";
  CHECK(t.encode("ax\u8a9eb") == ids{0, 7, 8, 9, 10, 1});
  CHECK(t.encode("\u20acy\u20acxa") == ids{6, 7, 0});  // one of three bytes has no token: unknown, and fused
}

TEST_CASE("characters are lost from words that come again, and counted each time") {
  gptq::tokenizer const t = small_tokenizer().make();
  gptq::encode_report report;
  for (int i = 0; i < 3; ++i) CHECK(t.encode("ax", false, &report) == ids{0});
  CHECK(report.lost_characters == 3);
}

TEST_CASE("long texts are cut only where nothing can merge") {
  // ▁ at the end of a token, a token over two words, and unknown characters that fuse, all in words of many characters.
  small_tokenizer t;
  t.vocab = R"({"a": 0, "b": 1, "▁": 2, "a▁": 3, "a▁b": 4, "?": 5})";
  t.merges = R"(["a ▁", "a▁ b"])";
  t.model = R"(, "unk_token": "?", "fuse_unk": true)";
  std::string text;
  ids expected;
  for (int i = 0; i < 50; ++i) {
    text += "a▁bba▁ xy\u8a9e▁bb";
    for (int const id : {4, 1, 3, 5, 2, 1, 1}) expected.push_back(id);
  }
  CHECK(t.encode(text) == expected);
}

TEST_CASE("an unk_token that is not in the vocabulary matters only when it is needed") {
  small_tokenizer t;
  t.model = R"(, "unk_token": "<unk>")";
  CHECK(t.encode("abc") == ids{4});
  CHECK_THROWS_WITH(t.encode("x"), test::contains("small.json: model: unk_token \"<unk>\""));
}

TEST_CASE("a text of three million equal characters is encoded in reasonable time", "[slow]") {
  small_tokenizer t;
  t.vocab = R"({"a": 0, "aa": 1, "aaaa": 2, "b": 3})";
  t.merges = R"(["a a", "aa aa"])";
  CHECK(t.encode(std::string(3'000'000, 'a')) == ids(750'000, 2));
  CHECK(t.encode(std::string(3'000'000, 'b')) == ids(3'000'000, 3));
}

TEST_CASE("models that are not understood in full are refused by name") {
  auto const with = [](std::string const& model) {
    return gptq::tokenizer(test::json("{\"model\": " + model + "}"), "t.json");
  };
  for (std::string const type : {"Unigram", "WordPiece", "WordLevel"})
    CHECK_THROWS_WITH(with("{\"type\": \"" + type + "\", \"vocab\": {}}"),
                      test::contains("t.json: model: type \"" + type + "\" is not supported"));
  CHECK_THROWS_WITH(with(R"({"vocab": {"a": 0}})"), test::contains("t.json: model: \"type\" is missing"));
  CHECK(with(R"({"vocab": {"a": 0}, "merges": []})").encode("a") == ids{0});  // as files were before they had types
  CHECK_THROWS_WITH(with("null"), test::contains("t.json: model: "));

  small_tokenizer t;
  t.model = R"(, "dropout": 0.1)";
  CHECK_THROWS_WITH(t.make(), test::contains("small.json: model: dropout"));
  t.model = R"(, "dropout": null, "end_of_word_suffix": "</w>")";
  CHECK_THROWS_WITH(t.make(), test::contains("end_of_word_suffix is not supported"));
  t.model = R"(, "continuing_subword_prefix": "##")";
  CHECK_THROWS_WITH(t.make(), test::contains("continuing_subword_prefix is not supported"));
}

TEST_CASE("hostile vocabularies and merges are refused") {
  struct {
    char const* vocab;
    char const* merges;
    char const* named;
  } const cases[] = {
      {R"({})", "[]", "no tokens"},
      {R"(["a"])", "[]", "vocab: a JSON object is needed"},
      {R"({"a": -1})", "[]", "the id of \"a\""},
      {R"({"a": 1.5})", "[]", "the id of \"a\""},
      {R"({"a": "1"})", "[]", "the id of \"a\""},
      {R"({"a": 2000000000})", "[]", "the id of \"a\""},
      {R"({"a": 99999999999999999999})", "[]", "the id of \"a\""},
      {R"({"a": 0, "b": 0})", "[]", "id 0 is given to two tokens"},
      {R"({"a": 0, "a": 1})", "[]", "duplicate key"},
      {R"({"a": 0})", "{}", "merges: a JSON array is needed"},
      {R"({"a": 0})", R"(["aa"])", "merges: entry 0: exactly one space"},
      {R"({"a": 0})", R"(["a a a"])", "entry 0: exactly one space"},
      {R"({"a": 0})", R"([" a"])", "entry 0: one side is empty"},
      {R"({"a": 0})", R"([["a"]])", "entry 0: "},
      {R"({"a": 0})", R"([7])", "entry 0: "},
      {R"({"a": 0, "aa": 1})", R"(["a a", "a b"])", "entry 1: \"b\" is no token"},
      {R"({"a": 0})", R"(["a a"])", "entry 0: \"aa\" is no token"},
  };
  for (auto const& c : cases) {
    INFO(c.vocab << ' ' << c.merges);
    small_tokenizer t;
    t.vocab = c.vocab;
    t.merges = c.merges;
    CHECK_THROWS_WITH(t.make(), test::contains(c.named) && test::contains("small.json"));
  }
}
