/// How the activations of a run fit into a given amount of memory.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/model/config.hpp>
#include <gptq/run/activations.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What a run holds beside its micro-batches, in bytes; estimates, on the large side.
struct memory_needs {
  double hidden = 0;     ///< hidden states of all tokens, and attention outputs
  double product = 0;    ///< the widest inputs that a product makes, all tokens
  double weights = 0;    ///< of one layer
  double solve = 0;      ///< Hessian, factor and working matrices of the largest group
  double per_token = 0;  ///< of a micro-batch
  double attention = 0;  ///< scores in work
};

/// Times that a layer's weights are held: it and the next one, and what is packed and on its way to the host.
inline constexpr double layer_copies = 2.25;

/// What a run does beside one pass over the layers.
struct memory_extras {
  int models = 1;           ///< 2 where the float model runs beside the quantized one
  bool head = false;        ///< the lm_head is quantized too
  bool refines = false;     ///< scale re-estimation or coordinate-descent passes follow each pass …
  bool whole_rows = false;  ///< … with one group a row
};

/// For `tokens` calibration tokens in elements of so many bytes.
inline memory_needs needed_memory(model_config const& c, std::vector<block_graph> const& layers, index_t tokens,
                                  std::size_t element, memory_extras const& extras = {}) {
  auto const wide = static_cast<double>(element);
  auto const n = static_cast<double>(tokens);
  auto const size = [](index_t x) { return static_cast<double>(x); };
  // Two matrices of in², and for each weight: itself twice in fp32, its code twice, half a word of products' halves.
  // Refining: the normalized Hessian, and for each weight three halves more, with one group a row its working matrices.
  auto const solve = [&](double in, double out) {
    double const plain = 2 * 4 * in * in + 12 * in * out + 24 * 512 * (in + out);
    return extras.refines ? plain + 4 * in * in + (extras.whole_rows ? 30 : 6) * in * out + 16 * 512 * out : plain;
  };
  memory_needs needs;
  double widest = 0;
  for (block_graph const& g : layers) {
    double weights = 0, attention = 0;
    for (linear_group const& group : g.groups) {
      double const in = size(group.inputs()), out = size(group.outputs());
      weights += wide * in * out;
      widest = (std::max)(widest, in);
      needs.solve = (std::max)(needs.solve, solve(in, out));
    }
    for (std::vector<int> const& kept : plan_layer(g, false).kept)
      for (int const v : kept) attention = (std::max)(attention, size(g.values[static_cast<std::size_t>(v)].width));
    needs.weights = (std::max)(needs.weights, weights);
    needs.hidden = (std::max)(needs.hidden, wide * n * (size(c.hidden) + attention));
    needs.product = (std::max)(needs.product, wide * n * size(product_width(g)));
  }
  if (extras.head) {  // when the weights of the blocks are gone
    double const in = size(c.hidden), out = size(c.vocabulary);
    needs.solve = (std::max)(needs.solve, solve(in, out) + wide * in * out - layer_copies * needs.weights);
  }
  for (index_t const width : scratch_widths(layers)) needs.per_token += wide * size(width);
  needs.attention = 384.0 * (1 << 20);
  if (extras.models > 1) {  // the same once more, and what tells one from the other
    needs.hidden *= 2;
    needs.product *= 2;
    needs.weights *= 1.5;
    needs.per_token *= 2;
    needs.solve += 3.5 * 4 * widest * widest;  // (sums of leaves, while they are collected)
  }
  return needs;
}

/// Options for `tokens` calibration tokens, of which the longest sample has `longest`, in `budget` bytes for matrices of
/// elements of that size: hidden states go to host memory only if they leave no room to work, micro-batches are as large
/// as they can be up to `most`. Activations that turn out not to fit can still reduce().
inline activation_options plan_activations(model_config const& c, std::vector<block_graph> const& layers,
                                           index_t tokens, index_t longest, std::size_t element, std::size_t budget,
                                           memory_extras const& extras = {}, index_t most = 16384) {
  memory_needs const needs = needed_memory(c, layers, tokens, element, extras);
  auto const all = static_cast<double>(budget);
  index_t const least = (std::min)(tokens, (std::max)(longest, index_t(2048)));
  auto const micro_batch = [&](double taken, double per_token) {
    double const left = (std::max)(all - taken, 0.0);
    return static_cast<index_t>((std::min)(left / per_token, static_cast<double>(most)));
  };
  // Attention's scores and a solve are not in memory together.
  double const work = layer_copies * needs.weights + (std::max)(needs.solve, needs.attention);
  activation_options options;
  options.keep_bytes = 0;
  options.micro_batch = micro_batch(needs.hidden + work, needs.per_token);
  if (options.micro_batch < least) {
    // Two slots for the hidden states of a micro-batch, and two for attention outputs.
    double const slots = 2 * needs.hidden / static_cast<double>((std::max)(tokens, index_t(1)));
    options.on_host = true;
    options.micro_batch = (std::max)(least, micro_batch(work, needs.per_token + slots));
    return options;
  }
  double const scratch = needs.per_token * static_cast<double>(options.micro_batch);
  if (needs.hidden + work + scratch + needs.product <= all)
    options.keep_bytes = static_cast<std::size_t>(needs.product / extras.models) + 1;
  return options;
}

/// The same for the samples themselves.
inline activation_options plan_activations(model_config const& c, std::vector<block_graph> const& layers,
                                           std::vector<std::vector<std::int32_t>> const& samples, std::size_t element,
                                           std::size_t budget, memory_extras const& extras = {}) {
  std::size_t tokens = 0;
  std::size_t longest = 0;
  for (auto const& s : samples) {
    tokens += s.size();
    longest = (std::max)(longest, s.size());
  }
  return plan_activations(c, layers, static_cast<index_t>(tokens), static_cast<index_t>(longest), element, budget,
                          extras);
}

}  // namespace v0
}  // namespace gptq
