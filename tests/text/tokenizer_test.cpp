#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/text_file.hpp>
#include <gptq/text/tokenizer.hpp>

#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using test::ids;
using test::small_tokenizer;

static_assert(gptq::text_encoder<gptq::tokenizer>);

TEST_CASE("a tokenizer is read from its file or from the folder that holds it") {
  test::temp_dir const dir;
  auto const file = dir.write("tokenizer.json", small_tokenizer().text());
  CHECK(gptq::tokenizer::from_file(file).encode("abc") == ids{4});
  CHECK(gptq::tokenizer::from_file(dir.path()).encode("abc") == ids{4});
}

TEST_CASE("ids and tokens") {
  small_tokenizer s;
  s.added = R"([{"id": 10, "content": "<x>"}])";
  gptq::tokenizer const t = s.make();
  CHECK(t.vocabulary_size() == 11);
  CHECK(t.token_to_id("abc") == 4);
  CHECK(t.token_to_id("<x>") == 10);
  CHECK_FALSE(t.token_to_id("nothing"));
  CHECK(t.id_to_token(10) == "<x>");
  CHECK(t.id_to_token(3) == "ab");
  CHECK_FALSE(t.id_to_token(11));
  CHECK_FALSE(t.id_to_token(-1));
}

TEST_CASE("decoding an id that is no token is an error that names it") {
  CHECK_THROWS_WITH(small_tokenizer().make().decode(ids{0, 77}), test::contains("small.json: id 77 is no token"));
}

TEST_CASE("invalid UTF-8 is read as U+FFFD and counted") {
  small_tokenizer s;
  s.vocab = R"({"a": 0, "\ufffd": 1})";
  s.merges = "[]";
  gptq::encode_report report;
  CHECK(s.make().encode("a\xFF\xE8\xAA", false, &report) == ids{0, 1, 1});
  CHECK(report.replaced_sequences == 2);
  CHECK(report.lost_characters == 0);
}

TEST_CASE("truncation and padding of the file do not concern us") {
  CHECK(small_tokenizer().encode("dddddddd").size() == 8);  // the file says max_length 3
}

TEST_CASE("a tokenizer can be moved, and used by several threads") {
  gptq::tokenizer first = small_tokenizer().make();
  CHECK(first.encode("abc") == ids{4});
  gptq::tokenizer const t = std::move(first);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int k = 0; k < 4; ++k)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) wrong += t.encode("abcab") != ids{4, 3};
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("missing, empty and malformed files are refused by name") {
  test::temp_dir const dir;
  CHECK_THROWS_WITH(gptq::tokenizer::from_file(dir / "tokenizer.json"), test::contains("tokenizer.json"));
  CHECK_THROWS_WITH(gptq::tokenizer::from_file(dir.path()), test::contains("tokenizer.json"));
  dir.write("sp/tokenizer.model", "x");
  CHECK_THROWS_WITH(gptq::tokenizer::from_file(dir / "sp"), test::contains("SentencePiece model"));
  struct {
    char const* text;
    char const* named;
  } const cases[] = {{"", "empty file"},
                     {"{", "not valid JSON"},
                     {"[]", "a JSON object is needed"},
                     {"{}", "model"},
                     {R"({"model": {"type": "BPE"}})", "vocab"},
                     {R"({"model": {"type": 5}})", "\"type\" must be a string"},
                     {R"({"added_tokens": {}, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})",
                      "added_tokens: a JSON array is needed"}};
  for (auto const& c : cases) {
    INFO(c.text);
    auto const file = dir.write("t.json", c.text);
    CHECK_THROWS_WITH(gptq::tokenizer::from_file(file), test::contains(file.string()) && test::contains(c.named));
  }
}

TEST_CASE("a tokenizer.json cut off anywhere is refused") {
  std::string const whole = small_tokenizer().text();
  for (std::size_t size = 0; size < whole.size(); ++size)
    CHECK_THROWS_AS(gptq::tokenizer(gptq::parse_json(whole.substr(0, size), "t.json"), "t.json"), gptq::format_error);
}

TEST_CASE("absurdly nested sequences are refused") {
  small_tokenizer s;
  s.normalizer.clear();
  for (int i = 0; i < 5000; ++i) s.normalizer += R"({"type": "Sequence", "normalizers": [)";
  for (int i = 0; i < 5000; ++i) s.normalizer += "]}";
  CHECK_THROWS_WITH(s.make(), test::contains("nested"));
}

TEST_CASE("the bundled tokenizer gives text back, composed") {
  gptq::tokenizer const t = gptq::tokenizer::from_file(test::bundled_model());
  std::string const text = gptq::read_text(test::bundled_model() / "evaluation.txt");
  auto const all = t.encode(text);
  CHECK(all.size() == 19'210);
  CHECK(t.decode(all) == text);
  std::string const odd = "cafe\u0301 \u1112\u1161\u11ab \u180e<|im_start|>\r\n\t\U0001F600";
  CHECK(t.decode(t.encode(odd)) == "caf\u00e9 \ud55c \u180e<|im_start|>\r\n\t\U0001F600");
}

TEST_CASE("the bundled tokenizer encodes decomposed text as its composed form") {
  gptq::tokenizer const t = gptq::tokenizer::from_file(test::bundled_model());
  CHECK(t.encode("cafe\u0301 a\u0302\u0323 \u1112\u1161\u11ab") == t.encode("caf\u00e9 \u1ead \ud55c"));
}

TEST_CASE("long runs of one character are encoded in linear time by a byte-level tokenizer", "[slow]") {
  gptq::tokenizer const t = gptq::tokenizer::from_file(test::bundled_model());
  for (char const* const unit :
       {"a", " ", "\n", "1", "!", "\u8a9e", "\u0301", "\u180e", "\xFF", "<|im_start|>", "<|im_"}) {
    std::string text;
    while (text.size() < 3'000'000) text += unit;
    auto const all = t.encode(text);
    CHECK(all.size() > 1000);
  }
}
