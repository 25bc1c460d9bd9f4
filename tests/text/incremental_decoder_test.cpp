#include "support/catch.hpp"
#include "support/shared.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/incremental_decoder.hpp>

#include <string>
#include <vector>

namespace {

/// The pieces that tokens give one by one, and what is left.
std::vector<std::string> pieces(gptq::tokenizer const& t, test::ids const& tokens, test::ids const& context = {}) {
  gptq::incremental_decoder decoder(t, context);
  std::vector<std::string> out;
  for (std::int32_t const id : tokens) out.push_back(decoder.next(id));
  out.push_back(decoder.finish());
  return out;
}

std::string joined(std::vector<std::string> const& parts) {
  std::string all;
  for (std::string const& p : parts) all += p;
  return all;
}

/// Bytes as the ByteLevel decoder spells them, and a special token.
test::small_tokenizer byte_level() {
  test::small_tokenizer t;
  t.vocab = R"({"a": 0, "\u0120b": 1, "\u00c3": 2, "\u00a9": 3, "\u00e8": 4, "\u00aa": 5, "\u0140": 6})";
  t.merges = "[]";
  t.added = R"([{"id": 7, "content": "<s>", "special": true, "lstrip": false, "rstrip": false, "normalized": false,
      "single_word": false}])";
  t.decoder = R"({"type": "ByteLevel"})";
  return t;
}

}  // namespace

TEST_CASE("a piece of text comes when its characters are whole") {
  auto const t = byte_level().make();
  CHECK(pieces(t, {0, 1, 2, 3, 0}) == std::vector<std::string>{"a", " b", "", "\u00e9", "a", ""});
  CHECK(pieces(t, {4, 5, 0}) == std::vector<std::string>{"", "", "\uFFFDa", ""});  // it will never be whole
  CHECK(pieces(t, {0, 4, 5}) == std::vector<std::string>{"a", "", "", "\uFFFD"});
  CHECK(pieces(t, {3}, {0, 2}) == std::vector<std::string>{"\u00e9", ""});  // begun in the prompt
}

TEST_CASE("special tokens have no text, and ids that are no token are replaced") {
  auto const t = byte_level().make();
  CHECK(pieces(t, {0, 7, 1, 7, 0}) == std::vector<std::string>{"a", "", " b", "", "a", ""});
  CHECK(pieces(t, {2, 99, 0}) == std::vector<std::string>{"", "\uFFFD\uFFFD", "a", ""});
}

TEST_CASE("the space before a word depends on what it follows") {
  test::small_tokenizer t;
  t.vocab = R"({"▁a": 0, "▁b": 1, "c": 2})";
  t.merges = "[]";
  t.decoder = R"({"type": "Metaspace", "replacement": "▁"})";
  t.added = R"([{"id": 3, "content": "<s>", "special": true, "lstrip": false, "rstrip": false, "normalized": false,
      "single_word": false}])";
  auto const made = t.make();
  CHECK(pieces(made, {0, 1, 2}) == std::vector<std::string>{"a", " b", "c", ""});
  CHECK(pieces(made, {0, 1}, {2}) == std::vector<std::string>{" a", " b", ""});
  CHECK(pieces(made, {0, 3, 1}) == std::vector<std::string>{"a", "", " b", ""});
}

TEST_CASE("pieces are the whole text, cut") {
  auto const t = gptq::tokenizer::from_file(test::bundled_model());
  std::string const text = "Zwölf Boxkämpfer, 春眠不覺曉 🙂👍🏽 — naïve\n\n  end\r\n";
  auto const ids = t.encode(text);
  CHECK(ids.size() > 30);
  for (std::size_t context = 0; context < ids.size(); ++context) {
    test::ids const before(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(context));
    test::ids const after(ids.begin() + static_cast<std::ptrdiff_t>(context), ids.end());
    auto const parts = pieces(t, after, before);
    CHECK(text.ends_with(joined(parts)));
    if (context == 0) CHECK(joined(parts) == text);
    for (std::string const& p : parts) CHECK(gptq::utf8::valid_size(p) == p.size());
  }
}
