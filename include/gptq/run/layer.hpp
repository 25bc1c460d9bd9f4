/// One decoder layer at work: its weights in a backend's memory, and the interpreter that runs programs over its graph.
/// Quantizing, evaluating and generating all go through it.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/core/model_backend.hpp>
#include <gptq/model/config.hpp>
#include <gptq/run/group_weights.hpp>
#include <gptq/run/program.hpp>
#include <gptq/run/rotary_tables.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Everything that one layer computes with. The graph is the model's and must outlive it.
template <forward_backend B>
struct layer_weights {
  index_t number = 0;
  block_graph const* graph = nullptr;
  std::vector<matrix_of<B, typename B::activation>> tensors;  ///< [graph->tensors]
  std::vector<group_weights<B>> groups;                       ///< [graph->groups]
};

/// Some whole samples: where they begin, and each token's row of the rotary tables.
template <forward_backend B>
struct token_range {
  index_t first = 0;  ///< row among all tokens
  index_t rows = 0;
  std::vector<index_t> bounds;               ///< first row of each sample, from 0 to rows
  view_of<B, std::int32_t const> positions;  ///< [1 × rows]
  index_t leaf = 0;                          ///< of the samples (gptq/core/leaves.hpp), where they are cut into some
};

/// The keys and values of one text for one layer, rotated to their positions: so many rows, of which the first `used`
/// are there. A row holds the columns of the projections that are keys or values.
template <forward_backend B>
struct key_cache {
  matrix_of<B, typename B::activation> rows;
  index_t used = 0;
};

/// The columns of the projections that hold keys and values: the first, and how many they are.
inline std::pair<index_t, index_t> cached_columns(attention_shape const& a) {
  auto const end = [&](head_layout l) { return l.first + (a.kv_heads - 1) * l.stride + a.head_dim; };
  index_t const first = std::min(a.key.first, a.value.first);
  return {first, std::max(end(a.key), end(a.value)) - first};
}

/// Runs programs over block graphs, for samples of some lengths.
template <forward_backend B>
class interpreter {
 public:
  using activation = typename B::activation;
  using view = view_of<B, activation>;
  using const_view = view_of<B, activation const>;

  /// Serves samples of these lengths.
  interpreter(B& backend, model_config const& config, std::vector<index_t> lengths)
      : backend_(&backend), config_(config), tables_(backend, config.rope, std::move(lengths)) {}

  [[nodiscard]] model_config const& config() const { return config_; }

  /// What embeddings are multiplied by, rounded to the type of the hidden states as the public implementation does.
  [[nodiscard]] float embedding_scale() const {
    if constexpr (std::is_floating_point_v<activation>)
      return config_.embedding_scale;
    else
      return to_float(from_float<activation>(config_.embedding_scale));
  }

  /// token_range::positions of the first token of a sample of that length; the others follow.
  [[nodiscard]] index_t first_position(index_t length) const { return tables_.first_row(length); }

  /// Makes room for programs over up to so many tokens; what there was is given back first.
  void reserve(index_t tokens, std::vector<index_t> const& widths) {
    scratch_.clear();
    for (index_t const width : widths) scratch_.push_back(backend_->template make<activation>(tokens, width));
  }

