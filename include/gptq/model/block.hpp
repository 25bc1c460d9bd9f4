/// One decoder block, cut into the segments between its linear stages. Each segment takes the states of some tokens and
/// the weights to use, and nothing else: whoever walks decides what is quantized and what is kept.
///
///   h ─ norm ─► X₀ ─ q,k,v, rotate, attention ─► X₁ ─ h += o·X₁, norm ─► X₂ ─ gate, up, act ─► X₃ ─ h += down·X₃
#pragma once

#include <gptq/core/forward.hpp>
#include <gptq/model/config.hpp>
#include <gptq/model/names.hpp>
#include <gptq/model/rope.hpp>

#include <array>
#include <cmath>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The linear layers of a stage, stacked.
template <forward_backend B>
struct stage_weights {
  matrix_of<B, typename B::activation> weight;  ///< [sum of outputs × inputs]
  matrix_of<B, typename B::activation> bias;    ///< [1 × sum of outputs], or empty
  std::vector<linear_info> linears;
};

/// Everything that one block computes with.
template <forward_backend B>
struct block_weights {
  index_t number = 0;
  matrix_of<B, typename B::activation> attention_norm;  ///< [1 × hidden]
  matrix_of<B, typename B::activation> mlp_norm;        ///< [1 × hidden]
  std::array<stage_weights<B>, stage_count> stages;
};

/// Some whole samples of a stream: where they begin, and the position of every token in its sample.
template <forward_backend B>
struct token_range {
  index_t first = 0;  ///< row among the states
  index_t rows = 0;
  std::vector<index_t> bounds;               ///< first row of each sample, from 0 to rows
  view_of<B, std::int32_t const> positions;  ///< [1 × rows]
};

/// The segments of a block for one model and sample length. Views of x, the projections and the product are the
/// caller's.
template <forward_backend B>
class decoder_block {
 public:
  using view = view_of<B, typename B::activation>;
  using const_view = view_of<B, typename B::activation const>;

  /// Serves samples of up to `positions` tokens.
  decoder_block(B& backend, model_config const& config, index_t positions)
      : backend_(&backend), config_(config), tables_(make_rotary_tables(backend, config.rope, positions)) {
    index_t const dim = config.head_dim;
    shape_ = {.heads = config.heads,
              .kv_heads = config.kv_heads,
              .head_dim = dim,
              .query = {0, dim},
              .key = {config.heads * dim, dim},
              .value = {(config.heads + config.kv_heads) * dim, dim},
              .scale = static_cast<float>(1 / std::sqrt(double(dim)))};
  }

  [[nodiscard]] model_config const& config() const { return config_; }

  /// x = X₀ [tokens × hidden]
  void attention_input(block_weights<B> const& w, const_view h, view x) const {
    backend_->rms_norm(h, w.attention_norm, config_.norm_eps, false, x);
  }

  /// context = X₁ [tokens × heads·head_dim], with room for the projections [tokens × stage_outputs(attention_stage)]
  void attention(block_weights<B> const& w, token_range<B> const& tokens, const_view x, view projections,
                 view context) const {
    project(w.stages[attention_stage], x, projections);
    backend_->rotate(projections, shape_.query, shape_.heads, tables_.cosines, tables_.sines, tokens.positions);
    backend_->rotate(projections, shape_.key, shape_.kv_heads, tables_.cosines, tables_.sines, tokens.positions);
    attention_shape shape = shape_;
    shape.window = config_.windows[static_cast<std::size_t>(w.number)];
    const_view const fused = projections;
    backend_->attention(fused, fused, fused, {tokens.bounds, tokens.bounds}, shape, context);
  }

  /// h += o·X₁
  void add_context(block_weights<B> const& w, const_view context, view h) const {
    accumulate(w.stages[context_stage], context, h);
  }

  /// x = X₂ [tokens × hidden]
  void mlp_input(block_weights<B> const& w, const_view h, view x) const {
    backend_->rms_norm(h, w.mlp_norm, config_.norm_eps, false, x);
  }

  /// product = X₃ [tokens × mlp], with room for the projections [tokens × stage_outputs(gate_up_stage)]
  void mlp(block_weights<B> const& w, const_view x, view projections, view product) const {
    project(w.stages[gate_up_stage], x, projections);
    backend_->gated_activation(config_.activation, projections.col_range(0, config_.mlp),
                               projections.col_range(config_.mlp, config_.mlp), product);
  }

  /// h += down·X₃
  void add_product(block_weights<B> const& w, const_view product, view h) const {
    accumulate(w.stages[down_stage], product, h);
  }

 private:
  void project(stage_weights<B> const& s, const_view x, view y) const { backend_->linear(x, s.weight, s.bias, y); }
  void accumulate(stage_weights<B> const& s, const_view x, view y) const {
    backend_->add_linear(x, s.weight, s.bias, y);
  }

  B* backend_;
  model_config config_;
  rotary_tables<B> tables_;
  attention_shape shape_;
};

}  // namespace v0
}  // namespace gptq
