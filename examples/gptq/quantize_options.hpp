/// The options of quantize, as given and as resolved.
#pragma once

#include "app.hpp"
#include "chat_option.hpp"
#include "compute.hpp"
#include "engine_options.hpp"
#include "module_rules.hpp"
#include "size.hpp"
#include "text_input.hpp"

#include <gptq/core/spec.hpp>
#include <gptq/quant/options.hpp>
#include <gptq/quantize/pipeline_types.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace app {

inline constexpr std::array<char const*, 3> order_names = {"natural", "desc_act", "group_aware"};

/// Empty where the option was not given and the preset, or another option, decides.
struct quantize_arguments {
  std::string model, output;
  calibration_request calibration;
  std::string preset = "default";
  gptq::quant_spec spec;
  rule_arguments rules;
  bool lm_head = false;
  engine_arguments engines;
  std::optional<std::string> order;
  std::optional<double> damp_percent;
  std::optional<float> mse;
  std::optional<double> target_shift, residual_shift;
  std::optional<int> refit, sweeps;
  std::optional<std::string> format;
  std::string dtype = "keep";
  bool all_layers = false;
  std::string as;
  bool true_sequential = true;
  std::string shard_size = "4GB";
  compute_options compute;
  std::string report;
  std::string evaluate;
  gptq::index_t evaluate_max_tokens = 0;  ///< 0: all
  bool overwrite = false;
  bool allow_fallback = false;
};

inline void add_options(CLI::App& command, quantize_arguments& a) {
  command.add_option("model", a.model, "Model folder: config.json, safetensors, tokenizer")->required()->type_name("");
  command.add_option("output", a.output, "Folder to write; must not exist")->required()->type_name("");
  command.add_option("--calibration", a.calibration.file, "Text or token ids that the model sees meanwhile")
      ->required()
      ->type_name("FILE");
  command
      .add_option("--calibration-format", a.calibration.format,
                  "lines: one sample a line, the default for .txt; windows: the whole text cut into windows; records: "
                  "chats and texts as JSON, the default for .json and .jsonl; ids: {\"input_ids\": [...]} a line")
      ->check(CLI::IsMember({"lines", "windows", "records", "ids"}))
      ->type_name("NAME");
  add_chat_format(command, a.calibration.chat_format);
  command.add_flag("--show-sample", a.calibration.show_sample, "Print the first sample as text");
  command.add_option("--samples", a.calibration.size.samples, "Samples to use, the first of the file")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str()
      ->type_name("N");
  command.add_option("--sequence-length", a.calibration.size.sequence_length, "Tokens to which a sample is cut")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str()
      ->type_name("N");
  command
      .add_option("--preset", a.preset,
                  "Start from: default; best, closest to the float model for two to three times the time; parity, the "
                  "public reference's way")
      ->check(CLI::IsMember({"default", "best", "parity"}))
      ->capture_default_str()
      ->type_name("NAME");
  command.add_option("--bits", a.spec.bits, "Width of the codes: 2, 3, 4, 8")->capture_default_str()->type_name("N");
  command.add_option("--group-size", a.spec.group_size, "Inputs that share a scale; -1 for a whole row")
      ->capture_default_str()
      ->type_name("N");
  command.add_flag("--sym,!--no-sym", a.spec.sym, "Symmetric grid (the default), or one with zero points");
  command
      .add_option("--order", a.order,
                  "Order of the columns: natural, desc_act, group_aware; default: group_aware, with parity natural")
      ->check(CLI::IsMember({"natural", "desc_act", "group_aware"}))
      ->type_name("NAME");
  command.add_flag("--static-groups", a.spec.static_groups, "Fix the grids before the pass (not with group_aware)");
  command
      .add_option(
          "--dynamic", a.rules.dynamic,
          "Rules for single layers: {\"-:regex\": {}, \"+:regex\": {\"bits\": 8}}, as JSON or a file; the first "
          "match decides, and -: comes before +:")
      ->type_name("JSON");
  command.add_option("--skip", a.rules.skip, "Layers to leave in float: short for a rule -:regex (repeatable)")
      ->allow_extra_args(false)
      ->type_name("REGEX");
  command.add_option("--bits-for", a.rules.bits_for, "Width of some layers: short for a rule +:regex (repeatable)")
      ->allow_extra_args(false)
      ->type_name("REGEX=N");
  command.add_flag("--lm-head", a.lm_head, "Quantize the output head too, where it is not tied to the embedding");
  command
      .add_option("--damp-percent", a.damp_percent, "Damping as a fraction of the mean diagonal, 0 to 1; default 0.01")
      ->type_name("X");
  command
      .add_option("--mse", a.mse,
                  "Exponent of the error that the grid search minimises, 0 for minimum and maximum; "
                  "default: 2.4, with parity 0")
      ->type_name("X");
  command
      .add_option("--target-shift", a.target_shift,
                  "Aim at the float model's outputs, 0 to 1: how much of what the inputs moved is made up for; "
                  "default 0, with best 1")
      ->type_name("X");
  command
      .add_option("--residual-shift", a.residual_shift,
                  "The same for the residual stream, in layers that write to it; default 0, with best 0.5")
      ->type_name("X");
  command.add_option("--refit", a.refit, "Times that scales are fitted anew to the codes; default 0, with best 1")
      ->check(CLI::Range(0, 100))
      ->type_name("N");
  command.add_option("--sweeps", a.sweeps, "Times that every code is chosen anew; default 0, with best 2")
      ->check(CLI::Range(0, 100))
      ->type_name("N");
  command
      .add_option("--format", a.format, "gptq, gptq_v2 or compressed-tensors; default: gptq, without symmetry gptq_v2")
      ->check(CLI::IsMember(gptq::format_names()))
      ->type_name("NAME");
  command
      .add_option("--dtype", a.dtype, "keep: tensors that are not quantized stay as they are; float16: convert them")
      ->check(CLI::IsMember({"keep", "float16"}))
      ->capture_default_str()
      ->type_name("NAME");
  command.add_flag("--all-layers", a.all_layers,
                   "Quantize also what the family keeps in float because engines can't load it (TeleChat2)");
  command.add_option("--as", a.as, "llama: write TeleChat2 as the Llama checkpoint that computes the same")
      ->check(CLI::IsMember({"llama"}))
      ->type_name("NAME");
  command.add_flag("--true-sequential,!--no-true-sequential", a.true_sequential,
                   "Each stage of a block sees the quantized stages before it (the default), or only the blocks do");
  command.add_option("--shard-size", a.shard_size, "Largest file of weights: 4GB, 500MB, 2GiB, bytes")
      ->capture_default_str()
      ->type_name("SIZE");
  add_engine_options(command, a.engines);
  add_compute_options(command, a.compute);
  command
      .add_option("--report", a.report,
                  "Write a report of the run: as JSON, or as a page to look at, as the ending says")
      ->type_name("FILE.json|FILE.html");
  auto* const evaluate =
      command
          .add_option(
              "--evaluate", a.evaluate,
              "At the end, compare the result with the model on this text (or token ids, *.jsonl): perplexity, KL "
              "divergence, in windows of 512 tokens")
          ->type_name("FILE");
  command.add_option("--evaluate-max-tokens", a.evaluate_max_tokens, "Use no more than its first N tokens")
      ->needs(evaluate)
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 40))
      ->type_name("N");
  command.add_flag("--overwrite", a.overwrite, "Replace the output if it holds a quantized model");
  command.add_flag("--allow-fallback", a.allow_fallback, "Exit with 0 even if layers fell back");
}

