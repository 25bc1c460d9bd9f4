/// One decoder block, cut into the segments between its linear stages. Each segment takes the states of some tokens and
/// the weights to use, and nothing else: whoever walks decides what is quantized and what is kept.
///
///   h ─ norm ─► X₀ ─ q,k,v, rotate, attention ─► X₁ ─ h += o·X₁, norm ─► X₂ ─ gate, up, act ─► X₃ ─ h += down·X₃
///
/// Some families have a norm of every head's query and key before the rotation, and one of o·X₁ and down·X₃.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/core/model_backend.hpp>
#include <gptq/model/config.hpp>
#include <gptq/model/names.hpp>
#include <gptq/run/rotary_tables.hpp>
#include <gptq/run/stage.hpp>

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Everything that one block computes with.
template <forward_backend B>
struct block_weights {
  index_t number = 0;
  std::array<matrix_of<B, typename B::activation>, norm_count> norms;  ///< by block_norm; empty: none
  std::array<stage_weights<B>, stage_count> stages;
};

/// Some whole samples of a stream: where they begin, and each token's row of the rotary tables.
template <forward_backend B>
struct token_range {
  index_t first = 0;  ///< row among the states
  index_t rows = 0;
  std::vector<index_t> bounds;               ///< first row of each sample, from 0 to rows
  view_of<B, std::int32_t const> positions;  ///< [1 × rows]
};

/// The keys and values of one text for one block, turned to their positions: so many rows, of which the first `used` are
/// there. A row holds the columns of the projections that are keys or values.
template <forward_backend B>
struct key_cache {
  matrix_of<B, typename B::activation> rows;
  index_t used = 0;
};

/// The segments of a block for one model and sample length. Views of x, the projections and the product are the
/// caller's.
template <forward_backend B>
class decoder_block {
 public:
  using view = view_of<B, typename B::activation>;
  using const_view = view_of<B, typename B::activation const>;

  /// Serves samples of these lengths.
  decoder_block(B& backend, model_config const& config, std::vector<index_t> lengths)
      : backend_(&backend),
        config_(config),
        tables_(backend, config.rope, std::move(lengths)),
        shape_(config.attention()) {}

  [[nodiscard]] model_config const& config() const { return config_; }

  /// What embeddings are multiplied by, rounded to the type of the states as the public implementation does.
  [[nodiscard]] float embedding_scale() const {
    using T = typename B::activation;
    if constexpr (std::is_floating_point_v<T>)
      return config_.embedding_scale;
    else
      return to_float(from_float<T>(config_.embedding_scale));
  }

  /// token_range::positions of the first token of a sample of that length; the others follow.
  [[nodiscard]] index_t first_position(index_t length) const { return tables_.first_row(length); }

  /// x = X₀ [tokens × hidden]
  void attention_input(block_weights<B> const& w, const_view h, view x) const { norm(h, w.norms[attention_norm], x); }

  /// context = X₁ [tokens × heads·head_dim], with room for the projections [tokens × stage_outputs(attention_stage)].
  /// With a cache the tokens are one text that goes on behind what the cache holds, and theirs is added to it.
  void attention(block_weights<B> const& w, token_range<B> const& tokens, const_view x, view projections, view context,
                 key_cache<B>* cache = nullptr) const {
    multiply<false>(*backend_, w.stages[attention_stage], x, projections);
    norm_heads(w.norms[query_norm], shape_.query, shape_.heads, projections);
    norm_heads(w.norms[key_norm], shape_.key, shape_.kv_heads, projections);
    backend_->rotate(projections, shape_.query, shape_.heads, tables_.cosines(), tables_.sines(), tokens.positions);
    backend_->rotate(projections, shape_.key, shape_.kv_heads, tables_.cosines(), tables_.sines(), tokens.positions);
    attention_shape shape = shape_;
    shape.window = config_.windows[static_cast<std::size_t>(w.number)];
    const_view const fused = projections;
    if (!cache) return backend_->attention(fused, fused, fused, {tokens.bounds, tokens.bounds}, shape, context);

    auto const [first, count] = cached_columns();
    view const rows = cache->rows;
    backend_->copy(fused.col_range(first, count), rows.row_range(cache->used, tokens.rows));
    cache->used += tokens.rows;
    shape.key.first -= first;
    shape.value.first -= first;
    const_view const all = rows.row_range(0, cache->used);
    std::array<index_t, 2> const keys = {0, cache->used};
    backend_->attention(fused, all, all, {tokens.bounds, keys}, shape, context);
  }

  /// A cache for texts of up to so many tokens.
  [[nodiscard]] key_cache<B> make_cache(index_t tokens) const {
    return {backend_->template make<typename B::activation>(tokens, cached_columns().second), 0};
  }

  /// h += o·X₁, with room for a result that is normed first [tokens × hidden]
  void add_context(block_weights<B> const& w, const_view context, view scratch, view h) const {
    if (config_.residual_after_norm) norm(h, w.norms[attention_norm], h);
    accumulate(w.stages[context_stage], context, w.norms[attention_output_norm], scratch, h);
  }

  /// x = X₂ [tokens × hidden]
  void mlp_input(block_weights<B> const& w, const_view h, view x) const { norm(h, w.norms[mlp_norm], x); }

  /// product = X₃ [tokens × mlp], with room for the projections [tokens × stage_outputs(gate_up_stage)]
  void mlp(block_weights<B> const& w, const_view x, view projections, view product) const {
    multiply<false>(*backend_, w.stages[gate_up_stage], x, projections);
    backend_->gated_activation(config_.activation, projections.col_range(0, config_.mlp),
                               projections.col_range(config_.mlp, config_.mlp), product);
  }

  /// h += down·X₃, with room for a result that is normed first [tokens × hidden]
  void add_product(block_weights<B> const& w, const_view product, view scratch, view h) const {
    if (config_.residual_after_norm) norm(h, w.norms[mlp_norm], h);
    accumulate(w.stages[down_stage], product, w.norms[mlp_output_norm], scratch, h);
  }

 private:
  /// The columns of the projections that hold keys and values, and how many they are.
  [[nodiscard]] std::pair<index_t, index_t> cached_columns() const {
    auto const end = [&](head_layout l) { return l.first + (shape_.kv_heads - 1) * l.stride + shape_.head_dim; };
    index_t const first = std::min(shape_.key.first, shape_.value.first);
    return {first, std::max(end(shape_.key), end(shape_.value)) - first};
  }
  void norm(const_view x, const_view weight, view y) const {
    backend_->rms_norm(x, weight, config_.norm_eps, config_.family->norm_offset, y);
  }
  void norm_heads(matrix_of<B, typename B::activation> const& weight, head_layout layout, index_t heads, view x) const {
    if (weight.rows() != 0)
      backend_->norm_heads(x, layout, heads, weight, config_.norm_eps, config_.family->norm_offset);
  }
  void accumulate(stage_weights<B> const& s, const_view x, matrix_of<B, typename B::activation> const& output_norm,
                  view scratch, view y) const {
    if (output_norm.rows() == 0) return multiply<true>(*backend_, s, x, y);
    multiply<false>(*backend_, s, x, scratch);
    norm(scratch, output_norm, scratch);
    backend_->add(scratch, y);
  }

  B* backend_;
  model_config config_;
  rotary_tables<B> tables_;
  attention_shape shape_;
};

}  // namespace v0
}  // namespace gptq
