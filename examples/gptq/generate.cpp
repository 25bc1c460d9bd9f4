/// gptq generate: what a model, float or quantized, makes of a prompt.
#include "app.hpp"
#include "chat_option.hpp"
#include "compute.hpp"
#include "console.hpp"
#include "device.hpp"
#include "prompt.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/io/json.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/generate.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <system_error>

namespace app {
namespace {

struct generate_arguments {
  std::string model;
  prompt_request prompt;
  gptq::index_t max_new_tokens = 64;
  double temperature = 0;
  std::uint64_t seed = 0;
  bool json = false;
  compute_options compute;
};

/// Exactly one prompt, and a chat only of text.
void check_options(CLI::App const& command, generate_arguments const& a) {
  auto const given = command.count("--prompt") + command.count("--prompt-file") + !a.prompt.ids.empty();
  if (given != 1) throw usage_error("one of --prompt, --prompt-file and --prompt-ids is needed, and only one");
  if (a.prompt.chat && !a.prompt.ids.empty()) throw usage_error("--chat: is for text, not for --prompt-ids");
  if (!a.prompt.chat_format.empty() && !a.prompt.chat) throw usage_error("--chat-format: is for --chat");
}

char const* to_string(gptq::generation_end end) {
  switch (end) {
    case gptq::generation_end::stop_id: return "stop_id";
    case gptq::generation_end::positions: return "positions";
    default: return "max_new_tokens";
  }
}

double per_second(gptq::index_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

void print_now(std::string const& text) {
  errno = 0;
  fmt::print("{}", text);
  if (std::fflush(stdout) != 0)
    throw gptq::error("can't write to standard output: " + std::generic_category().message(errno ? errno : EIO));
}

int generate(generate_arguments const& a) {
  use(a.compute);
  gptq::model_weights const model(a.model);
  prompt const p = read_prompt(a.prompt, a.model, model.config().vocabulary);
  std::string text;
  auto const add = [&](std::string const& piece) {
    text += piece;
    if (!a.json && !piece.empty()) print_now(piece);
  };
  gptq::generate_options options;
  options.max_new_tokens = a.max_new_tokens;
  options.temperature = a.temperature;
  options.seed = a.seed;
  options.stop_ids = p.stop_ids;
  options.on_token = [&](std::int32_t id) { add(p.next(id)); };
  device_usage usage;
  auto const result = [&] {
    try {
#if GPTQ_WITH_CUDA
      if (on_device(a.compute)) return generate_on_cuda(device_memory(a.compute), model, p.ids, options, usage);
#endif
      gptq::host_model_backend backend;
      return gptq::generate(backend, model, p.ids, options);
    } catch (gptq::numeric_error const& e) {  // of logits, or of a tensor in a file
      std::string const what = e.what();
      throw gptq::numeric_error(what.starts_with("generate: ") ? a.model + ": " + what : what);
    }
  }();
  add(p.finish());

  auto const prompt_tokens = static_cast<gptq::index_t>(p.ids.size());
  double const prompt_speed = per_second(prompt_tokens, result.prompt_seconds);
  double const speed = per_second(result.steps, result.seconds);
  if (a.json) {
    bool const on_gpu = !usage.name.empty();
    gptq::json const report = {{"model", a.model},
                               {"prompt_ids", p.ids},
                               {"ids", result.ids},
                               {"text", a.prompt.ids.empty() ? gptq::json(text) : gptq::json()},
                               {"end", to_string(result.end)},
                               {"prompt_tokens_per_second", prompt_speed},
                               {"tokens_per_second", result.steps > 0 ? gptq::json(speed) : gptq::json()},
                               {"device", on_gpu ? gptq::json(usage.name) : gptq::json()},
                               {"peak_device_bytes", on_gpu ? gptq::json(usage.peak_memory) : gptq::json()}};
    fmt::print("{}", gptq::to_text(report));
    return success;
  }
  print_now("\n");
  std::string line = fmt::format("prompt of {}, {:.4g} a second", counted(prompt_tokens, "token"), prompt_speed);
  line += fmt::format("; {}", counted(static_cast<std::int64_t>(result.ids.size()), "new token"));
  if (result.steps > 0) line += fmt::format(", {:.4g} a second", speed);
  if (result.end == gptq::generation_end::positions) line += "; the model has no more positions";
  if (!usage.name.empty()) line += fmt::format("; {}, {}", usage.name, megabytes(usage.peak_memory));
  say(line);
  return success;
}

}  // namespace

void add_generate(CLI::App& root, action& run) {
  auto const a = std::make_shared<generate_arguments>();
  CLI::App* const command = root.add_subcommand("generate", "What a float or quantized model makes of a prompt");
  command->add_option("model", a->model, "Model folder, float or quantized")->required()->type_name("");
  command->add_option("--prompt", a->prompt.text, "The text to go on with")->type_name("TEXT");
  command->add_option("--prompt-file", a->prompt.file, "The same from a file, as it is")->type_name("FILE");
  command->add_option("--prompt-ids", a->prompt.ids, "The same as token ids: 1,2,3; new ones are printed as ids too")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("IDS");
  command->add_flag("--chat", a->prompt.chat, "The prompt is what a user says, in the model's chat format");
  add_chat_format(*command, a->prompt.chat_format);
  command->add_option("--max-new-tokens", a->max_new_tokens, "New tokens at most")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str()
      ->type_name("N");
  command
      ->add_option("--temperature", a->temperature,
                   "0: always the likeliest token; else tokens are drawn, their logits divided by this")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str()
      ->type_name("X");
  command->add_option("--seed", a->seed, "Of the drawing")->capture_default_str()->type_name("N");
  command->add_flag("--json", a->json, "Print one JSON object at the end, and nothing before");
  add_compute_options(*command, a->compute);
  command->callback([a, command, &run] {
    check_options(*command, *a);
    run = [a] { return generate(*a); };
  });
}

}  // namespace app