/// The shortest decimal that reads as this float: 0.01f is to be reported as 0.01.
inline double as_written(float x) { return std::stod(fmt::format("{}", x)); }

/// The options of a run: a preset, overridden by what was given. Throws usage_error naming an option.
inline gptq::pipeline_options resolve(quantize_arguments const& a) {
  gptq::preset const& preset = a.preset == "parity" ? gptq::parity_preset
                               : a.preset == "best" ? gptq::best_preset
                                                    : gptq::default_preset;
  gptq::pipeline_options o;
  o.spec = a.spec;
  o.spec.order = preset.order;
  for (std::size_t i = 0; a.order && i < order_names.size(); ++i)
    if (*a.order == order_names[i]) o.spec.order = static_cast<gptq::column_order>(i);
  try {
    gptq::check_spec(o.spec);
  } catch (gptq::shape_error const& e) {  // "group_size must be …": begins with the name of the member
    std::string const reason = e.what();
    std::size_t const space = reason.find(' ');
    std::string option = "--" + reason.substr(0, space);
    std::replace(option.begin(), option.end(), '_', '-');
    throw usage_error(option + ":" + reason.substr(space));
  }

  o.dynamic = resolve_rules(a.rules, o.spec);
  o.lm_head = a.lm_head;

  o.quantize = preset.options;
  if (a.damp_percent) {
    if (!(*a.damp_percent > 0 && *a.damp_percent < 1))
      throw usage_error(fmt::format("--damp-percent: must lie between 0 and 1, not be {}", *a.damp_percent));
    o.quantize.damp_percent = *a.damp_percent;
  }
  if (a.mse) {
    if (!(*a.mse == 0 || (*a.mse >= 0.1f && *a.mse <= 16)))
      throw usage_error(fmt::format("--mse: must be 0, or an exponent from 0.1 to 16, not {}", *a.mse));
    o.quantize.grid.mse = *a.mse;
  }
  auto const fraction = [](char const* option, std::optional<double> given, double preset_value) {
    double const x = given.value_or(preset_value);
    if (!(x >= 0 && x <= 1)) throw usage_error(fmt::format("{}: must lie between 0 and 1, not be {}", option, x));
    return x;
  };
  o.shift = {fraction("--target-shift", a.target_shift, preset.shift.target),
             fraction("--residual-shift", a.residual_shift, preset.shift.residual)};
  o.quantize.refit = a.refit.value_or(preset.options.refit);
  o.quantize.sweeps = a.sweeps.value_or(preset.options.sweeps);
  bool const sym = o.spec.sym && std::all_of(o.dynamic.begin(), o.dynamic.end(),
                                             [](auto const& rule) { return rule.sym.value_or(true); });
  o.format = sym ? gptq::checkpoint_format::gptq : gptq::checkpoint_format::gptq_v2;
  if (a.format) o.format = *gptq::find_format(*a.format);
  if (!sym) gptq::constrain(o.format, o.quantize.grid);
  o.true_sequential = a.true_sequential;
  o.all_layers = a.all_layers;
  o.as_llama = a.as == "llama";
  o.to_float16 = a.dtype == "float16";
  o.shard_size = parse_size("--shard-size", a.shard_size);
  o.overwrite = a.overwrite;
  o.count_codes = !a.report.empty();
  return o;
}

}  // namespace app
