/// What a run over a whole model is asked for, apart from where: every setting that decides what the result holds.
///
///   gptq::recipe r = gptq::recipe_of("best");   // a preset, then what differs from it
///   r.spec.bits = 3;
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/core/spec.hpp>
#include <gptq/format/dynamic_rules.hpp>
#include <gptq/format/formats.hpp>
#include <gptq/quant/options.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How calibration data is cut into samples, as far as a rerun on the same file needs it.
struct calibration_cut {
  std::string format;              ///< lines, windows, records or ids; empty: what the file's ending says
  std::string chat_format;         ///< of conversations; empty: the template of the model folder
  index_t samples = 128;           ///< the first so many of the file
  index_t sequence_length = 2048;  ///< tokens to which a sample is cut
};

/// The settings of a run. Two runs of one build with equal recipes, on the same model and the same samples, write the same
/// bytes. recipe_json.hpp has its canonical text.
struct recipe {
  std::string preset = "default";  ///< that it began as: default, best or parity; the other members decide
  quant_spec spec{.order = default_preset.order};
  quantize_options quantize = default_preset.options;
  asymmetric_options shift = default_preset.shift;  ///< any: the float model runs beside the quantized one
  std::vector<dynamic_rule> dynamic;  ///< layers that stay in float, or differ from spec; the first match decides
  bool lm_head = false;               ///< quantize lm_head too; refused where it is tied to the embedding
  bool all_layers = false;            ///< also those that the family keeps in float for the sake of engines
  bool as_llama = false;              ///< write TeleChat2 as the Llama checkpoint that computes the same
  checkpoint_format format = checkpoint_format::gptq;
  bool true_sequential = true;  ///< each linear group sees the quantized weights of those before it in its block
  bool to_float16 = false;      ///< convert the tensors that stay in float, else they are copied bit for bit
  std::uint64_t shard_size = 4'000'000'000;  ///< bytes of tensor data in a file at most, but for a larger tensor
  std::vector<std::string> engines;          ///< that are to load the result; names of engine_names
  int tensor_parallel = 1;                   ///< devices among which they divide each layer
  index_t micro_batch = 0;  ///< tokens that are worked on together at most, but for a longer sample; 0: planned
  calibration_cut calibration;
  std::map<std::string, std::string> meta;  ///< recorded in the quantization settings beside quantizer and order
};

/// Their names, in the order of `preset`.
inline constexpr std::array<char const*, 3> preset_names = {"default", "best", "parity"};

/// "natural", "desc_act", "group_aware"
constexpr char const* to_string(column_order order) {
  constexpr char const* names[] = {"natural", "desc_act", "group_aware"};
  return names[static_cast<unsigned char>(order)];
}

/// Sets everything that a preset decides: order, solve and asymmetric calibration. Throws shape_error for another name.
inline void apply_preset(recipe& r, std::string_view name) {
  preset const* const p = name == "default"  ? &default_preset
                          : name == "best"   ? &best_preset
                          : name == "parity" ? &parity_preset
                                             : nullptr;
  if (!p) throw shape_error("preset must be default, best or parity, not \"" + std::string(name) + "\"");
  r.preset = name;
  r.spec.order = p->order;
  r.quantize = p->options;
  r.shift = p->shift;
}

/// A recipe that is a preset and nothing else.
inline recipe recipe_of(std::string_view preset_name) {
  recipe r;
  apply_preset(r, preset_name);
  return r;
}

/// Whether every layer has a symmetric grid, whatever rules say of it.
inline bool all_symmetric(recipe const& r) {
  return r.spec.sym &&
         std::all_of(r.dynamic.begin(), r.dynamic.end(), [](auto const& rule) { return rule.sym.value_or(true); });
}

/// The format of a recipe that names none: version 1 can't store a zero point of 0, so it is for symmetric grids.
inline checkpoint_format default_format(recipe const& r) {
  return all_symmetric(r) ? checkpoint_format::gptq : checkpoint_format::gptq_v2;
}

/// Whether zero points of 0 must be avoided because the format can't store them.
inline bool needs_nonzero_zeros(recipe const& r) {
  if (all_symmetric(r)) return false;
  solve_limits limits;
  constrain(r.format, limits);
  return limits.nonzero_zeros;
}

namespace detail {

/// The shortest decimal that reads as this number.
template <class Real>
std::string shortest(Real x) {
  std::array<char, 64> text{};
  auto const [end, code] = std::to_chars(text.data(), text.data() + text.size(), x);
  return code == std::errc() ? std::string(text.data(), end) : std::string("?");
}

}  // namespace detail

/// Refuses settings outside their ranges: throws shape_error that begins with the setting's name, as its JSON has it.
inline void check_recipe(recipe const& r) {
  auto const refuse = [](std::string const& why) { throw shape_error(why); };
  auto const fraction = [&](char const* name, double x) {
    if (!(x >= 0 && x <= 1)) refuse(std::string(name) + " must lie between 0 and 1, not be " + detail::shortest(x));
  };
  auto const count = [&](char const* name, std::int64_t x, std::int64_t least, std::int64_t most) {
    if (x < least || x > most)
      refuse(std::string(name) + " must be a whole number from " + std::to_string(least) + " to " +
             std::to_string(most) + ", not " + std::to_string(x));
  };
  check_spec(r.spec);
  if (!(r.quantize.damp_percent > 0 && r.quantize.damp_percent < 1))
    refuse("damp_percent must lie between 0 and 1, not be " + detail::shortest(r.quantize.damp_percent));
  float const mse = r.quantize.grid.mse;
  if (!(mse == 0 || (mse >= 0.1f && mse <= 16)))
    refuse("mse must be 0, or an exponent from 0.1 to 16, not " + detail::shortest(mse));
  count("mse_steps", r.quantize.grid.mse_steps, 1, 100'000);
  fraction("mse_max_shrink", static_cast<double>(r.quantize.grid.mse_max_shrink));
  fraction("target_shift", r.shift.target);
  fraction("residual_shift", r.shift.residual);
  count("refit", r.quantize.reestimations, 0, 100);
  count("sweeps", r.quantize.descent_passes, 0, 100);
  count("tensor_parallel", r.tensor_parallel, 1, 1024);
  count("micro_batch", r.micro_batch, 0, index_t{1} << 30);
  count("samples", r.calibration.samples, 1, 1 << 30);
  count("sequence_length", r.calibration.sequence_length, 1, 1 << 24);
  if (r.shard_size == 0) refuse("shard_size must be above 0");
}

}  // namespace v0
}  // namespace gptq
