// What generate prints and refuses.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace {

using test::bard;
using test::check_refused;
using test::model_copy;
using test::run_app;
using test::run_well;

gptq::json generated(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "generate");
  arguments.push_back("--json");
  return gptq::parse_json(run_well(arguments).out, "stdout");
}

}  // namespace

TEST_CASE("generate goes on with a prompt, the same every time", "[app]") {
  std::vector<std::string> const arguments = {bard, "--prompt", "ROMEO:\nMy lord,", "--max-new-tokens", "24"};
  auto const r = generated(arguments);
  CHECK(r.at("ids").size() == 24);
  CHECK(r.at("end") == "max_new_tokens");
  CHECK(r.at("tokens_per_second").get<double>() > 0);
  CHECK(r.at("prompt_tokens_per_second").get<double>() > 0);
  CHECK(generated(arguments).at("text") == r.at("text"));

  auto plain = arguments;
  plain.insert(plain.begin(), "generate");
  auto const run = run_well(plain);
  CHECK(run.out == r.at("text").get<std::string>() + "\n");
  CHECK_THAT(run.err, test::contains("prompt of ") && test::contains("24 new tokens") && test::contains(" a second"));

  test::temp_dir const folder;
  auto const file = folder.write("prompt.txt", "ROMEO:\nMy lord,").string();
  CHECK(generated({bard, "--prompt-file", file, "--max-new-tokens", "24"}).at("ids") == r.at("ids"));

  std::string ids;
  for (int const id : r.at("prompt_ids").get<std::vector<int>>()) ids += (ids.empty() ? "" : ",") + std::to_string(id);
  auto const by_ids = run_well({"generate", bard, "--prompt-ids", ids, "--max-new-tokens", "24"});
  std::string expected;
  for (int const id : r.at("ids").get<std::vector<int>>())
    expected += (expected.empty() ? "" : " ") + std::to_string(id);
  CHECK(by_ids.out == expected + "\n");
}

TEST_CASE("generate draws tokens by a seed", "[app]") {
  auto const with = [](std::string const& seed) {
    return generated({bard, "--prompt", "To be", "--temperature", "1", "--seed", seed}).at("ids");
  };
  CHECK(with("1") == with("1"));
  CHECK(with("1") != with("2"));
}

TEST_CASE("generate ends at the stop ids of the folder and at the last position", "[app]") {
  auto const all = generated({bard, "--prompt", "To be"}).at("ids").get<std::vector<int>>();
  model_copy const m;
  m.edit_json("config.json", [&](gptq::json& c) { c["eos_token_id"] = all[3]; });
  std::filesystem::remove(m.model() / "generation_config.json");
  auto const stopped = generated({m.model().string(), "--prompt", "To be"});
  CHECK(stopped.at("end") == "stop_id");
  CHECK(stopped.at("ids").size() <= 3);
  m.edit_json("config.json", [&](gptq::json& c) { c["max_position_embeddings"] = 8, c["eos_token_id"] = nullptr; });
  CHECK(generated({m.model().string(), "--prompt", "To be"}).at("end") == "positions");
  check_refused(run_app({"generate", m.model().string(), "--prompt", "To be, or not to be, that is the question"}), 1,
                {"prompt", "8 positions"});
}

TEST_CASE("generate --chat wraps the prompt in the chat format", "[app]") {
  auto const chat = generated({bard, "--prompt", "Hi", "--chat", "--max-new-tokens", "4"});
  auto const spelled =
      generated({bard, "--prompt", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "--max-new-tokens", "4"});
  auto const prompt = chat.at("prompt_ids").get<std::vector<int>>();
  auto const plain = spelled.at("prompt_ids").get<std::vector<int>>();
  REQUIRE(prompt.size() >= plain.size());  // the template may begin with a system text
  CHECK(std::equal(plain.rbegin(), plain.rend(), prompt.rbegin()));

  model_copy const m;
  std::string const folder = m.model().string();
  check_refused(run_app({"generate", folder, "--prompt", "Hi", "--chat", "--chat-format", "telechat2"}), 1,
                {"<_user>", "telechat2"});
  std::filesystem::remove(m.model() / "chat_template.jinja");
  check_refused(run_app({"generate", folder, "--prompt", "Hi", "--chat"}), 1, {"no chat template", "--chat-format"});
}

TEST_CASE("generate runs checkpoints of others from their packed layers", "[app]") {
  GPTQ_REQUIRE_SHARED("fixtures/gptqmodel-w4g32-desc-act");
  auto const folder = (test::shared_dir() / "fixtures/gptqmodel-w4g32-desc-act").string();
  CHECK(generated({folder, "--prompt", "To be", "--max-new-tokens", "8"}).at("ids").size() == 8);
}

TEST_CASE("what generate can't go on with is refused", "[app]") {
  test::temp_dir const folder;
  check_refused(run_app({"generate", bard}), 2, {"--prompt", "--prompt-ids"});
  check_refused(run_app({"generate", bard, "--prompt", "a", "--prompt-ids", "1"}), 2, {"only one"});
  check_refused(run_app({"generate", bard, "--prompt", ""}), 2, {"--prompt", "empty"});
  check_refused(run_app({"generate", bard, "--prompt-file", folder.write("e.txt", "").string()}), 1,
                {"e.txt", "empty"});
  check_refused(run_app({"generate", bard, "--prompt-ids", "1,1024"}), 1, {"--prompt-ids", "1024"});
  check_refused(run_app({"generate", bard, "--prompt-ids", "1,x"}), 2, {"--prompt-ids"});
  check_refused(run_app({"generate", bard, "--prompt-ids", "1", "--chat"}), 2, {"--chat", "--prompt-ids"});
  check_refused(run_app({"generate", bard, "--prompt", "a", "--chat-format", "qwen2"}), 2, {"--chat-format"});
  check_refused(run_app({"generate", bard, "--prompt", "a", "--temperature", "-1"}), 2, {"--temperature"});
  check_refused(run_app({"generate", bard, "--prompt", "a", "--max-new-tokens", "0"}), 2, {"--max-new-tokens"});
  check_refused(run_app({"generate", (folder / "none").string(), "--prompt", "a"}), 1, {"config.json"});
  check_refused(run_app({"generate", bard, "--prompt", "a"}, {.out_file = "/dev/full"}), 1, {"standard output"});

  model_copy const m;
  m.edit_weights([](test::tensor_file& f) {
    std::string huge;
    for (int i = 0; i < 128; ++i) huge += std::string("\x00\x7f", 2);  // 1.7e38
    f.set("model.norm.weight", 0, huge);
  });
  check_refused(run_app({"generate", m.model().string(), "--prompt", "a"}), 1, {m.model().string(), "NaN or Inf"});
  m.edit_json("config.json", [](gptq::json& c) { c["model_type"] = "mamba"; });
  check_refused(run_app({"generate", m.model().string(), "--prompt", "a"}), 1, {"mamba", "supported are"});
}
