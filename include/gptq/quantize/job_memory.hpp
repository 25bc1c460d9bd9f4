/// How a job fits into memory: the micro-batch, where hidden states lie, and about how much a run needs.
#pragma once

#include <gptq/quantize/job.hpp>
#include <gptq/run/memory_plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What a job's run does beside one pass over the blocks.
inline memory_extras extras_of(recipe const& r) {
  return {.models = r.shift.any() ? 2 : 1,
          .head = r.lm_head,
          .refines = r.quantize.reestimations > 0 || r.quantize.descent_passes > 0,
          .whole_rows = r.spec.group_size == -1};
}

/// For a backend with `budget` bytes for matrices of elements of `element` bytes. A micro-batch that the recipe asks for is
/// kept where it fits.
inline activation_options plan_memory(job const& j, std::vector<std::vector<std::int32_t>> const& samples,
                                      std::size_t element, std::size_t budget) {
  memory_request request{
      .element = element, .budget = budget, .micro_batch = j.asked().micro_batch, .extras = extras_of(j.asked())};
  for (auto const& sample : samples) {
    request.tokens += static_cast<index_t>(sample.size());
    request.longest = (std::max)(request.longest, static_cast<index_t>(sample.size()));
  }
  return plan_activations(j.weights().config(), j.weights().layers(), request);
}

/// On the host, which takes what it needs.
inline activation_options host_memory(recipe const& r) {
  activation_options memory;
  if (r.micro_batch > 0) memory.micro_batch = r.micro_batch;
  return memory;
}

/// About how many bytes of matrices a run on `tokens` calibration tokens holds at most, in elements of so many bytes.
inline std::uint64_t matrix_bytes(job const& j, index_t tokens, std::size_t element, activation_options const& memory) {
  memory_needs const needs =
      needed_memory(j.weights().config(), j.weights().layers(), tokens, element, extras_of(j.asked()));
  double const kept = needs.product <= static_cast<double>(memory.keep_bytes) ? needs.product : 0;
  double const hidden = memory.on_host ? 0 : needs.hidden + kept;
  return static_cast<std::uint64_t>(hidden + needs.weights + needs.solve +
                                    needs.per_token * static_cast<double>((std::min)(memory.micro_batch, tokens)));
}

}  // namespace v0
}  // namespace gptq
