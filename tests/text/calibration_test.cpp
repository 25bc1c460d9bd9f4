#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"
#include "text/small_tokenizer.hpp"

#include <gptq/text/calibration.hpp>
#include <gptq/text/tokenizer.hpp>

#include <string>
#include <vector>

using test::ids;
using test::small_tokenizer;

namespace {
/// Over a, b, c with abc as one token; BOS is d (8).
gptq::tokenizer with_bos() {
  small_tokenizer t;
  t.post_processor = R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "d", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"d": {"id": "d", "ids": [8]}}})";
  return t.make();
}
}  // namespace

TEST_CASE("lines: one sample a line, with BOS, ends stripped, empty lines dropped") {
  test::temp_dir const dir;
  auto const file = dir.write("c.txt", "\xEF\xBB\xBF abc \r\n\r\n \t\u3000\r\na b\r\nccc");
  auto const set = gptq::read_lines(file, with_bos());
  CHECK(set.samples == std::vector<ids>{{8, 4}, {8, 0, 5, 1}, {8, 2, 2, 2}});
  CHECK(set.asked == 128);
  CHECK(set.tokens == 10);
  CHECK(set.shortest == 2);
  CHECK(set.longest == 4);
  CHECK(set.cut == 0);
  CHECK(set.dropped == 2);
  CHECK_FALSE(set.full());
}

TEST_CASE("lines: only the first ones that are asked for, each cut after tokenizing it whole") {
  test::temp_dir const dir;
  auto const file = dir.write("c.txt", "abcabc\n\nab\naaaaaa\n\n\n");
  auto const set = gptq::read_lines(file, with_bos(), {.samples = 2, .sequence_length = 2});
  CHECK(set.samples == std::vector<ids>{{8, 4}, {8, 3}});
  CHECK(set.cut == 1);
  CHECK(set.dropped == 1);
  CHECK(set.full());
}

TEST_CASE("lines: characters that are lost and bytes that are no UTF-8 are counted") {
  test::temp_dir const dir;
  auto const set = gptq::read_lines(dir.write("c.txt", "a\xFF\nxbx\nxyz\n"), small_tokenizer().make());
  CHECK(set.samples == std::vector<ids>{{0}, {1}});
  CHECK(set.dropped == 1);  // nothing is left of the third line
  CHECK(set.report.replaced_sequences == 1);
  CHECK(set.report.lost_characters == 6);  // U+FFFD too
}

TEST_CASE("windows: the whole file without BOS, consecutive full windows from the start") {
  test::temp_dir const dir;
  auto const file = dir.write("c.txt",
                              "\xEF\xBB\xBF"
                              "abcab dda.");
  auto const set = gptq::read_windows(file, with_bos(), {.samples = 9, .sequence_length = 3});
  CHECK(set.samples == std::vector<ids>{{4, 3, 5}, {8, 8, 0}});
  CHECK(set.tokens == 6);
  CHECK(set.shortest == 3);
  CHECK(set.longest == 3);
  CHECK(set.dropped == 1);
  CHECK(set.asked == 9);
  auto const one = gptq::read_windows(file, with_bos(), {.samples = 1, .sequence_length = 3});
  CHECK(one.samples == std::vector<ids>{{4, 3, 5}});
  CHECK(one.dropped == 0);
}

TEST_CASE("a file without text, or with less than a window, is refused by name") {
  test::temp_dir const dir;
  for (char const* const text : {"", "\n\r\n  \n", "\xEF\xBB\xBF"}) {
    auto const file = dir.write("empty.txt", text);
    CHECK_THROWS_WITH(gptq::read_lines(file, with_bos()), test::contains("empty.txt: no line with text"));
  }
  CHECK_THROWS_WITH(gptq::read_windows(dir.write("empty.txt", ""), with_bos()), test::contains("empty.txt: no text"));
  CHECK_THROWS_WITH(gptq::read_windows(dir.write("short.txt", "abc"), with_bos(), {.samples = 1, .sequence_length = 2}),
                    test::contains("short.txt: 1 tokens, fewer than one window of 2"));
  CHECK_THROWS_WITH(gptq::read_lines(dir / "missing.txt", with_bos()), test::contains("missing.txt: can't open"));
  CHECK_THROWS_WITH(gptq::read_windows(dir.path(), with_bos()), test::contains("a folder"));
}

TEST_CASE("nonsensical amounts are refused") {
  test::temp_dir const dir;
  auto const file = dir.write("c.txt", "abc");
  CHECK_THROWS_AS(gptq::read_lines(file, with_bos(), {.samples = 0}), gptq::shape_error);
  CHECK_THROWS_AS(gptq::read_windows(file, with_bos(), {.samples = 1, .sequence_length = 0}), gptq::shape_error);
}

TEST_CASE("the calibration of the accuracy table has the published number of tokens") {
  GPTQ_REQUIRE_SHARED("text/calibration_c4.txt");
  GPTQ_REQUIRE_SHARED("models/web-qwen2-22m");
  auto const tokenizer = gptq::tokenizer::from_file(test::shared_dir() / "models/web-qwen2-22m");
  auto const set = gptq::read_lines(test::shared_dir() / "text/calibration_c4.txt", tokenizer,
                                    {.samples = 128, .sequence_length = 512});
  CHECK(set.samples.size() == 128);
  CHECK(set.tokens == 48'159);
}

TEST_CASE("the bundled calibration text: 96 samples") {
  auto const tokenizer = gptq::tokenizer::from_file(test::bundled_model());
  auto const set = gptq::read_lines(test::bundled_model() / "calibration.txt", tokenizer);
  CHECK(set.samples.size() == 96);
  CHECK(set.tokens == 59'629);
  CHECK(set.shortest == 595);
  CHECK(set.longest == 640);
  CHECK(set.dropped == 0);
}