  /// Runs a program on `tokens`. `values` [graph.values] has views of what is at hand and of what is to be written to
  /// memory of the caller's, all [rows × width]; `hidden` are the hidden states, which adds change in place. Values in
  /// scratch memory are there until the next call. With a cache the tokens are one text that goes on behind what the cache
  /// holds, and theirs is added to it.
  void run(layer_program const& program, layer_weights<B> const& layer, token_range<B> const& tokens, view hidden,
           std::vector<view>& values, key_cache<B>* cache = nullptr) {
    block_graph const& g = *layer.graph;
    values.resize(g.values.size());
    for (std::size_t v = 0; v < values.size(); ++v)
      if (program.hidden[v]) values[v] = hidden;
    for (int const step : program.steps) {
      if (program.adds_directly[at(step)]) continue;
      graph_node const& n = g.nodes[at(step)];
      view& out = values[at(n.writes)];
      if (int const slot = program.slots[at(n.writes)]; slot >= 0)
        out = {view(scratch_[at(slot)]).data, tokens.rows, g.values[at(n.writes)].width};
      const_view const x = values[at(n.reads[0])];
      switch (n.op) {
        case operation::norm: norm(x, layer.tensors[at(n.tensors[0])], out); break;
        case operation::linear: multiply<false>(*backend_, layer.groups[at(n.group)], x, out); break;
        case operation::attention: attention(layer, n, tokens, values[at(n.reads[0])], out, cache); break;
        case operation::gated_activation:
          backend_->gated_activation(config_.activation, x.col_range(0, out.cols), x.col_range(out.cols, out.cols),
                                     out);
          break;
        case operation::add: add(program, layer, n, hidden, values); break;
        default: throw shape_error(std::string("this backend has no operation ") + to_string(n.op));
      }
    }
  }

  /// A cache for texts of up to so many tokens.
  [[nodiscard]] key_cache<B> make_cache(attention_shape const& shape, index_t tokens) const {
    return {backend_->template make<activation>(tokens, cached_columns(shape).second), 0};
  }

 private:
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }

  void norm(const_view x, const_view weight, view y) const {
    backend_->rms_norm(x, weight, config_.norm_eps, config_.family->norm_offset, y);
  }

  /// hidden += y. Where it is a norm of them that is added to, they become that first.
  void add(layer_program const& program, layer_weights<B> const& layer, graph_node const& n, view hidden,
           std::vector<view> const& values) const {
    if (view const x = values[at(n.reads[0])]; x.data != hidden.data) backend_->copy(const_view(x), hidden);
    graph_node const* const w = layer.graph->writer(n.reads[1]);
    if (w && program.adds_directly[static_cast<std::size_t>(w - layer.graph->nodes.data())])
      multiply<true>(*backend_, layer.groups[at(w->group)], values[at(w->reads[0])], hidden);
    else
      backend_->add(const_view(values[at(n.reads[1])]), hidden);
  }

  /// Norms and rotates queries and keys where they lie, then attends.
  void attention(layer_weights<B> const& layer, graph_node const& n, token_range<B> const& tokens, view x, view y,
                 key_cache<B>* cache) const {
    attention_shape shape = layer.graph->attention;
    std::array<std::pair<head_layout, index_t>, 2> const heads = {
        {{shape.query, shape.heads}, {shape.key, shape.kv_heads}}};
    for (std::size_t i = 0; i < n.tensors.size(); ++i)
      backend_->norm_heads(x, heads[i].first, heads[i].second, layer.tensors[at(n.tensors[i])], config_.norm_eps,
                           config_.family->norm_offset);
    for (auto const& [layout, count] : heads)
      backend_->rotate(x, layout, count, tables_.cosines(), tables_.sines(), tokens.positions);
    const_view const fused = x;
    if (!cache) return backend_->attention(fused, fused, fused, {tokens.bounds, tokens.bounds}, shape, y);

    auto const [first, count] = cached_columns(shape);
    view const rows = cache->rows;
    backend_->copy(fused.col_range(first, count), rows.row_range(cache->used, tokens.rows));
    cache->used += tokens.rows;
    shape.key.first -= first;
    shape.value.first -= first;
    const_view const all = rows.row_range(0, cache->used);
    std::array<index_t, 2> const keys = {0, cache->used};
    backend_->attention(fused, all, all, {tokens.bounds, keys}, shape, y);
  }

  B* backend_;
  model_config config_;
  rotary_tables<B> tables_;
  std::vector<matrix_of<B, activation>> scratch_;
};

}  // namespace v0
}  // namespace gptq
