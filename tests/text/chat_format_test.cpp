// Conversations as text: each format by hand, as the models' own templates give it, and templates recognised.
#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/text/chat_format.hpp>

using test::message_of;

namespace {

using gptq::chat_role;

gptq::conversation const two_rounds = {{chat_role::system, "S"},
                                       {chat_role::user, "U1"},
                                       {chat_role::assistant, "A1"},
                                       {chat_role::user, "U2"},
                                       {chat_role::assistant, "A2"}};

std::string formatted(char const* format, gptq::conversation const& turns = two_rounds) {
  return gptq::format_chat(*gptq::find_chat_format(format), turns);
}

std::string recognised(std::string const& text) {
  auto const format = gptq::recognise_template(text);
  return format ? to_string(*format) + "|" + format->default_system : "nothing";
}

}  // namespace

TEST_CASE("chat formats: two rounds with a system text") {
  CHECK(formatted("chatml") ==
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n");
  CHECK(formatted("qwen3") ==
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nA2<|im_end|>\n");
  CHECK(formatted("llama3") ==
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA1"
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|><|start_header_id|>assistant"
        "<|end_header_id|>\n\nA2<|eot_id|>");
  CHECK(formatted("llama2") == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1 </s><s>[INST] U2 [/INST] A2 </s>");
  CHECK(formatted("mistral") == "<s>[INST] S\n\nU1 [/INST] A1</s>[INST] U2 [/INST] A2</s>");
  CHECK(formatted("mistral-v3") == "<s>[INST] U1[/INST] A1</s>[INST] S\n\nU2[/INST] A2</s>");
  CHECK(formatted("mistral-nemo") == "<s>[INST]U1[/INST]A1</s>[INST]S\n\nU2[/INST]A2</s>");
  CHECK(formatted("telechat2") == "<_system>S\n<_user>U1<_bot>A1<_end>\n<_user>U2<_bot>A2<_end>\n");
  CHECK(formatted("phi3") ==
        "<|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nU2<|end|>\n<|assistant|>\nA2"
        "<|end|>\n");
  CHECK(formatted("gemma") ==
        "<bos><start_of_turn>user\nS\n\nU1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n<start_of_turn>user\n"
        "U2<end_of_turn>\n<start_of_turn>model\nA2<end_of_turn>\n");
}

TEST_CASE("chat formats: what stands for a missing system text") {
  gptq::conversation const turns = {{chat_role::user, " U "}};
  CHECK(formatted("chatml", turns) == "<|im_start|>user\n U <|im_end|>\n");
  CHECK(formatted("qwen2", turns) ==
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n U <|im_end|>\n");
  CHECK_THAT(formatted("qwen2.5", turns), test::contains("created by Alibaba Cloud"));
  CHECK(formatted("llama3", turns) == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>");
  CHECK_THAT(formatted("llama3.1", turns), test::contains("system<|end_header_id|>\n\nCutting Knowledge Date"));
  CHECK(formatted("telechat2", turns).rfind("<_system>你是中国电信", 0) == 0);
  CHECK(formatted("gemma", turns) == "<bos><start_of_turn>user\nU<end_of_turn>\n");
}

TEST_CASE("chat formats: templates are recognised by their markers, and others are not") {
  CHECK(recognised("{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'}}") == "chatml|");
  CHECK(recognised("{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}") == "chatml|Be kind.");
  CHECK(recognised("'<|im_start|>system\\n' + x '<|im_end|>' <think>") == "qwen3|");
  CHECK(recognised("<|im_start|>role<|im_sep|>content<|im_end|>") == "nothing");
  CHECK(recognised("<|start_header_id|> <|eot_id|>") == "llama3|");
  CHECK(recognised("<|start_header_id|> <|eot_id|> Cutting Knowledge Date: ") == "llama3.1|");
  CHECK(recognised("'[INST] ' + '<<SYS>>\\n' + ' [/INST]'") == "llama2|");
  CHECK(recognised("'[INST] ' + content + ' [/INST]'") == "mistral|");
  CHECK(recognised("'[INST] ' + content + '[/INST]'") == "mistral-v3|");
  CHECK(recognised("'[INST]' + content + '[/INST]'") == "mistral-nemo|");
  CHECK(recognised("'<|user|>\\n' + content + '<|end|>\\n'") == "phi3|");
  CHECK(recognised("'<|user|>\\n' + content + eos_token") == "nothing");
  CHECK(recognised("{{ '<start_of_turn>' }}") == "gemma|");
  CHECK(recognised("{{ 'User: ' + content }}") == "nothing");
  auto const bundled = gptq::read_chat_format(test::bundled_model());
  CHECK(to_string(bundled) == "qwen2");
  CHECK(bundled.default_system == "You are a helpful assistant.");
}

TEST_CASE("chat formats: a folder's template, wherever it is; one that is not built in is named") {
  test::temp_dir const dir;
  auto const folder = dir.path();
  CHECK_THAT(message_of([&] { gptq::read_chat_format(folder); }),
             test::contains("no chat template") && test::contains("say which"));
  dir.write("config.json", R"({"model_type": "telechat"})");
  CHECK(to_string(gptq::read_chat_format(folder)) == "telechat2");
  dir.write("tokenizer_config.json", R"({"chat_template": [{"name": "tool", "template": "x"},
                                         {"name": "default", "template": "<start_of_turn>"}]})");
  CHECK(to_string(gptq::read_chat_format(folder)) == "gemma");
  dir.write("chat_template.jinja", "{{ 'User: ' + messages }}");
  CHECK_THAT(message_of([&] { gptq::read_chat_format(folder); }),
             test::contains("chat_template.jinja") && test::contains("User: ") && test::contains("say which"));
}

TEST_CASE("chat formats: an answer stands between its opening and its end") {
  for (auto const& f : gptq::detail::chat_formats) {
    CAPTURE(f.name);
    gptq::chat_format const format{f.kind, f.default_system};
    std::string const prompt = gptq::format_chat(format, {{chat_role::user, "U"}}) + gptq::answer_opening(format.kind);
    std::string const whole = gptq::format_chat(format, {{chat_role::user, "U"}, {chat_role::assistant, "A"}});
    REQUIRE(whole.rfind(prompt, 0) == 0);
    std::string answer = whole.substr(prompt.size());
    std::string const think = "<think>\n\n</think>\n\n";  // Qwen3 leaves it to the model
    if (answer.rfind(think, 0) == 0) answer.erase(0, think.size());
    answer.erase(0, answer.find_first_not_of(' '));
    CHECK(answer.substr(0, 1) == "A");
    answer.erase(0, answer.find_first_not_of(' ', 1));
    CHECK(answer.rfind(gptq::answer_end(format.kind), 0) == 0);
  }
}
