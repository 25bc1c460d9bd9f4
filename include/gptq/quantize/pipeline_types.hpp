/// How a run over a whole model goes: what it may be told beside its recipe, where it is, and what it reports.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/core/report.hpp>
#include <gptq/core/spec.hpp>
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

/// How a job is run; nothing here changes what the result holds, but for the micro-batch of `memory`.
struct run_options {
  bool overwrite = false;     ///< replace the target if it is a folder with a quantized model
  bool count_codes = false;   ///< fill linear_record::codes
  activation_options memory;  ///< micro-batch, and where hidden states lie
  std::function<void(pipeline_progress const&)> progress;  ///< called often; may be empty, may throw to stop the run
};

/// A backend that is ready for a run, and how the run fits into its memory.
template <class B>
struct ready_backend {
  B& backend;
  activation_options memory;
};

/// One linear layer that was quantized.
struct linear_record {
  std::string name;
  std::string group;  ///< the linears of a block that were solved with it: "q_proj, k_proj, v_proj"; empty: none
  index_t out_features = 0;
  index_t in_features = 0;
  quant_spec spec;
  linear_report report;
  std::vector<std::uint64_t> codes;  ///< how often each code was given, [2^bits]; empty where not asked for
};

/// What a run came to.
struct pipeline_report {
  std::vector<linear_record> linears;     ///< in the order in which they were quantized
  std::map<std::string, double> seconds;  ///< by activity: load, forward, gram, solve, pack, write
  index_t samples = 0;
  index_t tokens = 0;
  index_t micro_batch = 0;         ///< at the end, in tokens: smaller than planned where memory was short
  std::uint64_t bytes_before = 0;  ///< of tensor data
  std::uint64_t bytes_after = 0;
  std::vector<std::string> kept_float;  ///< layers that a rule keeps in float
  std::vector<std::string> unread;      ///< tensors of the source that no layer reads; they were copied
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
