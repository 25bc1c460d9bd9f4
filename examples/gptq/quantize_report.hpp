/// What a run of quantize reports: a document for programs, a short table for people.
#pragma once

#include "compute.hpp"
#include "device.hpp"
#include "evaluation.hpp"
#include "memory.hpp"
#include "quantize_options.hpp"

#include <gptq/io/json.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/quantize/recipe_json.hpp>
#include <gptq/version.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace app {

/// A run that has ended, with everything that its report tells.
struct quantize_run {
  quantize_arguments const& arguments;
  gptq::job const& job;
  gptq::calibration_set const& calibration;
  gptq::pipeline_report report;
  std::vector<std::string> warnings;
  std::uint64_t peak_resident = 0;
  std::uint64_t peak_anonymous = 0;
  double total_seconds = 0;
  std::optional<device_usage> device{};
  evaluation_request evaluation{};
  std::optional<evaluation_run> evaluated{};
};

/// null where the host computed.
inline gptq::json to_json(std::optional<device_usage> const& d) {
  if (!d) return nullptr;
  return {{"name", d->name},
          {"activations", d->activations},
          {"memory_limit_bytes", d->memory_limit == 0 ? gptq::json() : gptq::json(d->memory_limit)},
          {"peak_memory_bytes", d->peak_memory},
          {"peak_matrices_bytes", d->peak_matrices},
          {"chunk_tokens", d->micro_batch},
          {"states_on_host", d->states_on_host}};
}

/// A line for people; empty where the host computed.
inline std::string to_text(std::optional<device_usage> const& d) {
  if (!d) return {};
  return fmt::format("device       {}, {}, at most {} of its memory in use, micro-batches of {} tokens{}\n", d->name,
                     d->activations, megabytes(d->peak_memory), d->micro_batch,
                     d->states_on_host ? ", states in host memory" : "");
}

/// Losses are negative where they were not computed.
inline gptq::json loss_or_null(double loss) { return loss < 0 ? gptq::json() : gptq::json(loss); }

inline gptq::json to_json(gptq::linear_record const& l) {
  auto const& r = l.report;
  return {{"name", l.name},
          {"N", l.out_features},
          {"K", l.in_features},
          {"bits", l.spec.bits},
          {"group_size", l.spec.group_size},
          {"sym", l.spec.sym},
          {"desc_act", gptq::scattered_groups(l.spec)},
          {"tokens", r.tokens},
          {"rel_loss", loss_or_null(r.rel_loss)},
          {"rtn_rel_loss", loss_or_null(r.rel_loss_rtn)},
          {"float_loss", loss_or_null(r.float_loss)},
          {"pass_loss", loss_or_null(r.pass_loss)},
          {"refined_loss", loss_or_null(r.refined_loss)},
          {"damp_asked", r.damp_asked},
          {"damp_used", r.damp_used},
          {"status", to_string(r.status)},
          {"dead_inputs", r.dead_inputs},
          {"dropped_chunks", r.dropped_chunks},
          {"scale_underflows", r.scale_underflows},
          {"factor_precision", r.factor_fp64 ? "fp64" : "fp32"},
          {"codes", l.codes},
          {"detail", r.detail}};
}

inline gptq::json options_json(quantize_arguments const& a, gptq::recipe const& r) {
  return {{"preset", r.preset},
          {"bits", r.spec.bits},
          {"group_size", r.spec.group_size},
          {"sym", r.spec.sym},
          {"order", to_string(r.spec.order)},
          {"static_groups", r.spec.static_groups},
          {"dynamic", to_json(r.dynamic)},
          {"lm_head", r.lm_head},
          {"engines", r.engines},
          {"tensor_parallel", r.tensor_parallel},
          {"damp_percent", r.quantize.damp_percent},
          {"mse", gptq::as_decimal(r.quantize.grid.mse)},
          {"target_shift", r.shift.target},
          {"residual_shift", r.shift.residual},
          {"refit", r.quantize.reestimations},
          {"sweeps", r.quantize.descent_passes},
          {"round_scales", r.quantize.grid.round_scales},
          {"nonzero_zeros", r.quantize.grid.nonzero_zeros},
          {"reference_range", r.quantize.grid.reference_range},
          {"reference_dead", r.quantize.reference_dead},
          {"format", to_string(r.format)},
          {"dtype", r.to_float16 ? "float16" : "keep"},
          {"all_layers", r.all_layers},
          {"as", r.as_llama ? gptq::json("llama") : gptq::json()},
          {"true_sequential", r.true_sequential},
          {"shard_size", r.shard_size},
          {"device", a.compute.device},
          {"device_memory", a.compute.device_memory.empty() ? gptq::json() : gptq::json(device_memory(a.compute))},
          {"threads", thread_count()},
          {"overwrite", a.overwrite},
          {"allow_fallback", a.allow_fallback}};
}

inline gptq::json calibration_json(calibration_request const& request, gptq::calibration_set const& set) {
  return {{"file", request.file},
          {"format", calibration_format(request)},
          {"chat_format", request.chat_format},
          {"samples_asked", set.asked},
          {"sequence_length", request.size.sequence_length},
          {"samples", set.samples.size()},
          {"tokens", set.tokens},
          {"shortest", set.shortest},
          {"longest", set.longest},
          {"cut", set.cut},
          {"dropped", set.dropped},
          {"replaced_sequences", set.report.replaced_sequences},
          {"lost_characters", set.report.lost_characters}};
}

