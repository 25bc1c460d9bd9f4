/// gptq perplexity: how well a model, float or quantized, predicts a text; with a reference, how far it strays from it.
#include "app.hpp"
#include "compute.hpp"
#include "console.hpp"
#include "evaluation.hpp"
#include "progress.hpp"
#include "text_input.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/model/config.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/evaluate.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace app {
namespace {

struct perplexity_arguments {
  evaluation_request request;
  std::string text, ids;
  bool json = false;
  compute_options compute;
};

int perplexity(perplexity_arguments& a) {
  if (a.text.empty() == a.ids.empty()) throw usage_error("one of --text and --ids is needed, and not both");
  stopwatch const clock;
  use(a.compute);
  gptq::index_t const vocabulary = gptq::read_model_config(a.request.model).vocabulary;
  auto ids = a.text.empty() ? read_all_ids("--ids", a.ids, vocabulary)
                            : encode_file("--text", a.text, a.request.model, false, vocabulary);
  a.request.text = a.text.empty() ? a.ids : a.text;
  cut_to_windows(a.request, ids);
  evaluation_run run = evaluate_folder(a.request, a.compute, ids);
  run.seconds = clock.seconds();
  if (a.json)
    fmt::print("{}", gptq::to_text(to_json(a.request, run)));
  else
    fmt::print("{}", to_text(a.request, run));
  return success;
}

}  // namespace

void cut_to_windows(evaluation_request const& request, std::vector<std::int32_t>& ids) {
  if (request.max_tokens > 0 && static_cast<gptq::index_t>(ids.size()) > request.max_tokens)
    ids.resize(static_cast<std::size_t>(request.max_tokens));
  if (static_cast<gptq::index_t>(ids.size()) < request.context)
    throw gptq::shape_error(fmt::format("{}: {} are fewer than one window of {}", request.text,
                                        counted(static_cast<std::int64_t>(ids.size()), "token"), request.context));
}

evaluation_run evaluate_folder(evaluation_request const& request, compute_options const& compute,
                               std::vector<std::int32_t> const& ids) {
  stopwatch const clock;
  gptq::model_weights const model(request.model);
  std::optional<gptq::model_weights> reference;
  if (!request.reference.empty()) reference.emplace(request.reference);
  if (auto const positions = model.config().max_positions; positions > 0 && request.context > positions)
    warn(fmt::format("--context: {} tokens are more than the {} positions of the model", request.context, positions));

  evaluate_progress progress;
  gptq::evaluation_options options;
  options.context = request.context;
  options.progress = [&](gptq::index_t done, gptq::index_t all) { progress(done, all); };
  evaluation_run run;
  run.result = [&] {
    try {
      gptq::model_weights const* const other = reference ? &*reference : nullptr;
#if GPTQ_WITH_CUDA
      if (on_device(compute)) return evaluate_on_cuda(device_memory(compute), model, ids, options, other, run.usage);
#endif
      static_cast<void>(compute);
      gptq::host_model_backend backend;
      return gptq::evaluate(backend, model, ids, options, other);
    } catch (gptq::numeric_error const& e) {  // of a window, or of a tensor in a file
      std::string const what = e.what();
      throw gptq::numeric_error(what.starts_with("evaluate: ") ? request.model + ": " + what : what);
    }
  }();
  progress.finish();
  run.seconds = clock.seconds();
  return run;
}

gptq::json to_json(evaluation_request const& request, evaluation_run const& run) {
  gptq::evaluation const& e = run.result;
  device_usage const& usage = run.usage;
  gptq::json windows;
  if (e.kl) {
    auto const s = gptq::spread_of(e.window_kl);
    windows = {{"deviation", s.deviation}, {"standard_error", s.standard_error}, {"min", s.least}, {"max", s.most}};
  }
  return {{"model", request.model},
          {"reference", request.reference.empty() ? gptq::json() : gptq::json(request.reference)},
          {"text", request.text},
          {"perplexity", e.perplexity},
          {"tokens", e.tokens},
          {"windows", e.windows},
          {"context", request.context},
          {"kl", e.kl ? gptq::json(*e.kl) : gptq::json()},
          {"kl_windows", std::move(windows)},
          {"top1", e.top1 ? gptq::json(*e.top1) : gptq::json()},
          {"device", usage.name.empty() ? gptq::json() : gptq::json(usage.name)},
          {"peak_device_bytes", usage.name.empty() ? gptq::json() : gptq::json(usage.peak_memory)},
          {"seconds", run.seconds}};
}

std::string to_text(evaluation_request const& request, evaluation_run const& run) {
  gptq::evaluation const& e = run.result;
  std::string text = fmt::format("perplexity     {:.4f}\n", e.perplexity);
  if (e.kl) {
    auto const s = gptq::spread_of(e.window_kl);
    text += fmt::format("KL divergence  {:.3g} ± {:.2g}, windows {:.3g} to {:.3g}, deviation {:.2g}\n", *e.kl,
                        s.standard_error, s.least, s.most, s.deviation);
  }
  if (e.top1) text += fmt::format("same top token {:.4f}\n", *e.top1);
  if (!run.usage.name.empty())
    text += fmt::format("device         {}, at most {} of its memory in use\n", run.usage.name,
                        megabytes(run.usage.peak_memory));
  return text + fmt::format("predictions    {} in {} of {} tokens, {}\n", e.tokens, counted(e.windows, "window"),
                            request.context, duration(run.seconds));
}

void add_perplexity(CLI::App& root, action& run) {
  auto const a = std::make_shared<perplexity_arguments>();
  CLI::App* const command = root.add_subcommand("perplexity", "Perplexity of a float or quantized model on a text");
  command->add_option("model", a->request.model, "Model folder, float or quantized")->required()->type_name("");
  auto* const text = command->add_option("--text", a->text, "Text, tokenized as a whole, without BOS");
  auto* const ids =
      command->add_option("--ids", a->ids, "Token ids, {\"input_ids\": [...]} a line; the lines are read as one text");
  text->type_name("FILE")->excludes(ids);
  ids->type_name("FILE.jsonl");
  command
      ->add_option("--context", a->request.context,
                   "Tokens of a window; windows do not overlap, a last short one is left out")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str()
      ->type_name("N");
  command->add_option("--max-tokens", a->request.max_tokens, "Use no more than the first N tokens")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 40))
      ->type_name("N");
  command
      ->add_option("--reference", a->request.reference,
                   "A model to compare with: KL divergence and its spread over windows, share of equal top tokens")
      ->type_name("MODEL");
  command->add_flag("--json", a->json, "Print one JSON object");
  add_compute_options(*command, a->compute);
  command->callback([a, &run] { run = [a] { return perplexity(*a); }; });
}

}  // namespace app
