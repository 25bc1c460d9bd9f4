#include "support/catch.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/added_tokens.hpp>

#include <string>
#include <vector>

using test::ids;
using test::small_tokenizer;

namespace {

/// One entry of "added_tokens"; `flags` are the names of those that are true.
std::string token(int id, std::string const& content, std::string const& flags = "") {
  std::string text = "{\"id\": " + std::to_string(id) + ", \"content\": \"" + content + "\"";
  for (std::string const flag : {"single_word", "lstrip", "rstrip", "normalized", "special"})
    text += ", \"" + flag + "\": " + (flags.find(flag) != std::string::npos ? "true" : "false");
  return text + "}";
}

constexpr int x = 10;  // the first id after the vocabulary of small_tokenizer

}  // namespace

TEST_CASE("added tokens are cut out of the text before anything else") {
  small_tokenizer t;
  t.added = "[" + token(x, "<x>") + "]";
  t.normalizer = R"({"type": "Prepend", "prepend": "▁"})";
  CHECK(t.encode("a<x><x>b") == ids{7, 0, x, x, 7, 1});  // each piece between is normalized on its own
  CHECK(t.encode("<x>") == ids{x});
  CHECK(t.encode("<x").size() == 1);  // ▁; the rest is outside the vocabulary
  CHECK(t.encode("").empty());
}

TEST_CASE("a token that is in the vocabulary has its id from there and is still cut out first") {
  small_tokenizer t;
  t.added = "[" + token(2, "c") + "]";
  CHECK(t.encode("abc") == ids{3, 2});  // abc would be one token
}

TEST_CASE("of overlapping tokens the leftmost, then the longest is taken") {
  small_tokenizer t;
  t.added = "[" + token(x, "<<") + ", " + token(x + 1, "<<<<") + ", " + token(x + 2, "<a") + ", " +
            token(x + 3, "<<<<<<!") + "]";
  CHECK(t.encode("<<<<<a") == ids{x + 1, x + 2});
  CHECK(t.encode("<<<a") == ids{x, x + 2});
  CHECK(t.encode("<<<<<<a") == ids{x + 1, x, 0});
  CHECK(t.encode("<<<<<<!") == ids{x + 3});
}

TEST_CASE("hundreds of tokens with a common start are told apart") {
  small_tokenizer t;
  t.added = "[";
  for (int i = 0; i < 500; ++i) t.added += (i ? ", " : "") + token(x + i, "<|reserved_" + std::to_string(i) + "|>");
  t.added += "]";
  gptq::tokenizer const tokenizer = t.make();
  CHECK(tokenizer.encode("a<|reserved_7|><|reserved_77|>b<|reserved_499|>") == ids{0, x + 7, x + 77, 1, x + 499});
  CHECK(tokenizer.vocabulary_size() == x + 500);
}

TEST_CASE("lstrip and rstrip swallow white space beside the token") {
  small_tokenizer t;
  t.added = "[" + token(x, "<l>", "lstrip") + ", " + token(x + 1, "<r>", "rstrip") + ", " +
            token(x + 2, "<b>", "lstrip rstrip") + "]";
  CHECK(t.encode("a \t\u3000<l> b") == ids{0, x, 5, 1});
  CHECK(t.encode("a <r> \n\u00a0b") == ids{0, 5, x + 1, 1});
  CHECK(t.encode("a <b> b") == ids{0, x + 2, 1});
  CHECK(t.encode(" <l>") == ids{x});
  CHECK(t.encode("<r>  <l>") == ids{x + 1, x});
}

TEST_CASE("single_word demands that no word character touches the token") {
  small_tokenizer t;
  t.added = "[" + token(x, "ca", "single_word") + "]";
  CHECK(t.encode("ca") == ids{x});
  CHECK(t.encode("ca ca.ca") == ids{x, 5, x, 9, x});
  CHECK(t.encode("cad") == ids{2, 0, 8});
  CHECK(t.encode("dca") == ids{8, 2, 0});
  for (std::string const word : {"_", "\u0301", "\u8a9e", "7", "\u200d"}) {
    INFO(word);
    CHECK(t.encode("ca" + word) == ids{2, 0});  // nothing of the word itself is in the vocabulary
    CHECK(t.encode(word + "ca") == ids{2, 0});
  }
  for (std::string const other : {"!", "\u00bd", "\u3002"}) CHECK(t.encode("ca" + other) == ids{x});
}

TEST_CASE("normalized tokens are looked for in normalized text, in their normalized spelling") {
  small_tokenizer t;
  t.normalizer = R"({"type": "NFC"})";
  t.added = "[" + token(x, "e\u0301", "normalized") + ", " + token(x + 1, "o\u0301") + "]";
  CHECK(t.encode("a\u00e9b") == ids{0, x, 1});
  CHECK(t.encode("ae\u0301b") == ids{0, x, 1});
  CHECK(t.encode("ao\u0301b") == ids{0, x + 1, 1});
  CHECK(t.encode("a\u00f3b") == ids{3});  // not as it stands in the list
}

TEST_CASE("a normalizer that prepends makes a normalized token match at the start of a piece only") {
  small_tokenizer t;
  t.normalizer = R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                   {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})";
  t.added = "[" + token(x, "cc", "normalized") + "]";
  CHECK(t.encode("cc cc") == ids{x, x});
  CHECK(t.encode("acc") == ids{7, 0, 2, 2});
}

TEST_CASE("a run of white-space tokens that swallow each other takes linear time", "[slow]") {
  small_tokenizer t;
  t.added = "[" + token(x, "\\t", "rstrip") + ", " + token(x + 1, "\\n", "lstrip rstrip") + ", " + token(5, " ") + "]";
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += "\t \n ";
  CHECK(t.encode(text + "a").size() > 100'000);
}

TEST_CASE("ids that the vocabulary contradicts are refused") {
  auto const with = [](std::string const& entries) {
    small_tokenizer t;
    t.added = "[" + entries + "]";
    return t.make();
  };
  CHECK_THROWS_WITH(with(token(3, "c")),
                    test::contains("small.json: added_tokens[0]: token \"c\" has id 3, but the vocabulary gives it 2"));
  CHECK_THROWS_WITH(with(token(x, "<x>") + ", " + token(x + 7, "<y>")),
                    test::contains("added_tokens[1]: token \"<y>\" has id 17, but the next free one is 11"));
  CHECK_THROWS_WITH(with(token(x, "<x>") + ", " + token(x, "<x>")), test::contains("\"<x>\""));
  CHECK_THROWS_WITH(with(R"({"content": "<x>"})"), test::contains("added_tokens[0]: \"id\" is missing"));
  CHECK_THROWS_WITH(with(R"("x")"), test::contains("added_tokens[0]: a JSON object is needed"));
  CHECK(with(token(99, "")).encode("a") == ids{0});  // empty ones are passed over
}

TEST_CASE("decoding leaves special tokens out when asked") {
  small_tokenizer t;
  t.added = "[" + token(x, "<s>", "special") + ", " + token(x + 1, "<t>") + "]";
  gptq::tokenizer const tokenizer = t.make();
  ids const some{x, 0, x + 1};
  CHECK(tokenizer.decode(some) == "<s>a<t>");
  CHECK(tokenizer.decode(some, true) == "a<t>");
}
