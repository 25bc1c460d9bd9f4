/// Cholesky on the host, a = L·Lᵀ in the lower triangle: Eigen's own runs on one thread only, so panels and tiles here,
/// with Eigen's products inside. Right-looking on two levels: products with a short inner dimension run at three quarters
/// of the full rate, so narrow panels update only the wide panel that they are part of, and that updates the rest.
#pragma once

#include <gptq/backend/host/gram.hpp>

#include <Eigen/Cholesky>

#include <cmath>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// a(i, j) −= a(i, k)·a(j, k)ᵀ for the columns j in [first, last) and all rows i from the tile of j down, k the inner
/// columns [begin, begin + count).
template <class S>
void update_columns(matrix_view<S> a, index_t first, index_t last, index_t begin, index_t count) {
  index_t const n = a.rows;
  index_t const edge = (std::min)(index_t(256), tile_edge(n - first));
  std::vector<std::pair<index_t, index_t>> tiles;
  for (index_t j = first; j < last; j += edge)
    for (index_t i = j; i < n; i += edge) tiles.emplace_back(i, j);
  parallel_for(static_cast<index_t>(tiles.size()), [&](index_t t) {
    auto const [i, j] = tiles[static_cast<std::size_t>(t)];
    index_t const ni = (std::min)(edge, n - i);
    index_t const nj = (std::min)(edge, last - j);
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

/// Turns L (lower) into F, the unit lower triangle with F(j, i) = L(K−1−i, K−1−j) / L(K−1−j, K−1−j), and clears what is
/// above; pivots(0, j) = L(K−1−j, K−1−j). The reflection at the anti-diagonal maps the triangle onto itself, so it is
/// in place: tile by tile, each swapped with its mirror image.
template <class S>
void feedback_from_cholesky(matrix_view<S> a, matrix_view<S> pivots) {
  index_t const n = a.rows;
  for (index_t j = 0; j < n; ++j) pivots(0, j) = a(n - 1 - j, n - 1 - j);
  constexpr index_t edge = 64;
  index_t const tiles = (n + edge - 1) / edge;
  for_each_lower_tile(tiles, [&](index_t ti, index_t tj) {
    // Element (r, c) trades places with (n−1−c, n−1−r); each pair is handled from the side nearer the top left.
    for (index_t r = ti * edge; r < (std::min)(n, (ti + 1) * edge); ++r)
      for (index_t c = tj * edge; c < (std::min)(r, (tj + 1) * edge); ++c) {
        if (r + c > n - 1) break;
        S const here = a(r, c);
        a(r, c) = a(n - 1 - c, n - 1 - r) / pivots(0, r);
        if (r + c < n - 1) a(n - 1 - c, n - 1 - r) = here / pivots(0, n - 1 - c);
      }
  });
  parallel_pieces(n, 64, [&](index_t first, index_t count) {
    for (index_t r = first; r < first + count; ++r) {
      a(r, r) = S(1);
      std::fill(a.row(r) + r + 1, a.row(r) + n, S(0));
    }
  });
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
