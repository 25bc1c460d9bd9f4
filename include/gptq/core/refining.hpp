/// What a backend offers beyond quantize_backend for solves that aim at the float model's outputs and that go over the
/// codes again: general products and elementwise operations, no algorithm.
#pragma once

#include <gptq/core/quantize_backend.hpp>

#include <cstdint>

namespace gptq {
inline namespace v0 {

/// For a backend b, matrices of its scalar unless said otherwise:
///
///   b.subtract(x, y)                            y −= x; also for input types
///   b.add_cross(x, y, out)                      out += xᵀ·y; x [tokens × in], y [tokens × n] of one input type
///   b.multiply_add_transposed(alpha, a, x, y)   y += alpha·aᵀ·x
///   b.gather_rows(x, order, out)                out(j, :) = x(π(j), :)
///   b.scale_rows(weights, x)                    x(j, :) *= weights(0, j)
///   b.gather_symmetric(gram, order, scale, diagonal, divisors, out)
///                                               out(p, r) = scale·gram(π(p), π(r)) / divisors(p), the symmetric matrix
///                                               of which gram holds the lower triangle; diagonal(p) / divisors(p) where
///                                               p == r. The two rows [1 × in] are on the host
///   b.split_diagonal_blocks(a, lower)           lower is [n × b]: of every b × b block on the diagonal of a, the lower
///                                               triangle with the diagonal moves to `lower`, and zeros stay behind
///   b.add_levels(alpha, codes, zeros, scales, groups, order, y)
///                                               y(j, n) += alpha·scales(g, n)·(codes(π(j), n) − zeros(g, n)), g =
///                                               groups(0, j); without scales if that view is empty
///   b.add_products(x, y, weights, sums)         sums(0, n) += Σ_j weights(0, j)·x(j, n)·y(j, n), accumulated in double
///   b.refit_scales(gradient, curvature, round, scales)
///                                               s(0, n) moves to s + gradient / curvature, rounded to float16 if asked,
///                                               where that lowers curvature·Δ² − 2·gradient·Δ and changes s by less
///                                               than a factor of two
template <class B>
concept refining_backend = quantize_backend<B> &&
    requires(B& b, view_of<B, typename B::scalar> m, view_of<B, typename B::scalar const> c, view_of<B, float const> x,
             view_of<B, std::int32_t const> order, view_of<B, std::uint8_t const> bytes, view_of<B, double> sums,
             view_of<B, double const> values, matrix_view<typename B::scalar const> host, typename B::scalar value) {
  b.subtract(c, m);
  b.add_cross(x, x, m);
  b.multiply_add_transposed(value, c, c, m);
  b.gather_rows(c, order, m);
  b.scale_rows(c, m);
  b.gather_symmetric(c, order, double(), host, host, m);
  b.split_diagonal_blocks(m, m);
  b.add_levels(value, bytes, bytes, c, order, order, m);
  b.add_products(c, c, c, sums);
  b.refit_scales(values, values, bool(), m);
};

}  // namespace v0
}  // namespace gptq
