// Engines, formats and chats, as a user meets them: quantize --engine, inspect --engine, repack, --chat-format.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <gptq/io/json.hpp>

namespace {

using test::model_copy;
using test::run_app;
using test::run_well;

double perplexity(std::filesystem::path const& folder) {
  auto const r = run_well({"perplexity", folder.string(), "--text", (test::bundled_model() / "evaluation.txt").string(),
                           "--max-tokens", "1024", "--json"});
  return gptq::parse_json(r.out, "stdout").at("perplexity").get<double>();
}

}  // namespace

TEST_CASE("quantize --engine refuses before any work, with the rule, the layer and what to change", "[app]") {
  model_copy const m;
  m.check_refused({"--engine", "vllm: refused: V2", "model.layers.0.self_attn.q_proj", "3 bit g128 sym (and 27 more)",
                   "--bits 4 or 8"},
                  {"--bits", "3", "--engine", "vllm"});
  m.check_refused({"vllm: refused: V8", "--order group_aware"}, {"--order", "desc_act", "--engine", "vllm"});
  m.check_refused({"exllamav2: wrong numbers: E1", "openvino: refused: P1"},
                  {"--bits", "8", "--engine", "vllm", "--engine", "exllamav2", "--engine", "openvino"});
  m.check_refused({"ort-genai: refused: O2", "down_proj"}, {"--skip", ".*down_proj", "--engine", "ort-genai"});
  m.check_refused({"vllm: refused: V5", "model.layers.0.self_attn.o_proj"},
                  {"--engine", "vllm", "--tensor-parallel", "2"});
  m.check_refused({"--engine", "tgi"}, {"--engine", "tgi"}, 2);
}

TEST_CASE("quantize warns where nobody is named, and not where the engines named take the result", "[app]") {
  model_copy const m;
  CHECK_THAT(run_well(m.small_run({"--bits", "3"})).err,
             test::contains("no --engine given") && test::contains("vllm (V2)") && test::contains("llama.cpp (L1)"));
  std::filesystem::remove_all(m.output());
  auto const named = run_well(m.small_run({"--engine", "vllm", "--engine", "transformers"})).err;
  CHECK(named.find("--engine") == std::string::npos);
  std::filesystem::remove_all(m.output());
  CHECK(run_well(m.small_run({"--preset", "parity"})).err.find("--engine") == std::string::npos);
}

TEST_CASE("inspect --engine: what quantize promised holds for the folder", "[app]") {
  model_copy const m;
  run_well(m.small_run({"--skip", R"(.*\.0\.self_attn\.)", "--engine", "vllm", "--engine", "sglang", "--engine",
                        "gptqmodel", "--engine", "transformers"}));
  for (char const* const e : {"vllm", "sglang", "gptqmodel", "transformers"})
    CHECK_THAT(run_well({"inspect", m.output().string(), "--engine", e}).out,
               test::contains(std::string(e) + ": takes it"));
  auto const r = run_app({"inspect", m.output().string(), "--engine", "ort-genai", "--engine", "vllm", "--json"});
  CHECK(r.code == 1);
  auto const found = gptq::parse_json(r.out, "stdout").at("engines");
  CHECK(found.size() == 4);
  CHECK(found.at(0).at("rule") == "O2");
  CHECK(found.at(0).at("engine") == "ort-genai");
  CHECK(found.at(0).at("verdict") == "refused");
  CHECK_THAT(found.at(0).at("where").get<std::string>(), test::contains("model.layers.0.self_attn."));
  test::check_refused(run_app({"inspect", m.model().string(), "--engine", "vllm"}), 1, {"not quantized"});
}

TEST_CASE("--format compressed-tensors and repack: the same perplexity in every format", "[app]") {
  model_copy const m;
  run_well(m.small_run({"--format", "compressed-tensors", "--no-sym", "--engine", "vllm"}));
  CHECK(test::names_in(m.output()) == std::vector<std::string>{"chat_template.jinja", "config.json",
                                                               "generation_config.json", "model.safetensors",
                                                               "tokenizer.json", "tokenizer_config.json"});
  CHECK(gptq::read_json(m.output() / "config.json").at("quantization_config").at("quant_method") ==
        "compressed-tensors");
  double const expected = perplexity(m.output());
  auto const v2 = m.results() / "v2";
  CHECK_THAT(run_well({"repack", m.output().string(), v2.string(), "--format", "gptq_v2", "--shard-size", "200kB"}).out,
             test::contains("28 quantized layers, compressed-tensors -> gptq_v2"));
  CHECK(perplexity(v2) == expected);
  CHECK(std::filesystem::exists(v2 / "model.safetensors.index.json"));
  test::check_refused(run_app({"repack", v2.string(), v2.string()}), 1, {"can't be the output"});
  test::check_refused(run_app({"repack", m.model().string(), (m.results() / "x").string()}), 1,
                      {"not a quantized model"});
  test::check_refused(run_app({"repack", v2.string(), (m.results() / "x").string(), "--format", "awq"}), 2,
                      {"--format"});
  model_copy const other;
  other.check_refused({"3 bit codes"}, {"--format", "compressed-tensors", "--bits", "3"});
}

TEST_CASE("chats as calibration data, by the model's template or another one", "[app]") {
  model_copy const m;
  auto const file = m.folder()
                        .write("chat.jsonl", R"({"dialog": [{"role": "user", "content": "Who goes there?"},
                                                            {"role": "bot", "content": "A friend."}]})"
                                             "\n")
                        .string();
  auto const one_line = m.folder()
                            .write("one.jsonl",
                                   "{\"dialog\": [{\"role\": \"user\", \"content\": \"Who goes there?\"}, "
                                   "{\"role\": \"bot\", \"content\": \"A friend.\"}]}\n{\"dialog\": []}\n")
                            .string();
  auto const run = [&](std::string const& data, std::vector<std::string> more) {
    more.insert(more.begin(), {"quantize", m.model().string(), m.output().string(), "--calibration", data});
    return more;
  };
  test::check_refused(run_app(run(file, {})), 1, {"chat.jsonl: line 1", "not valid JSON"});
  auto const r = run_well(run(one_line, {"--show-sample"}));
  CHECK_THAT(r.out, test::contains("first sample:\n<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                                   "<|im_start|>user\nWho goes there?<|im_end|>\n<|im_start|>assistant\nA friend."));
  CHECK_THAT(r.out, test::contains("calibration  1 sample, ") && test::contains("0 cut, 1 dropped"));
  std::filesystem::remove_all(m.output());
  CHECK_THAT(run_well(run(one_line, {"--show-sample", "--chat-format", "chatml"})).out,
             test::contains("first sample:\n<|im_start|>user\n"));
  std::filesystem::remove_all(m.output());
  test::check_refused(run_app(run(one_line, {"--chat-format", "llama3"})), 1,
                      {"the tokenizer has no token <|begin_of_text|>", "llama3"});
  std::ofstream(m.model() / "chat_template.jinja", std::ios::trunc) << "{{ 'User: ' + messages }}";
  test::check_refused(run_app(run(one_line, {})), 1, {"chat_template.jinja", "User: ", "--chat-format"});
}
