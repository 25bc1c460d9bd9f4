/// The second concept of a backend: what running a decoder asks for. A backend that only quantizes does without it.
///
/// Activations are row-major [tokens × features], element type `B::activation` (float on the host; a device may use a
/// 16-bit type). Samples lie one after the other along the tokens, whole and without padding, so that products are
/// large; only attention knows where a sample begins. Heads are slices of columns that a head_layout locates, so
/// projections that are stored fused (q, k and v in one matrix, key and value interleaved) need no copy.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/core/quantize_backend.hpp>

#include <concepts>
#include <cstdint>
#include <span>

namespace gptq {
inline namespace v0 {

/// The nonlinearity of a gated MLP. gelu_tanh is the approximation by tanh, gelu_erf the exact form.
enum class activation_function : unsigned char { silu, gelu_tanh, gelu_erf };

/// Where the heads lie among the columns of a matrix: head h begins at column first + h·stride.
struct head_layout {
  index_t first = 0;
  index_t stride = 0;
};

/// Rows of each sample: sample s has the queries [queries[s], queries[s+1]) and the keys [keys[s], keys[s+1]). Without
/// a cache of earlier keys both are the same; with one, the last query of a sample stands at its last key.
struct sequence_bounds {
  std::span<index_t const> queries;
  std::span<index_t const> keys;
};

/// One attention layer. Query head h reads key/value head h / (heads / kv_heads).
struct attention_shape {
  index_t heads = 0;
  index_t kv_heads = 0;
  index_t head_dim = 0;
  head_layout query;
  head_layout key;
  head_layout value;
  float scale = 1;     ///< of the scores, 1/sqrt(head_dim) unless the model says otherwise
  float softcap = 0;   ///< c > 0: scores become c·tanh(score / c) before the mask
  index_t window = 0;  ///< w > 0: a query sees itself and the w − 1 keys before it
};

/// The requirements. For a backend b; `x` and `y` are activations, weights are [out × in]:
///
///   b.make<T>(rows, cols)                an uninitialised matrix
///   b.adopt<T>(host_matrix)              the host matrix as one of T in the backend's memory; a move where it can be
///   b.copy(from, to)
///   b.download(view, host)               elements as they are; download waits
///   b.embed(ids, table, scale, y)        y(t, :) = scale·table(ids(0, t), :); ids are [1 × tokens] and valid
///   b.rms_norm(x, weight, eps, unit_offset, y)
///                                        y = x / sqrt(mean(x²) + eps) · (weight, or 1 + weight); y may be x; rows may be
///                                        strided
///   b.norm_heads(x, layout, heads, weight, eps, unit_offset)
///                                        the same in place, for each head by itself; weight is [1 × head_dim]
///   b.linear(x, w, bias, y)              y = x·wᵀ + bias; an empty view is no bias
///   b.add_linear(x, w, bias, y)          y += x·wᵀ + bias
///   b.rotate(x, layout, heads, cos, sin, positions)
///                                        in place, half-split: with c = cos(p, i), s = sin(p, i), p = positions(0, t)
///                                        (x_i, x_{i+r}) ← (c·x_i − s·x_{i+r}, c·x_{i+r} + s·x_i), i < r; tables are
///                                        [positions × r], columns of a head beyond 2r stay as they are
///   b.attention(q, k, v, bounds, shape, y)
///                                        causal softmax attention; y [queries × heads·head_dim], heads in order. No
///                                        matrix of queries × keys for all heads at once
///   b.gated_activation(f, gate, up, y)   y = f(gate)·up; y may be gate
///   b.add(x, y)                          y += x
///   b.softcap(c, y)                      y ← c·tanh(y / c)
template <class B>
concept forward_backend = requires {
  typename B::activation;
  typename matrix_of<B, typename B::activation>;
}
&&requires(B& b, view_of<B, typename B::activation> y, view_of<B, typename B::activation const> x,
           view_of<B, float const> table, view_of<B, std::int32_t const> ids, matrix_view<typename B::activation> host,
           matrix<float> owned, index_t n, float s, activation_function f, sequence_bounds bounds,
           attention_shape const& shape) {
  { b.template make<typename B::activation>(n, n) } -> std::same_as<matrix_of<B, typename B::activation>>;
  {
    b.template adopt<typename B::activation>(static_cast<matrix<float>&&>(owned))
    } -> std::same_as<matrix_of<B, typename B::activation>>;
  { b.template adopt<float>(static_cast<matrix<float>&&>(owned)) } -> std::same_as<matrix_of<B, float>>;
  b.copy(x, y);
  b.download(x, host);
  b.embed(ids, x, s, y);
  b.rms_norm(x, x, s, bool(), y);
  b.norm_heads(y, head_layout(), n, x, s, bool());
  b.linear(x, x, x, y);
  b.add_linear(x, x, x, y);
  b.rotate(y, head_layout(), n, table, table, ids);
  b.attention(x, x, x, bounds, shape, y);
  b.gated_activation(f, x, x, y);
  b.add(x, y);
  b.softcap(s, y);
};

/// What measuring a model asks for on top: one number per token from a row of logits.
///
///   b.cross_entropy(logits, targets, nll)          nll[t] = log Σ exp(logits(t, :)) − logits(t, targets(0, t))
///   b.divergence(reference, logits, kl, same_top)  kl[t] = Σ p·(log p − log q), p and q the softmax of the two rows;
///                                                  same_top[t] = 1 where the first largest logit is at the same place
/// Results are on the host when the call returns, accurate to double rounding of the logits given.
template <class B>
concept evaluation_backend = forward_backend<B> &&
    requires(B& b, view_of<B, typename B::activation const> logits, view_of<B, std::int32_t const> targets,
             std::span<double> values, std::span<std::uint8_t> flags) {
  b.cross_entropy(logits, targets, values);
  b.divergence(logits, logits, values, flags);
};

}  // namespace v0
}  // namespace gptq
