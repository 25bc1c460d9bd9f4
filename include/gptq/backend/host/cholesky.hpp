/// Cholesky on the host, a = L·Lᵀ in the lower triangle: Eigen's own runs on one thread only, so panels and tiles here,
/// with Eigen's products inside. Right-looking on two levels: products with a short inner dimension run at three quarters
/// of the full rate, so narrow panels update only the wide panel that they are part of, and that updates the rest.
#pragma once

#include <gptq/backend/host/gram.hpp>
#include <gptq/core/flags.hpp>

#include <cmath>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// a(i, j) −= a(i, k)·a(j, k)ᵀ for the columns j in [first, last) and all rows i from the tile of j down, k the inner
/// columns [begin, begin + count).
template <class S>
void update_columns(matrix_view<S> a, index_t first, index_t last, index_t begin, index_t count) {
  index_t const n = a.rows;
  index_t const edge = (std::min)(index_t(256), tile_edge(n - first)), half = edge / 2;
  struct tile {
    index_t i, j, ni, nj;
  };
  std::vector<tile> tiles;
  for (index_t j = first; j < last; j += edge) {
    for (index_t i = j + edge; i < n; i += edge)
      tiles.push_back({i, j, (std::min)(edge, n - i), (std::min)(edge, last - j)});
    for (index_t k = j; k < (std::min)(j + edge, last); k += half)  // less of what is above the diagonal
      tiles.push_back({k, k, (std::min)(j + edge, n) - k, (std::min)(half, last - k)});
  }
  parallel_for(static_cast<index_t>(tiles.size()), [&](index_t t) {
    auto const [i, j, ni, nj] = tiles[static_cast<std::size_t>(t)];
    add_product<false, true, S>(S(-1), a.block(i, begin, ni, count), a.block(j, begin, nj, count),
                                a.block(i, j, ni, nj));
  });
}

/// Factors the diagonal block at k and divides the rows below by it: panel = a·L⁻ᵀ, a product with the inverse.
template <class S>
bool factor_panel(matrix_view<S> a, index_t k, index_t width) {
  auto diagonal = eigen(a.block(k, k, width, width));
  eigen_matrix<S> block = diagonal;
  Eigen::LLT<Eigen::Ref<eigen_matrix<S>>> const llt(block);
  if (llt.info() != Eigen::Success) return false;
  for (index_t i = 0; i < width; ++i)
    if (!(block(i, i) > S(0)) || !std::isfinite(block(i, i))) return false;
  diagonal.template triangularView<Eigen::Lower>() = block;
  eigen_matrix<S> inverse = eigen_matrix<S>::Identity(width, width);
  block.template triangularView<Eigen::Lower>().solveInPlace(inverse);
  matrix_view<S const> const divisor(inverse.data(), width, width);
  index_t const below = k + width;
  parallel_pieces(a.rows - below, 256, [&](index_t first, index_t count) {
    matrix_view<S> const rows = a.block(below + first, k, count, width);
    matrix<S> old(count, width);
    convert<S, S>(rows, old.view());
    eigen(rows).setZero();
    add_product<false, true, S>(S(1), old.view(), divisor, rows);
  });
  return true;
}

/// False if a pivot is not positive and finite; then the contents of `a` are unspecified.
template <class S>
bool cholesky(matrix_view<S> a) {
  constexpr index_t narrow = 128, wide = 512;
  index_t const n = a.rows;
  for (index_t o = 0; o < n; o += wide) {
    index_t const end = (std::min)(o + wide, n);
    for (index_t k = o; k < end; k += narrow) {
      index_t const width = (std::min)(narrow, end - k);
      if (!factor_panel<S>(a, k, width)) return false;
      update_columns<S>(a, k + width, end, k, width);
    }
    update_columns<S>(a, end, n, o, end - o);
  }
  return true;
}

/// The same with the arithmetic of fp64 for a matrix of floats.
inline bool cholesky_fp64(matrix_view<float> a) {
  matrix<double> wide(a.rows, a.cols);
  convert<double, float>(a, wide.view());
  if (!cholesky<double>(wide.view())) return false;
  convert<float, double>(wide.view(), a);
  return true;
}

