/// gptq quantize: a model folder and calibration data in, a GPTQ checkpoint out.
#include "app.hpp"
#include "console.hpp"
#include "device.hpp"
#include "interrupt.hpp"
#include "progress.hpp"
#include "quantize_options.hpp"
#include "quantize_report.hpp"
#include "report_file.hpp"

#include <gptq/model/config.hpp>
#include <gptq/model/host.hpp>
#include <gptq/model/pipeline.hpp>

#include <CLI/CLI.hpp>

#include <memory>
#include <optional>
#include <utility>

namespace app {
namespace {

#if GPTQ_WITH_CUDA

/// The model in its own type, which is that of its first linear layer.
gptq::pipeline_report run_on_cuda(quantize_arguments const& a, gptq::pipeline_options const& options,
                                  gptq::calibration_set const& calibration, device_usage& usage) {
  gptq::model_weights const weights(a.model);
  gptq::tensor_view const* const first = weights.stored(weights.names().linears(0, gptq::attention_stage).front());
  gptq::dtype const type = first ? first->type : gptq::dtype::f32;
  auto const run = type == gptq::dtype::bf16  ? quantize_on_cuda<gptq::bfloat16>
                   : type == gptq::dtype::f16 ? quantize_on_cuda<gptq::float16>
                                              : quantize_on_cuda<float>;
  return run(device_memory(a.compute), a.model, a.output, calibration.samples, options, usage);
}

#endif

/// quantize_model with a progress display, memory watched, and signals heard between two batches.
gptq::pipeline_report run_pipeline(quantize_arguments const& a, gptq::pipeline_options options,
                                   gptq::calibration_set const& calibration, memory_watch& memory,
                                   std::optional<device_usage>& usage) {
  interrupt_guard const guard;
  quantize_progress progress;
  options.progress = [&](gptq::pipeline_progress const& p) {
    guard.check();
    memory.sample();
    progress(p);
  };
  auto report = [&] {
#if GPTQ_WITH_CUDA
    if (on_device(a.compute)) return run_on_cuda(a, options, calibration, usage.emplace());
#endif
    static_cast<void>(usage);
    gptq::host_model_backend backend;
    return gptq::quantize_model(backend, a.model, a.output, calibration.samples, options);
  }();
  memory.sample();
  return report;
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

int quantize(quantize_arguments const& a) {
  stopwatch const clock;
  gptq::pipeline_options const options = resolve(a);
  calibration_format(a.calibration);
  report_file const report(a.report, a.output);
  use(a.compute);

  gptq::model_config const config = gptq::read_model_config(a.model);
  gptq::calibration_set const calibration = read_calibration(a.calibration, a.model, config.vocabulary);
  std::vector<std::string> warnings = calibration_warnings(a.calibration, calibration, config.max_positions);
  for (auto const& w : warnings) warn(w);

  memory_watch memory;
  std::optional<device_usage> usage;
  quantize_run run{a,
                   options,
                   calibration,
                   *config.family,
                   run_pipeline(a, options, calibration, memory, usage),
                   std::move(warnings)};
  run.device = std::move(usage);
  for (auto const& w : run.report.warnings) warn(w);
  run.warnings.insert(run.warnings.end(), run.report.warnings.begin(), run.report.warnings.end());
  run.peak_resident = memory.peak_resident();
  run.peak_anonymous = memory.peak_anonymous();
  run.total_seconds = clock.seconds();

  fmt::print("{}", to_text(run));
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
