// Records of chats, texts and ids as calibration samples.
#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/text/chat_records.hpp>
#include <gptq/text/tokenizer.hpp>

using test::message_of;

namespace {

gptq::tokenizer const& bundled() {
  static auto const t = gptq::tokenizer::from_file(test::bundled_model());
  return t;
}

gptq::calibration_set read(std::filesystem::path const& file, gptq::calibration_options const& options = {}) {
  return gptq::read_records(
      file, bundled(), 1024, [] { return *gptq::find_chat_format("chatml"); }, options);
}

std::vector<std::string> texts(gptq::calibration_set const& set) {
  std::vector<std::string> out;
  for (auto const& s : set.samples) out.push_back(bundled().decode(s));
  return out;
}

constexpr char const* dialogue =
    "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nI.<|im_end|>\n";

}  // namespace

TEST_CASE("records: the same conversation in every spelling") {
  test::temp_dir const dir;
  std::string const lines =
      R"({"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Who?"}, {"role": "assistant", "content": [{"type": "text", "text": "I."}]}]})"
      "\r\n\r\n"
      R"({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}], "system": "Be."})"
      "\r\n"
      R"({"system": "Be.", "dialog": [{"role": "user", "content": "Who?"}, {"role": "bot", "content": "I."}], "id": 7})"
      "\r\n"
      R"({"instruction": "Who?", "input": "", "output": "I.", "system": "Be."})"
      "\r\n";
  auto const set = read(dir.write("chat.jsonl", lines));
  CHECK(texts(set) == std::vector<std::string>(4, dialogue));
  auto const id = bundled().token_to_id("<|im_start|>");
  REQUIRE(id);
  CHECK(set.samples.front().front() == *id);
  CHECK(set.dropped == 0);
}

TEST_CASE("records: Alpaca's input and history, a JSON array, texts and ids beside chats, empty ones dropped") {
  test::temp_dir const dir;
  auto const set = read(dir.write("chat.json", R"([
      {"instruction": "Add", "input": "1 2", "output": "3", "history": [["a", "b"]]},
      {"instruction": "", "input": "", "output": ""},
      {"messages": []}, {"text": "  "},
      {"text": " To be "}, {"input_ids": [1, 2, 3]}, [4, 5]])"));
  CHECK(texts(set)[0] ==
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nAdd\n1 2<|im_end|>\n"
        "<|im_start|>assistant\n3<|im_end|>\n");
  CHECK(texts(set)[1] == "To be");
  CHECK(set.samples[2] == std::vector<std::int32_t>{1, 2, 3});
  CHECK(set.samples[3] == std::vector<std::int32_t>{4, 5});
  CHECK(set.dropped == 3);
  CHECK(set.samples.size() == 4);
  auto const two = read(dir / "chat.json", {.samples = 2, .sequence_length = 5});
  CHECK(two.samples.size() == 2);
  CHECK(two.cut == 1);
  CHECK(two.longest == 5);
}

TEST_CASE("records: what is no record is refused by file and line") {
  test::temp_dir const dir;
  auto const refused = [&](std::string const& line, std::string const& why) {
    auto const file = dir.write("bad.jsonl", "{\"text\": \"fine\"}\n" + line + "\n");
    CHECK_THAT(message_of([&] { read(file); }), test::contains("bad.jsonl: line 2") && test::contains(why));
  };
  refused(R"({"messages": [{"role": "tool", "content": "x"}]})", "role \"tool\" is not supported");
  refused(R"({"messages": {"role": "user"}})", "\"messages\" is not a list");
  refused(R"({"messages": [{"role": "user"}]})", "neither \"content\" nor \"value\"");
  refused(R"({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]})", "system turn");
  refused(R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})", "no text");
  refused(R"({"prompt": "x"})", "none of messages");
  refused(R"("text")", "must be an object");
  refused(R"({"text": "x")", "not valid JSON");
  refused(R"({"input_ids": [1, 5000]})", "position 1");
  CHECK_THAT(message_of([&] { read(dir.write("empty.json", "[]")); }), test::contains("no record with text"));
}

TEST_CASE("records: the shared chat data are read whole") {
  GPTQ_REQUIRE_SHARED("text");
  auto const folder = test::shared_dir() / "text";
  struct expected {
    char const* name;
    std::size_t records;
  };
  for (auto const& [name, records] :
       {expected{"telechat2_demo_single.jsonl", 100}, expected{"calibration_c4.jsonl", 300},
        expected{"llamafactory_alpaca_en_demo.json", 999}, expected{"llamafactory_alpaca_zh_demo.json", 1000}}) {
    INFO(name);
    auto const set = read(folder / name, {.samples = 100000, .sequence_length = 2048});
    CHECK(set.samples.size() + static_cast<std::size_t>(set.dropped) == records);
    CHECK(set.dropped == 0);
  }
}
