#include <gptq/text/ids.hpp>

#if defined(PCRE2_MAJOR) || defined(UTF8PROC_VERSION_MAJOR)
#error "reading ids must not need the libraries of the tokenizers"
#endif

#include "support/catch.hpp"
#include "support/temp_dir.hpp"

#include <string>
#include <vector>

namespace {
using ids = std::vector<std::int32_t>;
}

TEST_CASE("ids: records and plain arrays, the first that are asked for, cut") {
  test::temp_dir const dir;
  auto const file = dir.write("ids.jsonl",
                              "\xEF\xBB\xBF{\"input_ids\": [1, 2, 3], \"attention_mask\": [1, 1, 1]}\r\n\r\n"
                              "[4,5]\n[]\n {\"input_ids\":[0]} \n[6]\n[99]\n");
  auto const set = gptq::read_ids(file, 7, {.samples = 4, .sequence_length = 2});
  CHECK(set.samples == std::vector<ids>{{1, 2}, {4, 5}, {0}, {6}});
  CHECK(set.asked == 4);
  CHECK(set.tokens == 6);
  CHECK(set.shortest == 1);
  CHECK(set.longest == 2);
  CHECK(set.cut == 1);
  CHECK(set.dropped == 1);
  CHECK(set.full());
}

TEST_CASE("ids: what is no id of the vocabulary is refused with its line") {
  test::temp_dir const dir;
  struct {
    char const* line;
    char const* named;
  } const cases[] = {
      {"[0, 7]", "position 1 holds 7, an id must be an integer from 0 to 6"},
      {"[-1]", "position 0 holds -1"},
      {"[1.0]", "holds 1.0"},
      {"[true]", "holds true"},
      {"[\"1\"]", "holds \"1\""},
      {"[[1, 2], [3]]", "holds [1,2]"},
      {"[4294967297]", "holds 4294967297"},
      {"[99999999999999999999999]", "position 0 holds"},
      {"{\"ids\": [1]}", "\"input_ids\" is missing"},
      {"{\"input_ids\": 5}", "not number"},
      {"5", "is needed, not number"},
      {"[1, 2", "not valid JSON"},
      {"[1] [2]", "not valid JSON"},
      {"{\"input_ids\": [1], \"input_ids\": [2]}", "duplicate key"},
  };
  for (auto const& c : cases) {
    INFO(c.line);
    auto const file = dir.write("ids.jsonl", std::string("[1]\n\n") + c.line + "\n");
    CHECK_THROWS_WITH(gptq::read_ids(file, 7), test::contains("ids.jsonl: line 3: ") && test::contains(c.named));
  }
}

TEST_CASE("ids: an id beyond the cut is checked too") {
  test::temp_dir const dir;
  auto const file = dir.write("ids.jsonl", "[1, 2, 99]");
  CHECK_THROWS_AS(gptq::read_ids(file, 7, {.samples = 1, .sequence_length = 2}), gptq::format_error);
}

TEST_CASE("ids: a file without any is refused by name") {
  test::temp_dir const dir;
  for (char const* const text : {"", "\n\n", "[]\n{\"input_ids\": []}\n"})
    CHECK_THROWS_WITH(gptq::read_ids(dir.write("ids.jsonl", text), 7), test::contains("ids.jsonl: no token ids"));
  CHECK_THROWS_WITH(gptq::read_ids(dir / "none.jsonl", 7), test::contains("none.jsonl: can't open"));
}
