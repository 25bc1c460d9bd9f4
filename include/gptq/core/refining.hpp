/// What a backend offers beyond quantize_backend for solves that aim at the float model's outputs (asymmetric
/// calibration) and that go over the codes again (scale re-estimation, coordinate-descent passes): products and
/// elementwise operations, no algorithm.
#pragma once

#include <gptq/core/quantize_backend.hpp>

#include <concepts>
#include <cstdint>

namespace gptq {
inline namespace v0 {

/// The ability to refine. A backend that has it says so with `static constexpr bool refines = true` and has, for
/// matrices of its scalar unless said otherwise:
///
///   b.make<T>, b.copy(from, to), b.add(alpha, x, y)
///                                               also for input types
///   b.add_cross(x, y, out)                      out += xᵀ·y; x [tokens × in], y [tokens × n] of one input type
///   b.gather_rows(x, order, out)                out(j, :) = x(π(j), :)
///   b.scale_rows(weights, x)                    x(j, :) *= weights(0, j)
///   b.normalize_hessian(gram, order, scale, diagonal, others, lower)
///                                               N(p, r) = scale·gram(π(p), π(r)) / diagonal(p), the symmetric matrix of
///                                               which gram holds the lower triangle, and N(p, p) = 1; `diagonal`
///                                               [1 × in] is on the host. `lower` [in × b] gets the lower triangle with
///                                               the diagonal of every b × b block on the diagonal of N and zeros beside
///                                               it, `others` [in × in] the rest of N and zeros in those places
///   b.add_dequantized(alpha, codes, zeros, scales, groups, order, y)
///                                               y(j, n) += alpha·scales(g, n)·(codes(π(j), n) − zeros(g, n)), g =
///                                               groups(0, j); without scales if that view is empty
///   b.add_products(x, y, weights, sums)         sums(0, n) += Σ_j weights(0, j)·x(j, n)·y(j, n), accumulated in double
///   b.reestimate_scales(gradient, curvature, round, scales)
///                                               s(0, n) moves to s + gradient / curvature, rounded to float16 if asked,
///                                               where that lowers curvature·Δ² − 2·gradient·Δ and changes s by less
///                                               than a factor of two
template <class B>
concept refining_backend = quantize_backend<B> && requires {
  requires B::refines;
};

/// Whether all is there that the flag promises: to be asserted beside the implementation. The solver asserts it too.
template <class B>
concept refines_as_promised =
    !refining_backend<B> ||
    requires(B & b, view_of<B, typename B::scalar> m, view_of<B, typename B::scalar const> c, view_of<B, float const> x,
             view_of<B, float> y, view_of<B, std::int32_t const> order, view_of<B, std::uint8_t const> bytes,
             view_of<B, double> sums, view_of<B, double const> values, matrix_view<typename B::scalar const> host,
             typename B::scalar value) {
  { b.template make<float>(index_t(), index_t()) } -> std::same_as<matrix_of<B, float>>;
  b.copy(x, y);
  b.add(value, x, y);
  b.add_cross(x, x, m);
  b.gather_rows(c, order, m);
  b.scale_rows(c, m);
  b.normalize_hessian(c, order, double(), host, m, m);
  b.add_dequantized(value, bytes, bytes, c, order, order, m);
  b.add_products(c, c, c, sums);
  b.reestimate_scales(values, values, bool(), m);
};

}  // namespace v0
}  // namespace gptq
