/// Blocks of a model folder in a backend's memory.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/block.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

template <class T>
constexpr bool stored_as(dtype type) {
  if constexpr (std::is_same_v<T, bfloat16>) return type == dtype::bf16;
  if constexpr (std::is_same_v<T, float16>) return type == dtype::f16;
  return std::is_same_v<T, float> && type == dtype::f32;
}

/// Whether all of a stage is stored in the type that the backend computes with, one layer's rows after the other.
template <class T>
bool stored_as(model_weights const& weights, index_t block, int stage) {
  for (linear_info const& l : weights.names().linears(block, stage)) {
    tensor_view const* const t = weights.stored(l);
    if (!t || !stored_as<T>(t->type)) return false;
  }
  return true;
}

/// The stacked weights of a stage. A backend that has upload_bytes(bytes, view) takes what is stored in its own type as
/// it is, without a way through float on the host.
template <forward_backend B>
matrix_of<B, typename B::activation> load_stage_weight(B& b, model_weights const& weights, index_t block, int stage) {
  using T = typename B::activation;
  if constexpr (requires(view_of<B, T> to, view_of<B, T const> from, std::span<std::byte const> bytes) {
                  b.upload_bytes(bytes, to);
                  b.all_finite(from);
                }) {
    if (stored_as<T>(weights, block, stage)) {
      auto all = b.template make<T>(weights.config().stage_outputs(stage), weights.config().stage_inputs(stage));
      view_of<B, T> const to = all;
      for (linear_info const& l : weights.names().linears(block, stage))
        b.upload_bytes(weights.stored(l)->bytes, to.row_range(l.first_row, l.rows));
      if (b.all_finite(view_of<B, T const>(to))) return all;  // else the way below says what is wrong
    }
  }
  return b.template adopt<T>(weights.stage_weight(block, stage));
}

template <forward_backend B>
bool any_packed(model_weights const& weights, std::vector<linear_info> const& layers) {
  return packed_backend<B> &&
         std::any_of(layers.begin(), layers.end(), [&](linear_info const& l) { return weights.packed(l) != nullptr; });
}

/// A linear layer by itself; packed where it is and the backend takes that.
template <forward_backend B>
stage_part<B> load_part(B& b, model_weights const& weights, linear_info const& l) {
  stage_part<B> part{l.first_row, l.rows, {}, {}};
  if constexpr (packed_backend<B>) {
    if (packed_view const* const packed = weights.packed(l)) {
      part.packed.emplace(b.adopt_packed(*packed));
      return part;
    }
  }
  part.weight = b.template adopt<typename B::activation>(weights.weight(l));
  return part;
}

}  // namespace detail

/// The stacked weights of the stages of a block; empty where they are not there yet.
template <forward_backend B>
using stage_matrices = std::array<matrix_of<B, typename B::activation>, stage_count>;

/// What becomes of packed layers when they are loaded.
enum class packed_layers : unsigned char { dequantize, keep };

/// Block i in the backend's memory, but for those stages of which `ready` has the weights already. Throws numeric_error
/// naming the tensor for NaN or Inf.
template <forward_backend B>
block_weights<B> load_block(B& b, model_weights const& weights, index_t i, stage_matrices<B> ready = {},
                            packed_layers packed = packed_layers::dequantize) {
  using T = typename B::activation;
  block_weights<B> block;
  block.number = i;
  for (int n = 0; n < norm_count; ++n)
    if (auto norm = weights.norm(i, static_cast<block_norm>(n)); norm.size() != 0)
      block.norms[static_cast<std::size_t>(n)] = b.template adopt<T>(std::move(norm));
  for (int s = 0; s < stage_count; ++s) {
    auto& stage = block.stages[static_cast<std::size_t>(s)];
    auto& early = ready[static_cast<std::size_t>(s)];
    stage.linears = weights.names().linears(i, s);
    stage.bias = b.template adopt<T>(weights.stage_bias(i, s));
    if (packed == packed_layers::keep && detail::any_packed<B>(weights, stage.linears))
      for (linear_info const& l : stage.linears) stage.parts.push_back(detail::load_part(b, weights, l));
    else
      stage.weight = early.rows() > 0 ? std::move(early) : detail::load_stage_weight(b, weights, i, s);
  }
  return block;
}

}  // namespace v0
}  // namespace gptq
