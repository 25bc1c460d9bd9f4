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
#include <gptq/comm/threads.hpp>
#include <gptq/io/output_folder.hpp>
#include <gptq/model/config.hpp>
#include <gptq/quantize/check_values.hpp>
#include <gptq/quantize/describe.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/job_memory.hpp>
#include <gptq/quantize/pipeline.hpp>
#include <gptq/quantize/served_plan.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
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

/// The type that a device runs the model in: its own, which is that of its first linear layer.
gptq::dtype activation_type(gptq::job const& j) {
  gptq::tensor_view const* const first = j.weights().stored(j.plan().linears().front().info);
  return first ? first->type : gptq::dtype::f32;
}

device_run run_on_cuda(quantize_arguments const& a, gptq::job const& j, gptq::calibration_set const& calibration,
                       gptq::run_options const& options, std::future<void>& ready) {
  gptq::dtype const type = activation_type(j);
  auto const run_typed = type == gptq::dtype::bf16  ? quantize_on_cuda<gptq::bfloat16>
                         : type == gptq::dtype::f16 ? quantize_on_cuda<gptq::float16>
                                                    : quantize_on_cuda<float>;
  return run_typed({device_memory(a.compute), ready}, j, a.output, calibration.samples, options);
}

#endif

/// A run on the host, split over workers that share its threads.
gptq::pipeline_report run_on_host(quantize_arguments const& a, gptq::job const& j,
                                  gptq::calibration_set const& calibration, gptq::run_options const& options) {
  if (a.workers == 1) {
    gptq::host_model_backend backend;
    return gptq::run(j, backend, a.output, calibration.samples, options);
  }
  int const threads = thread_count();
  gptq::pipeline_report report;
  gptq::run_workers(a.workers, [&](gptq::thread_worker& c) {
    use_threads(std::max(1, threads / a.workers));
    gptq::host_model_backend backend;
    auto part = gptq::run(j, backend, c, a.output, calibration.samples, options);
    if (c.rank() == 0) report = std::move(part);
  });
  use_threads(threads);
  return report;
}

/// The run of a job with a progress display, memory watched, and signals heard between two batches. The warnings come once
/// nothing more can be refused.
device_run run_job(quantize_arguments const& a, gptq::job const& j, gptq::calibration_set const& calibration,
                   memory_watch& memory, std::vector<std::string> warnings, std::future<void>& ready) {
  interrupt_guard const guard;
  quantize_progress progress;
  gptq::run_options options;
  options.overwrite = a.overwrite;
  options.count_codes = !a.report.empty();
  options.memory = gptq::host_memory(j.asked());
  options.progress = [&](gptq::pipeline_progress const& p) {
    guard.check();
    memory.sample();
    for (auto const& w : std::exchange(warnings, {})) warn(w);
    progress(p);
  };
  auto result = [&]() -> device_run {
#if GPTQ_WITH_CUDA
    if (on_device(a.compute)) return run_on_cuda(a, j, calibration, options, ready);
#endif
    ready.get();
    return {run_on_host(a, j, calibration, options), {}};
  }();
  memory.sample();
  return result;
}

