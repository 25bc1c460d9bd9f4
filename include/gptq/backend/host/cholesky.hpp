/// Cholesky on the host, a = L·Lᵀ in the lower triangle: Eigen's own runs on one thread only, so panels and tiles here,
/// with Eigen's products inside. (Right-looking: factor a diagonal block, invert it, panel = a·L⁻ᵀ, update the rest.)
#pragma once

#include <gptq/backend/host/gram.hpp>

#include <Eigen/Cholesky>

#include <cmath>

namespace gptq {
inline namespace v0 {
namespace detail {

/// False if a pivot is not positive and finite; then the contents of `a` are unspecified.
template <class S>
bool cholesky(matrix_view<S> a) {
  constexpr index_t panel = 128;
  index_t const n = a.rows;
  matrix<S> inverse_storage((std::min)(panel, n), (std::min)(panel, n));
  for (index_t k = 0; k < n; k += panel) {
    index_t const nk = (std::min)(panel, n - k);
    auto diagonal = eigen(a.block(k, k, nk, nk));
    eigen_matrix<S> block = diagonal;
    Eigen::LLT<Eigen::Ref<eigen_matrix<S>>> const llt(block);
    if (llt.info() != Eigen::Success) return false;
    for (index_t i = 0; i < nk; ++i)
      if (!(block(i, i) > S(0)) || !std::isfinite(block(i, i))) return false;
    diagonal.template triangularView<Eigen::Lower>() = block;
    index_t const below = k + nk;
    if (below == n) break;

    auto inverse = eigen(inverse_storage.view().block(0, 0, nk, nk));
    inverse.setIdentity();
    block.template triangularView<Eigen::Lower>().solveInPlace(inverse);
    parallel_pieces(n - below, 256, [&](index_t first, index_t count) {
      auto rows = eigen(a.block(below + first, k, count, nk));
      eigen_matrix<S> const old = rows;
      rows.noalias() = old * inverse.transpose();
    });
    index_t const rest = n - below;
    index_t const edge = (std::min)(index_t(256), tile_edge(rest));
    for_each_lower_tile((rest + edge - 1) / edge, [&](index_t ti, index_t tj) {
      index_t const i = below + ti * edge, ni = (std::min)(edge, n - i);
      index_t const j = below + tj * edge, nj = (std::min)(edge, n - j);
      eigen(a.block(i, j, ni, nj)).noalias() -= eigen(a.block(i, k, ni, nk)) * eigen(a.block(j, k, nj, nk)).transpose();
    });
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
