#include "support/catch.hpp"
#include "text/small_tokenizer.hpp"

#include <string>

using test::ids;
using test::small_tokenizer;

namespace {
constexpr char const* bos = R"({"SpecialToken": {"id": "d", "type_id": 0}})";
constexpr char const* eos = R"({"SpecialToken": {"id": ".", "type_id": 0}})";
constexpr char const* text = R"({"Sequence": {"id": "A", "type_id": 0}})";

std::string single(std::string const& pieces,
                   std::string const& specials = R"({"d": {"id": "d", "ids": [8]}, ".": {"id": ".", "ids": [9, 9]}})") {
  return R"({"type": "TemplateProcessing", "single": [)" + pieces + R"(], "pair": [], "special_tokens": )" + specials +
         "}";
}
}  // namespace

TEST_CASE("a template puts BOS and EOS around a text, only when asked") {
  small_tokenizer t;
  t.post_processor = single(std::string(bos) + ", " + text + ", " + eos);
  CHECK(t.encode("ab") == ids{3});
  CHECK(t.encode("ab", true) == ids{8, 3, 9, 9});
  CHECK(t.encode("", true) == ids{8, 9, 9});
  CHECK(t.make().prefix() == ids{8});
}

TEST_CASE("no template, or one with the text alone, adds nothing") {
  small_tokenizer t;
  CHECK(t.encode("ab", true) == ids{3});
  t.post_processor = single(text, "{}");
  CHECK(t.encode("ab", true) == ids{3});
  t.post_processor = R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true})";
  CHECK(t.encode("ab", true) == ids{3});
}

TEST_CASE("a sequence with ByteLevel, as Llama 3 has it") {
  small_tokenizer t;
  t.post_processor =
      R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, )" + single(std::string(bos) + ", " + text) + "]}";
  CHECK(t.encode("ab", true) == ids{8, 3});
}

TEST_CASE("templates that are not whole are refused") {
  auto const with = [](std::string const& p) {
    small_tokenizer t;
    t.post_processor = p;
    return t.make();
  };
  CHECK_THROWS_WITH(with(R"({"type": "RobertaProcessing"})"),
                    test::contains("small.json: post_processor: type \"RobertaProcessing\" is not supported"));
  CHECK_THROWS_WITH(with(single(bos)), test::contains("no place"));
  CHECK_THROWS_WITH(with(single(std::string(text) + ", " + text)), test::contains("single[1]"));
  CHECK_THROWS_WITH(with(single(R"({"Sequence": {"id": "B"}})")), test::contains("single[0]"));
  CHECK_THROWS_WITH(with(single("{}")), test::contains("SpecialToken or Sequence"));
  CHECK_THROWS_WITH(with(single(std::string(bos) + ", " + text, "{}")), test::contains("\"d\", which has no ids"));
  CHECK_THROWS_WITH(with(single(std::string(bos) + ", " + text, R"({"d": {"ids": [-1]}})")), test::contains("integer"));
  CHECK_THROWS_WITH(with(single(std::string(bos) + ", " + text, R"({"d": {"ids": [77]}})")),
                    test::contains("small.json: post_processor: id 77 is no token"));
}