/// A square piece of a matrix, its rows one element apart from a multiple of cache lines.
inline constexpr index_t mirror_edge = 64;
template <class S>
using mirror_tile = S[std::size_t(mirror_edge)][std::size_t(mirror_edge) + 1];

/// out(p, r) = scale·gram at (order(n−1−p), order(n−1−r)) below the diagonal, `diagonal` reversed on it. By tiles with a
/// buffer of their own: whichever way a tile is read, down a column every element has a cache line to itself.
template <class S>
void gather_reversed(matrix_view<S const> gram, matrix_view<std::int32_t const> order, double scale,
                     matrix_view<S const> diagonal, matrix_view<S> out) {
  constexpr index_t edge = mirror_edge;
  index_t const n = gram.rows;
  for_each_lower_tile((n + edge - 1) / edge, [&](index_t ti, index_t tj) {
    index_t const p0 = ti * edge, np = (std::min)(edge, n - p0);
    index_t const r0 = tj * edge, nr = (std::min)(edge, n - r0);
    mirror_tile<S> tile;
    for (index_t r = 0; r < nr; ++r) {
      index_t const col = order(0, n - 1 - r0 - r);
      for (index_t p = 0; p < np; ++p) {
        index_t const row = order(0, n - 1 - p0 - p);
        tile[p][r] = row > col ? gram(row, col) : gram(col, row);
      }
    }
    for (index_t p = 0; p < np; ++p) {
      S* const to = out.row(p0 + p) + r0;
      index_t const count = ti == tj ? p : nr;
      for (index_t r = 0; r < count; ++r) to[r] = static_cast<S>(scale * static_cast<double>(tile[p][r]));
      if (ti == tj) to[p] = diagonal(0, n - 1 - p0 - p);
    }
  });
}

/// Turns L (lower) into F, the unit lower triangle with F(j, i) = L(K−1−i, K−1−j) / L(K−1−j, K−1−j), and clears what is
/// above; pivots(0, j) = L(K−1−j, K−1−j). The reflection at the anti-diagonal maps the triangle onto itself, so it is
/// in place: tile by tile, each swapped with its mirror image through buffers.
template <class S>
void propagation_from_cholesky(matrix_view<S> a, matrix_view<S> pivots) {
  constexpr index_t edge = mirror_edge;
  index_t const n = a.rows;
  for (index_t j = 0; j < n; ++j) pivots(0, j) = a(n - 1 - j, n - 1 - j);
  for_each_lower_tile((n + edge - 1) / edge, [&](index_t ti, index_t tj) {
    // Element (r, c) trades places with (n−1−c, n−1−r), and whichever is nearer the top left, r + c < n, does the work.
    index_t const r0 = ti * edge, c0 = tj * edge, nc = (std::min)(edge, n - c0);
    auto const rows = [&](index_t c) {  // of this tile, below the diagonal, as far as the anti-diagonal
      return std::pair((std::max)(r0, c + 1), (std::min)({n, r0 + edge, n - c}));
    };
    mirror_tile<S> here, mirror;
    for (index_t c = c0; c < c0 + nc; ++c) {
      S const* const from = a.row(n - 1 - c);
      auto const [begin, end] = rows(c);
      for (index_t r = begin; r < end; ++r) mirror[r - r0][c - c0] = from[n - 1 - r];
    }
    for (index_t r = r0; r < (std::min)(n, r0 + edge); ++r) {
      S* const row = a.row(r);
      for (index_t c = c0; c < (std::min)({c0 + nc, r, n - r}); ++c) {
        here[r - r0][c - c0] = row[c];
        row[c] = mirror[r - r0][c - c0] / pivots(0, r);
      }
    }
    for (index_t c = c0; c < c0 + nc; ++c) {
      S* const to = a.row(n - 1 - c);
      auto const [begin, end] = rows(c);
      for (index_t r = begin; r < (std::min)(end, n - 1 - c); ++r)
        to[n - 1 - r] = here[r - r0][c - c0] / pivots(0, n - 1 - c);
    }
  });
  parallel_pieces(n, 64, [&](index_t first, index_t count) {
    for (index_t r = first; r < first + count; ++r) {
      a(r, r) = S(1);
      std::fill(a.row(r) + r + 1, a.row(r) + n, S(0));
    }
  });
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
