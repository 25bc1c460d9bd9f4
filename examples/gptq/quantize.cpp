/// gptq quantize: a model folder and calibration data in, a GPTQ checkpoint out.
#include "app.hpp"
#include "console.hpp"
#include "device.hpp"
#include "evaluation.hpp"
#include "interrupt.hpp"
#include "progress.hpp"
#include "quantize_options.hpp"
#include "quantize_report.hpp"
#include "remedy.hpp"
#include "report_file.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/model/config.hpp>
#include <gptq/quantize/pipeline.hpp>
#include <gptq/quantize/served_plan.hpp>

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace app {
namespace {

#if GPTQ_WITH_CUDA

/// The model in its own type, which is that of its first linear layer.
gptq::pipeline_report run_on_cuda(quantize_arguments const& a, gptq::pipeline_options const& options,
                                  gptq::calibration_set const& calibration, std::future<void>& ready,
                                  device_usage& usage) {
  gptq::model_weights const weights = gptq::open_source(a.model, options);
  gptq::tensor_view const* const first = weights.stored(weights.layer(0).groups.front().linears.front());
  gptq::dtype const type = first ? first->type : gptq::dtype::f32;
  auto const run = type == gptq::dtype::bf16  ? quantize_on_cuda<gptq::bfloat16>
                   : type == gptq::dtype::f16 ? quantize_on_cuda<gptq::float16>
                                              : quantize_on_cuda<float>;
  return run(device_memory(a.compute), a.model, a.output, calibration.samples, options, ready, usage);
}

#endif

/// quantize_model with a progress display, memory watched, and signals heard between two batches. The warnings come
/// once nothing more can be refused.
gptq::pipeline_report run_pipeline(quantize_arguments const& a, gptq::pipeline_options options,
                                   gptq::calibration_set const& calibration, memory_watch& memory,
                                   std::vector<std::string> warnings, std::future<void>& ready,
                                   std::optional<device_usage>& usage) {
  interrupt_guard const guard;
  quantize_progress progress;
  options.progress = [&](gptq::pipeline_progress const& p) {
    guard.check();
    memory.sample();
    for (auto const& w : std::exchange(warnings, {})) warn(w);
    progress(p);
  };
  auto report = [&] {
#if GPTQ_WITH_CUDA
    if (on_device(a.compute)) return run_on_cuda(a, options, calibration, ready, usage.emplace());
#endif
    static_cast<void>(usage);
    ready.get();
    gptq::host_model_backend backend;
    return gptq::quantize_model(backend, a.model, a.output, calibration.samples, options);
  }();
  memory.sample();
  return report;
}

/// Refuses what an engine that was asked for would refuse or get wrong. Returns what deserves a warning.
std::vector<std::string> judge_engines(quantize_arguments const& a, gptq::pipeline_options const& options) {
  gptq::served_model const model = served(gptq::open_source(a.model, options), options);
  if (a.engines.names.empty()) {
    std::string const rejecting = rejecting_engines(model);
    if (a.preset == "parity") return {};
    return {"no --engine given, so nothing is checked for where the result will be served" +
            (rejecting.empty() ? std::string() : "; it will not do for " + rejecting)};
  }
  auto findings = check_engines(a.engines, model);
  if (gptq::rejected(findings)) {
    std::erase_if(findings, [](auto const& f) { return f.result == gptq::verdict::degraded; });
    std::string text;
    for (auto const& line : gptq::summary_of(findings)) text += (text.empty() ? "--engine " : " | ") + line;
    throw gptq::error(text);
  }
  return gptq::summary_of(findings);
}

/// The layers that fell back, one a line, and what it means for the exit code.
int judge_fallbacks(quantize_arguments const& a, gptq::pipeline_report const& report) {
  if (report.fallbacks() == 0) return success;
  for (auto const& l : report.linears)
    if (is_fallback(l.report.status))
      say(fmt::format("{}: {}: {}", l.name, to_string(l.report.status), l.report.detail));
  if (a.allow_fallback) return success;
  say(fmt::format("{}: {} fell back (--allow-fallback accepts that); the folder is complete", a.output,
                  counted(report.fallbacks(), "layer")));
  return fell_back;
}

/// The text of --evaluate as ids, refused before any work if it won't do; nothing where none was given.
std::vector<std::int32_t> read_evaluation(evaluation_request const& request, gptq::index_t vocabulary) {
  if (request.text.empty()) return {};
  auto ids = std::filesystem::path(request.text).extension() == ".jsonl"
                 ? read_all_ids("--evaluate", request.text, vocabulary)
                 : encode_file("--evaluate", request.text, request.reference, false, vocabulary);
  cut_to_windows(request, ids);
  return ids;
}

int quantize(quantize_arguments const& a) {
  stopwatch const clock;
  gptq::pipeline_options const options = resolve(a);
  calibration_format(a.calibration);
  report_file const report(a.report, a.model, a.output, {a.calibration.file, a.rules.dynamic, a.evaluate});
  std::future<void> device = begin_use(a.compute);

  gptq::model_config const config = gptq::read_model_config(a.model);
  std::vector<std::string> warnings = judge_engines(a, options);
  gptq::calibration_set const calibration = read_calibration(a.calibration, a.model, config.vocabulary);
  if (a.calibration.show_sample) fmt::print("first sample:\n{}\n", first_sample(calibration, a.model));
  for (auto& w : calibration_warnings(a.calibration, calibration, config.max_positions))
    warnings.push_back(std::move(w));

  evaluation_request const evaluation{
      .model = a.output, .reference = a.model, .text = a.evaluate, .max_tokens = a.evaluate_max_tokens};
  auto const scored = read_evaluation(evaluation, config.vocabulary);

  // A device that is not there is known by now; one that is there may take longer than the source's checks.
  if (device.wait_for(std::chrono::seconds(0)) == std::future_status::ready) device.get();
  memory_watch memory;
  std::optional<device_usage> usage;
  quantize_run run{a, options, calibration, run_pipeline(a, options, calibration, memory, warnings, device, usage),
                   warnings};
  run.device = std::move(usage);
  for (gptq::advice const& w : run.report.warnings) {
    warn(with_options(w));
    run.warnings.push_back(with_options(w));
  }
  run.peak_resident = memory.peak_resident();
  run.peak_anonymous = memory.peak_anonymous();
  run.total_seconds = clock.seconds();

  fmt::print("{}", to_text(run));
  if (!a.evaluate.empty()) {
    std::fflush(stdout);
    run.evaluation = evaluation;
    run.evaluated = evaluate_folder(evaluation, a.compute, scored);
    fmt::print("{}", to_text(evaluation, *run.evaluated));
  }
  if (report.wanted()) report.write(to_json(run));
  return judge_fallbacks(a, run.report);
}

}  // namespace

void add_quantize(CLI::App& root, action& run) {
  auto const arguments = std::make_shared<quantize_arguments>();
  CLI::App* const command = root.add_subcommand("quantize", "Quantize a model folder");
  add_options(*command, *arguments);
  command->callback([arguments, &run] { run = [arguments] { return quantize(*arguments); }; });
}

}  // namespace app
