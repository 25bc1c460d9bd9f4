/// The narrow waist: what the GPTQ algorithm asks of a backend. Each verb is a whole-matrix operation, coarse enough to
/// be one kernel or one BLAS call; the algorithm in quant/ is written once against this list and leans on nothing else.
///
/// Conventions. `scalar` is the type of the arithmetic (float; double in tests). Solver matrices are transposed and in
/// processing order: row j holds, for all outputs, the input column that is quantized as number j. Views carry the
/// backend's memory space. Verbs may be asynchronous; those that return a value have waited for it. docs/backends.md has
/// the verbs in a table, and how to write a backend.
#pragma once

#include <gptq/core/grid.hpp>
#include <gptq/core/matrix.hpp>

#include <concepts>
#include <cstdint>

namespace gptq {
inline namespace v0 {

/// Arithmetic of a factorization: the backend's own scalar, or fp64 as the first thing to try when that fails.
enum class precision : unsigned char { native, fp64 };

/// Whether the left factor of a product counts as it lies or transposed.
enum class transpose : bool { no, yes };

template <class B, class T>
using view_of = matrix_view<T, typename B::space>;
template <class B, class T>
using matrix_of = typename B::template matrix_type<T>;

/// How to quantize one block of consecutive columns; every view but `weights`, `codes` and `losses` is read only.
template <class B>
struct column_block {
  using scalar = typename B::scalar;
  view_of<B, scalar const> propagation;   ///< [b × b] unit lower triangle F of the block; empty: round to nearest
  view_of<B, scalar const> correction;    ///< [b × out] the errors of earlier blocks, carried over to these columns
  view_of<B, scalar const> pivots;        ///< [1 × b] V_jj: the loss of column j counts with its square
  view_of<B, scalar const> excess;        ///< [1 × b] root of what damping added to the diagonal of H
  view_of<B, std::int32_t const> groups;  ///< [1 × b] row of scales and zeros that serves each column
  view_of<B, std::int32_t const> order;   ///< [1 × b] row of `codes` (stored input) that each column goes to
  view_of<B, scalar const> scales;        ///< [groups × out]
  view_of<B, std::uint8_t const> zeros;   ///< [groups × out]
  view_of<B, scalar> weights;             ///< [b × out] in: original weights; out: errors E = W − Q
  view_of<B, std::uint8_t> codes;         ///< [in × out], rows in stored order
  view_of<B, double> losses;              ///< [2 × out] accumulates Σ ((w′−q)·V_jj)² and Σ (excess_j·E_j)²
};

/// The requirements. For a backend b, matrices a, f, x, y of its scalar and `int` index vectors in its memory:
///
///   b.make<T>(rows, cols)                 an uninitialised matrix, owned by the caller
///   b.upload(host, view), b.download(view, host)
///                                         elements as they are; a view may be a diagonal, [n × 1] with the stride of the
///                                         matrix plus one
///   b.fill(view, value) · b.copy(from, to) · b.add(alpha, x, y)       y += alpha·x
///   b.all_finite(x)                       no NaN or Inf in x, of any input type
///   b.add_gram(x, gram, fresh)            lower triangle of gram += xᵀ·x, or if `fresh` = xᵀ·x, whatever it held; x is
///                                         [tokens × in], any input type
///   b.pack_lower(gram, packed)            packed [(in + 1) / 2 × (in + 1)] holds the lower triangle of gram, in an order
///                                         of the backend's choice; an element that is left over becomes 0
///   b.add_packed(packed, gram)            lower triangle of gram += what was packed
///   b.factorize_hessian(gram, order, scale, diagonal, precision, f, pivots)
///                                         H(p, r) = scale·gram(π(p), π(r)), the symmetric matrix of which gram holds the
///                                         lower triangle, with diagonal(0, p), a row on the host, where p == r. H = V·Vᵀ,
///                                         V upper triangular: pivots(0, j) = V_jj, and f becomes the error-propagation
///                                         matrix F = (V·diag(V)⁻¹)ᵀ, unit lower triangular with zeros above. False if a
///                                         pivot is not positive and finite; then f and pivots are unspecified
///   b.gather_weights(w, order, live, out) out(j, n) = live[π(j)] ? w(n, π(j)) : 0;  w is [out × in], any input type
///   b.fit_grid<Bits, Sym>(values, options, scales, zeros)
///                                         one group for all outputs: values [g × out] → [1 × out] each
///   b.quantize_block<Bits>(column_block)  columns in order: w′_j = w_j + correction_j + Σ_{i<j} F_ji·E_i, quantize,
///                                         E_j = w_j − q_j; of `propagation` only what is below the diagonal is read
///   b.multiply_add(alpha, a, t, x, y)     y += alpha·a·x, or y += alpha·aᵀ·x for transpose::yes
///   b.solve_unit_lower(f, x)              x ← F⁻¹·x
///   b.add_squares(f, x, weights, sums)    sums(0, n) += Σ_j (weights(0, j)·(F·x)(j, n))², accumulated in double; an empty
///                                         f is the identity, else F [in × in] is lower triangular
///   b.for_each_tile(outputs, f)           f(first, count) over a partition of the outputs, perhaps at once: rows of W
///                                         are independent
///
/// and the constant B::outer_block: columns between two large products, rounded up to whole blocks.
template <class B>
concept quantize_backend =
    (std::same_as<typename B::scalar, float> || std::same_as<typename B::scalar, double>)&&requires(
        B& b, view_of<B, typename B::scalar> m, view_of<B, typename B::scalar const> c, view_of<B, float const> x,
        view_of<B, std::int32_t const> order, view_of<B, std::uint8_t const> live, view_of<B, std::uint8_t> zeros,
        view_of<B, double> sums, matrix_view<typename B::scalar> host, matrix_view<typename B::scalar const> host_c,
        typename B::scalar value, grid_options const& options, column_block<B> const& block, precision p, index_t n,
        void (*tile)(index_t, index_t)) {
  { b.template make<typename B::scalar>(n, n) } -> std::same_as<matrix_of<B, typename B::scalar>>;
  { b.template make<std::uint8_t>(n, n) } -> std::same_as<matrix_of<B, std::uint8_t>>;
  { b.template make<std::int32_t>(n, n) } -> std::same_as<matrix_of<B, std::int32_t>>;
  { b.template make<double>(n, n) } -> std::same_as<matrix_of<B, double>>;
  b.upload(host_c, m);
  b.download(c, host);
  b.fill(m, value);
  b.fill(sums, double());
  b.copy(c, m);
  b.add(value, c, m);
  { b.all_finite(x) } -> std::same_as<bool>;
  b.add_gram(x, m, bool());
  b.pack_lower(c, m);
  b.add_packed(c, m);
  { b.factorize_hessian(c, order, double(), host_c, p, m, m) } -> std::same_as<bool>;
  b.gather_weights(x, order, live, m);
  b.template fit_grid<4, true>(c, options, m, zeros);
  b.template quantize_block<4>(block);
  b.multiply_add(value, c, transpose::no, c, m);
  b.solve_unit_lower(c, m);
  b.add_squares(c, c, c, sums);
  b.for_each_tile(n, tile);
  { B::outer_block } -> std::convertible_to<index_t>;
};

/// An ability beyond that: finding the grids of a block and quantizing it as one step. A backend that has it says so
/// with a constant B::fused_columns above zero,
///
///   b.fit_and_quantize_block<Bits, Sym>(block, group_size, options, scales, zeros)
///
/// serves blocks of at most so many columns. With x = w + F⁻¹·correction, the columns before any of them is quantized:
/// fit_grid of every group of group_size rows of x into the rows of scales and zeros (those of the block, but mutable)
/// that `groups` names, then quantize_block. Without propagation F is the identity. A backend derived from one that
/// fuses, with a fit_grid of its own, sets fused_columns to 0.
template <class B>
concept fusing_backend = quantize_backend<B> && requires {
  requires B::fused_columns >
  0;
};

/// Whether all is there that an ability promises: to be asserted beside the implementation. The solver asserts it too.
template <class B>
concept fuses_as_promised =
    !fusing_backend<B> || requires(B & b, column_block<B> const& block, index_t group_size, grid_options const& options,
                                   view_of<B, typename B::scalar> scales, view_of<B, std::uint8_t> zeros) {
  b.template fit_and_quantize_block<4, true>(block, group_size, options, scales, zeros);
};

}  // namespace v0
}  // namespace gptq
