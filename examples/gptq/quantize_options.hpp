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
#include <gptq/quantize/recipe_json.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace app {

/// Empty where the option was not given and the recipe, the preset, or another option decides.
struct quantize_arguments {
  std::string model, output;
  std::string recipe;  ///< file
  bool print_recipe = false;
  bool dry_run = false;
  std::string calibration;  ///< file
  bool show_sample = false;
  std::optional<std::string> calibration_format, chat_format;
  std::optional<gptq::index_t> samples, sequence_length;
  std::optional<std::string> preset;
  std::optional<int> bits, group_size;
  std::optional<bool> sym, static_groups;
  rule_arguments rules;
  std::optional<bool> lm_head;
  engine_arguments engines;
  std::optional<std::string> order;
  std::optional<double> damp_percent;
  std::optional<float> mse;
  std::optional<double> target_shift, residual_shift;
  std::optional<int> refit, sweeps;
  std::optional<std::string> format;
  std::optional<std::string> dtype;
  std::optional<bool> all_layers;
  std::optional<std::string> as;
  std::optional<bool> true_sequential;
  std::optional<std::string> shard_size;
  std::optional<gptq::index_t> micro_batch;
  compute_options compute;
  std::string report;
  std::string evaluate;
  gptq::index_t evaluate_max_tokens = 0;  ///< 0: all
  int workers = 1;
  bool overwrite = false;
  bool allow_fallback = false;
};

/// A flag that stays empty where it is not given; "!--no-…" among the names turns it off.
inline void add_switch(CLI::App& command, char const* names, std::optional<bool>& value, char const* text) {
  command.add_flag_function(
      names, [&value](std::int64_t count) { value = count > 0; }, text);
}

/// What a run reads and writes, and where its settings come from.
inline void add_files(CLI::App& command, quantize_arguments& a) {
  auto* const model = command.add_option("model", a.model, "Model folder: config.json, safetensors, tokenizer")
                          ->required()
                          ->type_name("");
  auto* const output =
      command.add_option("output", a.output, "Folder to write; must not exist")->required()->type_name("");
  auto* const calibration =
      command.add_option("--calibration", a.calibration, "Text or token ids that the model sees meanwhile")
          ->required()
          ->type_name("FILE");
  command
      .add_option("--recipe", a.recipe,
                  "Take all settings from this file, as --print-recipe writes it; options given beside it override it")
      ->type_name("FILE.json");
  command.add_flag_callback(
      "--print-recipe",
      [&a, model, output, calibration] {
        a.print_recipe = true;
        for (auto* const option : {model, output, calibration}) option->required(false);
      },
      "Print the settings that the other options come to, as a recipe, and exit");
  command.add_flag(
      "--dry-run", a.dry_run,
      "Check everything, print what a run would do and write, and exit; --report FILE.json holds the same");
}

/// How calibration data becomes samples.
inline void add_calibration_options(CLI::App& command, quantize_arguments& a) {
  command
      .add_option("--calibration-format", a.calibration_format,
                  "lines: one sample a line, the default for .txt; windows: the whole text cut into windows; records: "
                  "chats and texts as JSON, the default for .json and .jsonl; ids: {\"input_ids\": [...]} a line")
      ->check(CLI::IsMember({"lines", "windows", "records", "ids"}))
      ->type_name("NAME");
  add_chat_format(command, a.chat_format);
  command.add_flag("--show-sample", a.show_sample, "Print the first sample as text");
  command.add_option("--samples", a.samples, "Samples to use, the first of the file")
      ->check(CLI::Range(1, 1 << 30))
      ->default_str("128")
      ->type_name("N");
  command.add_option("--sequence-length", a.sequence_length, "Tokens to which a sample is cut")
      ->check(CLI::Range(1, 1 << 24))
      ->default_str("2048")
      ->type_name("N");
}

/// The layers, their grids and how they are solved.
inline void add_solve_options(CLI::App& command, quantize_arguments& a) {
  command
      .add_option("--preset", a.preset,
                  "Start from: default; best, closest to the float model for two to three times the time; parity, the "
                  "public reference's way")
      ->check(CLI::IsMember(std::vector<std::string>(gptq::preset_names.begin(), gptq::preset_names.end())))
      ->default_str("default")
      ->type_name("NAME");
  command.add_option("--bits", a.bits, "Width of the codes: 2, 3, 4, 8")->default_str("4")->type_name("N");
  command.add_option("--group-size", a.group_size, "Inputs that share a scale; -1 for a whole row")
      ->default_str("128")
      ->type_name("N");
  add_switch(command, "--sym,!--no-sym", a.sym, "Symmetric grid (the default), or one with zero points");
  command
      .add_option("--order", a.order,
                  "Order of the columns: natural, desc_act, group_aware; default: group_aware, with parity natural")
      ->check(CLI::IsMember({"natural", "desc_act", "group_aware"}))
      ->type_name("NAME");
  add_switch(command, "--static-groups", a.static_groups, "Fix the grids before the pass (not with group_aware)");
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
  add_switch(command, "--lm-head", a.lm_head, "Quantize lm_head too, where it is not tied to the embedding");
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
}