inline std::map<std::string, gptq::index_t> count_statuses(gptq::pipeline_report const& report) {
  std::map<std::string, gptq::index_t> counts;
  for (auto const& l : report.linears) ++counts[to_string(l.report.status)];
  return counts;
}

inline gptq::json to_json(quantize_run const& run) {
  gptq::json linears = gptq::json::array();
  for (auto const& l : run.report.linears) linears.push_back(to_json(l));
  gptq::json seconds = run.report.seconds;
  seconds["total"] = run.total_seconds;
  return {{"versions", {{"gptq", GPTQ_VERSION}, {"eigen", eigen_version()}, {"compiler", __VERSION__}}},
          {"model", run.arguments.model},
          {"output", run.arguments.output},
          {"recipe", to_json(run.job.asked())},
          {"options", options_json(run.arguments, run.job.asked())},
          {"calibration", calibration_json(calibration_of(run.arguments, run.job.asked()), run.calibration)},
          {"linears", std::move(linears)},
          {"kept_float", run.report.kept_float},
          {"unread_tensors", run.report.unread},
          {"micro_batch", run.report.micro_batch},
          {"statuses", count_statuses(run.report)},
          {"fallbacks", run.report.fallbacks()},
          {"warnings", run.warnings},
          {"seconds", std::move(seconds)},
          {"device", to_json(run.device)},
          {"evaluation", run.evaluated ? to_json(run.evaluation, *run.evaluated) : gptq::json()},
          {"memory", {{"peak_resident_bytes", run.peak_resident}, {"peak_anonymous_bytes", run.peak_anonymous}}},
          {"bytes", {{"before", run.report.bytes_before}, {"after", run.report.bytes_after}}}};
}

/// Mean losses of the linears that are solved together, and the linears that lost most.
inline std::string loss_table(quantize_run const& run) {
  auto const& linears = run.report.linears;
  std::size_t width = 24;
  for (auto const& l : linears) width = (std::max)(width, l.name.size());
  std::string text = fmt::format("{:<{}}  {:>10}  {:>10}\n", "relative loss of outputs", width, "gptq", "rounding");
  std::vector<std::string> groups;  // in order of appearance
  for (auto const& l : linears)
    if (!l.group.empty() && std::find(groups.begin(), groups.end(), l.group) == groups.end()) groups.push_back(l.group);
  for (auto const& group : groups) {
    double loss = 0, rtn = 0;
    int count = 0;
    for (auto const& l : linears)
      if (l.report.rel_loss >= 0 && l.group == group) {
        loss += l.report.rel_loss;
        rtn += l.report.rel_loss_rtn;
        ++count;
      }
    if (count > 0)
      text += fmt::format("{:<{}}  {:>10.3g}  {:>10.3g}\n", fmt::format("mean of {}", group), width, loss / count,
                          rtn / count);
  }
  std::vector<gptq::linear_record const*> worst;
  for (auto const& l : linears) worst.push_back(&l);
  auto const shown = (std::min)(worst.size(), std::size_t{3});
  std::partial_sort(worst.begin(), worst.begin() + static_cast<std::ptrdiff_t>(shown), worst.end(),
                    [](auto const* a, auto const* b) { return a->report.rel_loss > b->report.rel_loss; });
  for (std::size_t i = 0; i < shown; ++i) {
    auto const& r = worst[i]->report;
    if (r.rel_loss < 0) break;
    text += fmt::format("{:<{}}  {:>10.3g}  {:>10.3g}{}\n", worst[i]->name, width, r.rel_loss, r.rel_loss_rtn,
                        r.status == gptq::outcome::ok ? "" : fmt::format("  {}", to_string(r.status)));
  }
  return text;
}

/// What the terminal ends with.
inline std::string to_text(quantize_run const& run) {
  std::string statuses, seconds;
  for (auto const& [status, count] : count_statuses(run.report))
    statuses += fmt::format("{}{} {}", statuses.empty() ? "" : ", ", count, status);
  for (auto const& [activity, time] : run.report.seconds) seconds += fmt::format(", {} {:.2f}", activity, time);
  return loss_table(run) +
         fmt::format(
             "layers       {}{}\n", statuses,
             run.report.kept_float.empty() ? "" : fmt::format(", {} kept in float", run.report.kept_float.size())) +
         fmt::format("calibration  {}, {} tokens, {} to {} each, {} cut, {} dropped\n",
                     counted(static_cast<std::int64_t>(run.calibration.samples.size()), "sample"),
                     run.calibration.tokens, run.calibration.shortest, run.calibration.longest, run.calibration.cut,
                     run.calibration.dropped) +
         fmt::format("weights      {} -> {}\n", megabytes(run.report.bytes_before), megabytes(run.report.bytes_after)) +
         fmt::format("seconds      {:.2f}{}\n", run.total_seconds, seconds) + to_text(run.device) +
         fmt::format("peak memory  {} resident, {} of it not of files\n", megabytes(run.peak_resident),
                     megabytes(run.peak_anonymous)) +
         fmt::format("written to   {}\n", run.arguments.output);
}

}  // namespace app
