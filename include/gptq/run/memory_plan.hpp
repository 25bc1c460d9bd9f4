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

/// What there is to run on, and in how much memory.
struct memory_request {
  index_t tokens = 0;       ///< of calibration, in all
  index_t longest = 0;      ///< of the longest sample
  std::size_t element = 4;  ///< bytes of an element of activations and weights
  std::size_t budget = 0;   ///< bytes for matrices
  index_t micro_batch = 0;  ///< tokens that are asked for; 0: as many as fit, up to 16,384
  memory_extras extras = {};
};

/// Hidden states go to host memory only if they leave no room for the micro-batch that was asked for, or for one of a
/// useful size; a longer sample, which is worked on alone, must fit too. Activations that turn out not to fit can still
/// reduce().
inline activation_options plan_activations(model_config const& c, std::vector<block_graph> const& layers,
                                           memory_request const& request) {
  memory_needs const needs = needed_memory(c, layers, request.tokens, request.element, request.extras);
  index_t const limit = request.micro_batch > 0 ? request.micro_batch : 16384;
  index_t const useful = (std::min)(request.micro_batch > 0 ? limit : index_t(2048), request.tokens);
  auto const fitting = [&](double taken, double per_token) {
    double const left = (std::max)(static_cast<double>(request.budget) - taken, 0.0);
    return static_cast<index_t>((std::min)(left / per_token, 1e15));
  };
  // Attention's scores and a solve are not in memory together.
  double const work = layer_copies * needs.weights + (std::max)(needs.solve, needs.attention);
  activation_options options;
  options.keep_bytes = 0;
  index_t fits = fitting(needs.hidden + work, needs.per_token);
  if (fits < (std::max)(useful, request.longest)) {
    // Two slots for the hidden states of a micro-batch, and two for attention outputs.
    double const slots = 2 * needs.hidden / static_cast<double>((std::max)(request.tokens, index_t(1)));
    options.on_host = true;
    fits = (std::max)(fitting(work, needs.per_token + slots), index_t(2048));
    options.micro_batch = (std::min)(fits, limit);
    return options;
  }
  options.micro_batch = (std::min)(fits, limit);
  index_t const rows = (std::max)(options.micro_batch, request.longest);
  if (needs.hidden + work + needs.per_token * static_cast<double>(rows) + needs.product <=
      static_cast<double>(request.budget))
    options.keep_bytes = static_cast<std::size_t>(needs.product / request.extras.models) + 1;
  return options;
}

}  // namespace v0
}  // namespace gptq