/// What the result is written as.
inline void add_format_options(CLI::App& command, quantize_arguments& a) {
  command
      .add_option("--format", a.format, "gptq, gptq_v2 or compressed-tensors; default: gptq, without symmetry gptq_v2")
      ->check(CLI::IsMember(gptq::format_names()))
      ->type_name("NAME");
  command
      .add_option("--dtype", a.dtype, "keep: tensors that are not quantized stay as they are; float16: convert them")
      ->check(CLI::IsMember({"keep", "float16"}))
      ->default_str("keep")
      ->type_name("NAME");
  add_switch(command, "--all-layers", a.all_layers,
             "Quantize also what the family keeps in float because engines can't load it (TeleChat2)");
  command.add_option("--as", a.as, "llama: write TeleChat2 as the Llama checkpoint that computes the same")
      ->check(CLI::IsMember({"llama"}))
      ->type_name("NAME");
  add_switch(command, "--true-sequential,!--no-true-sequential", a.true_sequential,
             "Calibrate each linear group on the quantized ones before it (the default), or only each decoder layer");
  command.add_option("--shard-size", a.shard_size, "Largest file of weights: 4GB, 500MB, 2GiB, bytes")
      ->default_str("4GB")
      ->type_name("SIZE");
  add_engine_options(command, a.engines);
}

/// How the run goes, and what it tells.
inline void add_run_options(CLI::App& command, quantize_arguments& a) {
  add_compute_options(command, a.compute);
  command
      .add_option(
          "--workers", a.workers,
          "Split the run over workers that share the threads of the host; the result is the same for any number")
      ->check(CLI::Range(1, 64))
      ->default_str("1")
      ->type_name("N");
  command
      .add_option("--micro-batch", a.micro_batch,
                  "Tokens that are worked on together; planned from the memory there is if not given")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
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

inline void add_options(CLI::App& command, quantize_arguments& a) {
  add_files(command, a);
  add_calibration_options(command, a);
  add_solve_options(command, a);
  add_format_options(command, a);
  add_run_options(command, a);
  CLI::Validator const given([](std::string& text) { return std::string(text.empty() ? "needs a value" : ""); }, "");
  for (CLI::Option* const option :
       command.get_options())  // CLI11 takes an empty number for an option that was not given
    if (option->nonpositional() && (option->get_type_name() == "N" || option->get_type_name() == "X"))
      option->check(given);
}

template <class T>
void override_with(std::optional<T> const& given, T& setting) {
  if (given) setting = *given;
}

/// "group_size must be …", which begins with the name of a setting, as an error of its option.
[[noreturn]] inline void refuse_setting(std::string const& reason) {
  std::size_t const space = reason.find(' ');
  std::string option = "--" + reason.substr(0, space);
  std::replace(option.begin(), option.end(), '_', '-');
  throw usage_error(option + ":" + reason.substr(space));
}

/// Spec and solve as given.
inline void override_solve(quantize_arguments const& a, gptq::recipe& r) {
  override_with(a.bits, r.spec.bits);
  override_with(a.group_size, r.spec.group_size);
  override_with(a.sym, r.spec.sym);
  override_with(a.static_groups, r.spec.static_groups);
  if (a.order)
    for (auto const order :
         {gptq::column_order::natural, gptq::column_order::desc_act, gptq::column_order::group_aware})
      if (*a.order == to_string(order)) r.spec.order = order;
  override_with(a.damp_percent, r.quantize.damp_percent);
  override_with(a.mse, r.quantize.grid.mse);
  override_with(a.target_shift, r.shift.target);
  override_with(a.residual_shift, r.shift.residual);
  override_with(a.refit, r.quantize.reestimations);
  override_with(a.sweeps, r.quantize.descent_passes);
}

/// Calibration, engines, and how the result is written, as given.
inline void override_rest(quantize_arguments const& a, gptq::recipe& r) {
  override_with(a.calibration_format, r.calibration.format);
  override_with(a.chat_format, r.calibration.chat_format);
  override_with(a.samples, r.calibration.samples);
  override_with(a.sequence_length, r.calibration.sequence_length);
  override_with(a.lm_head, r.lm_head);
  override_with(a.all_layers, r.all_layers);
  if (a.as) r.as_llama = *a.as == "llama";
  if (a.dtype) r.to_float16 = *a.dtype == "float16";
  override_with(a.true_sequential, r.true_sequential);
  if (a.shard_size) r.shard_size = parse_size("--shard-size", *a.shard_size);
  override_with(a.micro_batch, r.micro_batch);
  if (!a.engines.names.empty()) r.engines = a.engines.names;
  override_with(a.engines.tensor_parallel, r.tensor_parallel);
}

/// The settings of a run: a recipe or a preset, overridden by what was given. Throws usage_error naming an option, or
/// format_error naming a file.
inline gptq::recipe resolve(quantize_arguments const& a) {
  gptq::recipe r = a.recipe.empty() ? gptq::recipe() : gptq::read_recipe(a.recipe);
  bool const usual_format = r.format == gptq::default_format(r);
  if (a.preset) apply_preset(r, *a.preset);
  override_solve(a, r);
  override_rest(a, r);
  try {
    gptq::check_recipe(r);
  } catch (gptq::shape_error const& e) {
    refuse_setting(e.what());
  }
  if (a.rules.any()) r.dynamic = resolve_rules(a.rules, r.spec);
  if (a.format)
    r.format = *gptq::find_format(*a.format);
  else if (usual_format)
    r.format = gptq::default_format(r);
  if (a.recipe.empty() || a.preset || a.sym || a.format || a.rules.any())
    r.quantize.grid.nonzero_zeros = gptq::needs_nonzero_zeros(r);
  return r;
}

/// What to read for calibration.
inline calibration_request calibration_of(quantize_arguments const& a, gptq::recipe const& r) {
  return {.file = a.calibration,
          .format = r.calibration.format,
          .chat_format = r.calibration.chat_format,
          .show_sample = a.show_sample,
          .size = {.samples = r.calibration.samples, .sequence_length = r.calibration.sequence_length}};
}

}  // namespace app
