/// gptq perplexity: how well a model, float or quantized, predicts a text; with a reference, how far it strays from it.
#include "app.hpp"
#include "compute.hpp"
#include "console.hpp"
#include "device.hpp"
#include "progress.hpp"
#include "text_input.hpp"

#include <gptq/checkpoint/json.hpp>
#include <gptq/model/evaluate.hpp>
#include <gptq/model/host.hpp>
#include <gptq/model/weights.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace app {
namespace {

struct perplexity_arguments {
  std::string model, text, ids, reference;
  gptq::index_t context = 512;
  gptq::index_t max_tokens = 0;  ///< 0: all
  bool json = false;
  compute_options compute;
};

gptq::json to_json(perplexity_arguments const& a, gptq::evaluation const& e, device_usage const& usage,
                   double seconds) {
  return {{"model", a.model},
          {"reference", a.reference.empty() ? gptq::json() : gptq::json(a.reference)},
          {"perplexity", e.perplexity},
          {"tokens", e.tokens},
          {"windows", e.windows},
          {"context", a.context},
          {"kl", e.kl ? gptq::json(*e.kl) : gptq::json()},
          {"top1", e.top1 ? gptq::json(*e.top1) : gptq::json()},
          {"device", usage.name.empty() ? gptq::json() : gptq::json(usage.name)},
          {"peak_device_bytes", usage.name.empty() ? gptq::json() : gptq::json(usage.peak_memory)},
          {"seconds", seconds}};
}

std::string to_text(gptq::evaluation const& e, device_usage const& usage, gptq::index_t context, double seconds) {
  std::string text = fmt::format("perplexity     {:.4f}\n", e.perplexity);
  if (e.kl) text += fmt::format("KL divergence  {:.6f}\n", *e.kl);
  if (e.top1) text += fmt::format("same top token {:.4f}\n", *e.top1);
  if (!usage.name.empty())
    text +=
        fmt::format("device         {}, at most {} of its memory in use\n", usage.name, megabytes(usage.peak_memory));
  return text + fmt::format("predictions    {} in {} of {} tokens, {}\n", e.tokens, counted(e.windows, "window"),
                            context, duration(seconds));
}

int perplexity(perplexity_arguments const& a) {
  stopwatch const clock;
  if (a.text.empty() == a.ids.empty()) throw usage_error("one of --text and --ids is needed, and not both");
  use(a.compute);
  gptq::model_weights const model(a.model);
  std::optional<gptq::model_weights> reference;
  if (!a.reference.empty()) reference.emplace(a.reference);

  auto const vocabulary = model.config().vocabulary;
  auto ids = a.text.empty() ? read_all_ids(a.ids, vocabulary) : encode_file(a.text, a.model, false, vocabulary);
  if (a.max_tokens > 0 && static_cast<gptq::index_t>(ids.size()) > a.max_tokens)
    ids.resize(static_cast<std::size_t>(a.max_tokens));
  if (static_cast<gptq::index_t>(ids.size()) < a.context)
    throw gptq::shape_error(fmt::format("{}: {} are fewer than one window (--context {})",
                                        a.text.empty() ? a.ids : a.text,
                                        counted(static_cast<std::int64_t>(ids.size()), "token"), a.context));
  if (auto const positions = model.config().max_positions; positions > 0 && a.context > positions)
    warn(fmt::format("--context: {} tokens are more than the {} positions of the model", a.context, positions));

  evaluate_progress progress;
  gptq::evaluation_options options;
  options.context = a.context;
  options.progress = [&](gptq::index_t done, gptq::index_t all) { progress(done, all); };
  device_usage usage;
  auto const result = [&] {
    try {
      gptq::model_weights const* const other = reference ? &*reference : nullptr;
#if GPTQ_WITH_CUDA
      if (on_device(a.compute)) return evaluate_on_cuda(device_memory(a.compute), model, ids, options, other, usage);
#endif
      gptq::host_model_backend backend;
      return gptq::evaluate(backend, model, ids, options, other);
    } catch (gptq::numeric_error const& e) {  // of a window, or of a tensor in a file
      std::string const what = e.what();
      throw gptq::numeric_error(what.starts_with("evaluate: ") ? a.model + ": " + what : what);
    }
  }();
  progress.finish();

  if (a.json)
    fmt::print("{}", gptq::to_text(to_json(a, result, usage, clock.seconds())));
  else
    fmt::print("{}", to_text(result, usage, a.context, clock.seconds()));
  return success;
}

}  // namespace

void add_perplexity(CLI::App& root, action& run) {
  auto const a = std::make_shared<perplexity_arguments>();
  CLI::App* const command = root.add_subcommand("perplexity", "Perplexity of a float or quantized model on a text");
  command->add_option("model", a->model, "Model folder, float or quantized")->required()->type_name("");
  auto* const text = command->add_option("--text", a->text, "Text, tokenized as a whole, without BOS");
  auto* const ids =
      command->add_option("--ids", a->ids, "Token ids, {\"input_ids\": [...]} a line; the lines are read as one text");
  text->type_name("FILE")->excludes(ids);
  ids->type_name("FILE.jsonl");
  command
      ->add_option("--context", a->context, "Tokens of a window; windows do not overlap, a last short one is left out")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str()
      ->type_name("N");
  command->add_option("--max-tokens", a->max_tokens, "Use no more than the first N tokens")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 40))
      ->type_name("N");
  command->add_option("--reference", a->reference, "A model to compare with: KL divergence, share of equal top tokens")
      ->type_name("MODEL");
  command->add_flag("--json", a->json, "Print one JSON object");
  add_compute_options(*command, a->compute);
  command->callback([a, &run] { run = [a] { return perplexity(*a); }; });
}

}  // namespace app