/// Refuses what an engine that was asked for would refuse or get wrong. Returns what deserves a warning.
std::vector<std::string> judge_engines(gptq::job const& j) {
  gptq::served_model const model = served(j);
  gptq::recipe const& asked = j.asked();
  if (asked.engines.empty()) {
    std::string const rejecting = rejecting_engines(model);
    if (asked.preset == "parity") return {};
    return {"no --engine given, so nothing is checked for where the result will be served" +
            (rejecting.empty() ? std::string() : "; it will not do for " + rejecting)};
  }
  auto findings = check_engines(asked.engines, asked.tensor_parallel, model);
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

/// What --dry-run prints, and writes as its report.
int describe_job(quantize_arguments const& a, gptq::job const& j, gptq::calibration_set const& calibration,
                 report_file const& report, std::vector<std::string> const& warnings, std::future<void>& ready) {
  gptq::check_values(j);
  ready.get();
  for (auto const& w : warnings) warn(w);
  gptq::activation_options memory = gptq::host_memory(j.asked());
  std::size_t element = sizeof(float);
#if GPTQ_WITH_CUDA
  if (on_device(a.compute)) {
    element = gptq::size_of(activation_type(j));
    memory = plan_on_cuda(device_memory(a.compute), j, calibration.samples, element);
  }
#endif
  std::uint64_t const bytes = gptq::matrix_bytes(j, calibration.tokens, element, memory);
  std::string engines;
  for (std::string const& name : j.asked().engines) engines += (engines.empty() ? "" : ", ") + name;
  fmt::print("{}", gptq::describe_text(j));
  fmt::print("calibration  {}, {} tokens\n", counted(static_cast<std::int64_t>(calibration.samples.size()), "sample"),
             calibration.tokens);
  fmt::print("memory       about {} of matrices on the {}, micro-batch {} tokens{}\n", megabytes(bytes),
             on_device(a.compute) ? "device" : "host", memory.micro_batch,
             memory.on_host ? ", hidden states in host memory" : "");
  fmt::print("engines      {}\n", engines.empty() ? "none asked for" : engines + " will load the result");
  if (report.wanted()) {
    gptq::json document = describe(j);
    document["calibration"] = calibration_json(calibration_of(a, j.asked()), calibration);
    document["memory"] = {{"device", a.compute.device},
                          {"matrices_bytes", bytes},
                          {"micro_batch", memory.micro_batch},
                          {"states_on_host", memory.on_host}};
    report.write(document);
  }
  return success;
}

/// Tells of a run that has ended, and compares its result with the source if that was asked for.
int report_run(quantize_run& run, report_file const& report, evaluation_request const& evaluation,
               std::vector<std::int32_t> const& scored) {
  quantize_arguments const& a = run.arguments;
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

int quantize(quantize_arguments const& a) {
  stopwatch const clock;
  gptq::recipe asked = resolve(a);
  if (a.print_recipe) {
    fmt::print("{}", gptq::to_text(to_json(asked)));
    return success;
  }
  calibration_request const request = calibration_of(a, asked);
  calibration_format(request);
  report_file const report(a.report, a.model, a.output, {a.calibration, a.rules.dynamic, a.recipe, a.evaluate});
  if (a.dry_run && report.wanted() && std::filesystem::path(a.report).extension() != ".json")
    throw usage_error("--report: with --dry-run it must end in .json");
  if (a.workers > 1 && on_device(a.compute)) throw usage_error("--workers: is for --device host");
  std::future<void> device = begin_use(a.compute);

  gptq::job const j(a.model, std::move(asked));
  gptq::output_folder::check(a.output, a.model, a.overwrite, j.disk_bytes());
  gptq::model_config const& config = j.weights().config();
  std::vector<std::string> warnings = judge_engines(j);
  gptq::calibration_set const calibration = read_calibration(request, a.model, config.vocabulary);
  if (a.show_sample) fmt::print("first sample:\n{}\n", first_sample(calibration, a.model));
  for (auto& w : calibration_warnings(request, calibration, config.max_positions)) warnings.push_back(std::move(w));

  evaluation_request const evaluation{
      .model = a.output, .reference = a.model, .text = a.evaluate, .max_tokens = a.evaluate_max_tokens};
  auto const scored = read_evaluation(evaluation, config.vocabulary);

  if (a.dry_run) {
    for (gptq::advice const& w : j.warnings()) warnings.push_back(with_options(w));
    return describe_job(a, j, calibration, report, warnings, device);
  }
  // A device that is not there is known by now; one that is there may take longer than the source's checks.
  if (device.wait_for(std::chrono::seconds(0)) == std::future_status::ready) device.get();
  memory_watch memory;
  device_run result = run_job(a, j, calibration, memory, warnings, device);
  quantize_run run{a, j, calibration, std::move(result.report), warnings};
  run.device = std::move(result.usage);
  for (gptq::advice const& w : run.report.warnings) {
    warn(with_options(w));
    run.warnings.push_back(with_options(w));
  }
  run.peak_resident = memory.peak_resident();
  run.peak_anonymous = memory.peak_anonymous();
  run.total_seconds = clock.seconds();
  return report_run(run, report, evaluation, scored);
}

}  // namespace

void add_quantize(CLI::App& root, action& run) {
  auto const arguments = std::make_shared<quantize_arguments>();
  CLI::App* const command = root.add_subcommand("quantize", "Quantize a model folder");
  add_options(*command, *arguments);
  command->callback([arguments, &run] { run = [arguments] { return quantize(*arguments); }; });
}

}  // namespace app
