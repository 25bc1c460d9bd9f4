/// The verbs of refining_backend on the host, and sums of squares.
#pragma once

#include <gptq/backend/host/gram.hpp>
#include <gptq/core/flags.hpp>
#include <gptq/core/grid.hpp>

#include <algorithm>
#include <cmath>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// out += xᵀ·y by tiles of the result, rows 2048 at a time, so that partial sums stay short.
template <class S>
void add_cross_native(matrix_view<S const> x, matrix_view<S const> y, matrix_view<S> out) {
  constexpr index_t tokens_at_once = 2048, edge = 512;
  index_t const across = (y.cols + edge - 1) / edge;
  parallel_for((x.cols + edge - 1) / edge * across, [&](index_t tile) {
    index_t const i = tile / across * edge, ni = (std::min)(edge, x.cols - i);
    index_t const j = tile % across * edge, nj = (std::min)(edge, y.cols - j);
    for (index_t t = 0; t < x.rows; t += tokens_at_once) {
      index_t const nt = (std::min)(tokens_at_once, x.rows - t);
      add_product<true, false, S>(S(1), x.block(t, i, nt, ni), y.block(t, j, nt, nj), out.block(i, j, ni, nj));
    }
  });
}

template <class S, class T>
void add_cross(matrix_view<T const> x, matrix_view<T const> y, matrix_view<S> out) {
  if constexpr (std::is_same_v<S, T>) {
    add_cross_native<S>(x, y, out);
  } else {
    matrix<S> wide_x(x.rows, x.cols), wide_y(y.rows, y.cols);
    convert<S, T>(x, wide_x.view());
    convert<S, T>(y, wide_y.view());
    add_cross_native<S>(wide_x.view(), wide_y.view(), out);
  }
}

/// out(p, r) = scale·gram(π(p), π(r)) / diagonal(p), 1 on the diagonal.
template <class S>
void gather_normalized(matrix_view<S const> gram, matrix_view<std::int32_t const> order, double scale,
                       matrix_view<S const> diagonal, matrix_view<S> out) {
  parallel_pieces(gram.rows, 16, [&](index_t first, index_t count) {
    for (index_t p = first; p < first + count; ++p) {
      index_t const row = order(0, p);
      double const factor = scale / static_cast<double>(diagonal(0, p));
      for (index_t r = 0; r < gram.rows; ++r) {
        index_t const col = order(0, r);
        out(p, r) = static_cast<S>(factor * static_cast<double>(row > col ? gram(row, col) : gram(col, row)));
      }
      out(p, p) = S(1);
    }
  });
}

template <class S>
void split_diagonal_blocks(matrix_view<S> a, matrix_view<S> lower) {
  parallel_pieces(a.rows, lower.cols, [&](index_t first, index_t count) {
    for (index_t r = 0; r < count; ++r)
      for (index_t c = 0; c < lower.cols; ++c) {
        lower(first + r, c) = c <= r ? a(first + r, first + c) : S(0);
        if (c <= r) a(first + r, first + c) = S(0);
      }
  });
}

template <class S>
void add_dequantized(S alpha, matrix_view<std::uint8_t const> codes, matrix_view<std::uint8_t const> zeros,
                     matrix_view<S const> scales, matrix_view<std::int32_t const> groups,
                     matrix_view<std::int32_t const> order, matrix_view<S> y) {
  for (index_t j = 0; j < y.rows; ++j) {
    std::uint8_t const* const code = codes.row(order(0, j));
    std::uint8_t const* const zero = zeros.row(groups(0, j));
    S const* const scale = scales.data ? scales.row(groups(0, j)) : nullptr;
    S* const out = y.row(j);
    for (index_t n = 0; n < y.cols; ++n) {
      S const steps = static_cast<S>(int(code[n]) - int(zero[n]));
      out[n] += alpha * (scale ? scale[n] * steps : steps);
    }
  }
}

template <class S>
void add_squares(matrix_view<S const> y, matrix_view<S const> weights, matrix_view<double> sums) {
  for (index_t r = 0; r < y.rows; ++r)
    for (index_t c = 0; c < y.cols; ++c) {
      auto const x = static_cast<double>(weights(0, r) * y(r, c));
      sums(0, c) += x * x;
    }
}

template <class S>
void add_products(matrix_view<S const> x, matrix_view<S const> y, matrix_view<S const> weights,
                  matrix_view<double> sums) {
  for (index_t j = 0; j < x.rows; ++j) {
    auto const w = static_cast<double>(weights(0, j));
    for (index_t n = 0; n < x.cols; ++n) sums(0, n) += w * static_cast<double>(x(j, n)) * static_cast<double>(y(j, n));
  }
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
