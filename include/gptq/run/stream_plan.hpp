/// How a token stream fits into a given amount of memory.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/run/stream.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What a run holds beside its chunks, in bytes; estimates, on the large side.
struct stream_needs {
  double states = 0;     ///< of all tokens, and attention's results
  double product = 0;    ///< inputs of the last stage, all tokens
  double weights = 0;    ///< of one block
  double solve = 0;      ///< Hessian, factor and working matrices of the largest stage
  double per_token = 0;  ///< of a chunk
  double attention = 0;  ///< scores in work
};

/// Times that a block's weights are held: it and the next one, and what is packed and on its way to the host.
inline constexpr double block_copies = 2.25;

/// What a run does beside one pass over the blocks.
struct stream_extras {
  int streams = 1;          ///< 2 where the float model runs beside the quantized one
  bool head = false;        ///< the output head is quantized too
  bool refines = false;     ///< refit or sweeps follow each pass …
  bool whole_rows = false;  ///< … with one group a row
};

/// For `tokens` calibration tokens in elements of so many bytes.
inline stream_needs stream_memory(model_config const& c, index_t tokens, std::size_t element,
                                  stream_extras const& extras = {}) {
  auto const wide = static_cast<double>(element);
  auto const n = static_cast<double>(tokens);
  auto const size = [](index_t x) { return static_cast<double>(x); };
  // Two matrices of in², and for each weight: itself twice in fp32, its code twice, half a word of products' halves.
  // Refining: the normalized Hessian, and for each weight three halves more, with one group a row its working matrices.
  auto const solve = [&](double in, double out) {
    double const plain = 2 * 4 * in * in + 12 * in * out + 24 * 512 * (in + out);
    return extras.refines ? plain + 4 * in * in + (extras.whole_rows ? 30 : 6) * in * out + 16 * 512 * out : plain;
  };
  stream_needs needs;
  needs.states = wide * n * (size(c.hidden) + size(c.stage_inputs(context_stage)));
  needs.product = wide * n * size(c.mlp);
  for (int s = 0; s < stage_count; ++s) {
    double const in = size(c.stage_inputs(s));
    double const out = size(c.stage_outputs(s));
    needs.weights += wide * in * out;
    needs.solve = (std::max)(needs.solve, solve(in, out));
  }
  if (extras.head) {  // when the weights of the blocks are gone
    double const in = size(c.hidden), out = size(c.vocabulary);
    needs.solve = (std::max)(needs.solve, solve(in, out) + wide * in * out - block_copies * needs.weights);
  }
  double const projections = (std::max)(size(c.stage_outputs(attention_stage)), size(c.stage_outputs(gate_up_stage)));
  double const outputs = (std::max)(size(c.stage_inputs(context_stage)), size(c.mlp));
  needs.per_token = wide * (size(c.hidden) + projections + outputs);
  needs.attention = 384.0 * (1 << 20);
  if (extras.streams > 1) {  // the same once more, and what tells one from the other
    double widest = 0;
    for (int s = 0; s < stage_count; ++s) widest = (std::max)(widest, size(c.stage_inputs(s)));
    needs.states *= 2;
    needs.product *= 2;
    needs.weights *= 1.5;
    needs.per_token *= 2;
    needs.solve += 2 * 4 * widest * widest;
  }
  return needs;
}

/// Options for `tokens` calibration tokens, of which the longest sample has `longest`, in `budget` bytes for matrices of
/// elements of that size: states go to host memory only if they leave no room to work, chunks are as large as they can
/// be up to `most`. A stream that turns out not to fit can still reduce().
inline stream_options plan_stream(model_config const& c, index_t tokens, index_t longest, std::size_t element,
                                  std::size_t budget, stream_extras const& extras = {}, index_t most = 16384) {
  stream_needs const needs = stream_memory(c, tokens, element, extras);
  auto const all = static_cast<double>(budget);
  index_t const least = (std::min)(tokens, (std::max)(longest, index_t(2048)));
  auto const chunk = [&](double taken, double per_token) {
    double const left = (std::max)(all - taken, 0.0);
    return static_cast<index_t>((std::min)(left / per_token, static_cast<double>(most)));
  };
  // Attention's scores and a solve are not in memory together.
  double const work = block_copies * needs.weights + (std::max)(needs.solve, needs.attention);
  stream_options options;
  options.keep_bytes = 0;
  options.chunk_tokens = chunk(needs.states + work, needs.per_token);
  if (options.chunk_tokens < least) {
    // Two slots for the states of a chunk, and two for attention's results.
    double const slots = 2 * needs.states / static_cast<double>((std::max)(tokens, index_t(1)));
    options.states_on_host = true;
    options.chunk_tokens = (std::max)(least, chunk(work, needs.per_token + slots));
    return options;
  }
  double const scratch = needs.per_token * static_cast<double>(options.chunk_tokens);
  if (needs.states + work + scratch + needs.product <= all)
    options.keep_bytes = static_cast<std::size_t>(needs.product / extras.streams) + 1;
  return options;
}

/// The same for the samples themselves.
inline stream_options plan_stream(model_config const& c, std::vector<std::vector<std::int32_t>> const& samples,
                                  std::size_t element, std::size_t budget, stream_extras const& extras = {}) {
  std::size_t tokens = 0;
  std::size_t longest = 0;
  for (auto const& s : samples) {
    tokens += s.size();
    longest = (std::max)(longest, s.size());
  }
  return plan_stream(c, static_cast<index_t>(tokens), static_cast<index_t>(longest), element, budget, extras);
}

}  // namespace v0
}  // namespace gptq
