/// What a run over a whole model is asked for, and what it reports.
#pragma once

#include <gptq/core/report.hpp>
#include <gptq/format/dynamic_rules.hpp>
#include <gptq/pack/packed_linear.hpp>
#include <gptq/quant/options.hpp>
#include <gptq/run/activations.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Where a run is; everything counts from 0.
struct pipeline_progress {
  index_t block = 0;
  index_t blocks = 0;
  index_t group = 0;  ///< of the linears of the block
  index_t groups = 0;
  std::string_view name;  ///< of the group's first linear: "q_proj"
  index_t tokens = 0;     ///< calibration tokens that reached the group so far
  index_t of_tokens = 0;
};

struct pipeline_options {
  quant_spec spec{.order = default_preset.order};
  quantize_options quantize = default_preset.options;
  shift_options shift = default_preset.shift;  ///< any: the float model runs beside the quantized one
  std::vector<dynamic_rule> dynamic;  ///< layers that stay in float, or differ from spec; the first match decides
  bool lm_head = false;               ///< quantize the lm_head too; refused where it is tied
  bool all_layers = false;            ///< also those that the family keeps in float for the sake of engines
  bool as_llama = false;              ///< write TeleChat2 as the Llama checkpoint that computes the same
  checkpoint_format format = checkpoint_format::gptq;
  bool true_sequential = true;  ///< each group sees the quantized weights of the groups before it
  bool to_float16 = false;      ///< convert the tensors that stay in float, else they are copied bit for bit
  std::uint64_t shard_size = 4'000'000'000;
  bool overwrite = false;
  bool count_codes = false;  ///< fill linear_record::codes
  activation_options activations;
  std::map<std::string, std::string> meta;  ///< recorded in the quantization settings: quantizer, version, …
  std::function<void(pipeline_progress const&)> progress;  ///< may be empty
};

struct linear_record {
  std::string name;
  std::string group;  ///< the linears of a block that were solved with it: "q_proj, k_proj, v_proj"; empty: none
  index_t out_features = 0;
  index_t in_features = 0;
  quant_spec spec;
  linear_report report;
  std::vector<std::uint64_t> codes;  ///< how often each code was given, [2^bits]; empty where not asked for
};

struct pipeline_report {
  std::vector<linear_record> linears;     ///< in the order in which they were quantized
  std::map<std::string, double> seconds;  ///< by activity: load, forward, gram, solve, pack, write
  index_t samples = 0;
  index_t tokens = 0;
  index_t micro_batch = 0;  ///< that were worked on together at the end: fewer than asked for where memory was short
  std::uint64_t bytes_before = 0;  ///< of tensor data
  std::uint64_t bytes_after = 0;
  std::vector<std::string> kept_float;  ///< layers that a rule keeps in float
  std::vector<advice> warnings;

  /// How many layers a caller should have allowed to fall back.
  [[nodiscard]] index_t fallbacks() const {
    index_t n = 0;
    for (auto const& l : linears) n += is_fallback(l.report.status);
    return n;
  }
};

}  // namespace v0
}  // namespace gptq
