/// Causal attention on the host: two products per (sample, head, tile of queries), the tiles handed to the threads.
#pragma once

#include <gptq/backend/host/eigen.hpp>
#include <gptq/backend/host/parallel.hpp>
#include <gptq/core/flags.hpp>
#include <gptq/core/model_backend.hpp>

#include <algorithm>
#include <atomic>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// Queries of one head that are worked on together, and the keys that any of them sees.
struct attention_tile {
  index_t head;
  index_t query;     ///< first row of q and of the result
  index_t queries;   ///< rows
  index_t key;       ///< first row of k and v
  index_t keys;      ///< rows
  index_t diagonal;  ///< the key, counted from `key`, at which the first query stands
};

/// Queries per tile: their scores against 2,048 keys fill half of a 1 MiB cache.
inline constexpr index_t attention_tile_rows = 64;

inline std::vector<attention_tile> attention_tiles(sequence_bounds bounds, attention_shape const& shape) {
  std::vector<attention_tile> tiles;
  for (std::size_t s = 0; s + 1 < bounds.queries.size(); ++s) {
    index_t const queries = bounds.queries[s + 1] - bounds.queries[s];
    index_t const keys = bounds.keys[s + 1] - bounds.keys[s];
    for (index_t i = 0; i < queries; i += attention_tile_rows) {
      index_t const rows = std::min(attention_tile_rows, queries - i);
      index_t const position = keys - queries + i;
      index_t const first = shape.window > 0 ? std::max(index_t(0), position - shape.window + 1) : 0;
      for (index_t h = 0; h < shape.heads; ++h)
        tiles.push_back(
            {h, bounds.queries[s] + i, rows, bounds.keys[s] + first, position + rows - first, position - first});
    }
  }
  // Long tiles first, so that no thread is left alone with one at the end.
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](attention_tile const& a, attention_tile const& b) { return a.keys > b.keys; });
  return tiles;
}

/// Scores become unnormalised probabilities, 0 where masked; sums [rows] holds what to divide each row by.
template <class T>
void masked_softmax(matrix_view<T> scores, index_t diagonal, attention_shape const& shape, T* sums) {
  T const scale = T(shape.scale);
  T const cap = T(shape.softcap);
  for (index_t r = 0; r < scores.rows; ++r) {
    index_t const last = diagonal + r;
    index_t const first = shape.window > 0 ? std::max(index_t(0), last - shape.window + 1) : 0;
    auto visible = eigen(scores).row(r).segment(first, last - first + 1).array();
    if (cap > 0) visible = (cap / scale) * (visible * (scale / cap)).tanh();
    T const top = visible.maxCoeff();
    visible = (scale * (visible - top)).exp();
    sums[r] = visible.sum();
    std::fill(scores.row(r), scores.row(r) + first, T(0));
    std::fill(scores.row(r) + last + 1, scores.row(r) + scores.cols, T(0));
  }
}

/// See forward_backend. `scratch` is kept between calls and grows to one tile of scores per thread.
template <class T>
void host_attention(matrix_view<T const> q, matrix_view<T const> k, matrix_view<T const> v, sequence_bounds bounds,
                    attention_shape const& shape, matrix_view<T> out, matrix<T>& scratch) {
  std::vector<attention_tile> const tiles = attention_tiles(bounds, shape);
  if (tiles.empty()) return;
  index_t const dim = shape.head_dim;
  index_t const group = shape.heads / shape.kv_heads;
  index_t const row = attention_tile_rows * (tiles.front().keys + 1);
  index_t const workers = thread_count();
  if (scratch.cols() < row || scratch.rows() < workers)
    scratch = matrix<T>(std::max(workers, scratch.rows()), std::max(row, scratch.cols()));
  std::atomic<std::size_t> next{0};
  parallel_for(workers, [&](index_t worker) {
    T* const sums = scratch.row(worker);
    for (std::size_t i = next++; i < tiles.size(); i = next++) {
      attention_tile const& t = tiles[i];
      index_t const kv = t.head / group;
      matrix_view<T> const scores(sums + attention_tile_rows, t.queries, t.keys);
      auto const queries = q.block(t.query, shape.query.first + t.head * shape.query.stride, t.queries, dim);
      auto const keys = k.block(t.key, shape.key.first + kv * shape.key.stride, t.keys, dim);
      auto const values = v.block(t.key, shape.value.first + kv * shape.value.stride, t.keys, dim);
      auto output = eigen(out.block(t.query, t.head * dim, t.queries, dim));
      eigen(scores).noalias() = eigen(queries) * eigen(keys).transpose();
      masked_softmax(scores, t.diagonal, shape, sums);
      output.noalias() = eigen(scores) * eigen(values);
      for (index_t r = 0; r < t.queries; ++r) output.row(r) *= T(1) / sums[r];
    }
  });
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
