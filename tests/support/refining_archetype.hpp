/// The archetype with the verbs of refining_backend, in plain loops.
#pragma once

#include "support/archetype.hpp"

#include <gptq/core/refining.hpp>

#include <cstdint>

namespace test {

struct refining_archetype : archetype {
  static constexpr bool refines = true;

  using archetype::add;
  using archetype::copy;
  void copy(view<float const> from, view<float> to) {
    each(to, [&](index_t r, index_t c) { to(r, c) = from(r, c); });
  }
  void add(double alpha, view<float const> x, view<float> y) {
    each(y, [&](index_t r, index_t c) { y(r, c) += static_cast<float>(alpha) * x(r, c); });
  }
  void add_cross(view<float const> x, view<float const> y, view<double> out) {
    each(out, [&](index_t i, index_t j) {
      for (index_t t = 0; t < x.rows; ++t) out(i, j) += static_cast<double>(x(t, i)) * static_cast<double>(y(t, j));
    });
  }
  void gather_rows(view<double const> x, view<std::int32_t const> order, view<double> out) {
    each(out, [&](index_t j, index_t n) { out(j, n) = x(order(0, j), n); });
  }
  void scale_rows(view<double const> weights, view<double> x) {
    each(x, [&](index_t j, index_t n) { x(j, n) *= weights(0, j); });
  }
  void normalize_hessian(view<double const> gram, view<std::int32_t const> order, double scale,
                         view<double const> diagonal, view<double> others, view<double> lower) {
    each(lower, [&](index_t p, index_t c) { lower(p, c) = 0; });
    each(others, [&](index_t p, index_t r) {
      index_t const a = order(0, p), b = order(0, r), block = p - p % lower.cols;
      double const n = p == r ? 1.0 : scale * (a > b ? gram(a, b) : gram(b, a)) / diagonal(0, p);
      bool const moves = r >= block && r <= p;
      others(p, r) = moves ? 0.0 : n;
      if (moves) lower(p, r - block) = n;
    });
  }
  void add_dequantized(double alpha, view<std::uint8_t const> codes, view<std::uint8_t const> zeros,
                       view<double const> scales, view<std::int32_t const> groups, view<std::int32_t const> order,
                       view<double> y) {
    each(y, [&](index_t j, index_t n) {
      index_t const g = groups(0, j);
      y(j, n) += alpha * (scales.data ? scales(g, n) : 1.0) * (int(codes(order(0, j), n)) - int(zeros(g, n)));
    });
  }
  void add_products(view<double const> x, view<double const> y, view<double const> weights, view<double> sums) {
    each(x, [&](index_t j, index_t n) { sums(0, n) += weights(0, j) * x(j, n) * y(j, n); });
  }
  void reestimate_scales(view<double const> gradient, view<double const> curvature, bool round, view<double> scales) {
    each(scales, [&](index_t, index_t n) {
      scales(0, n) = gptq::reestimated_scale(scales(0, n), gradient(0, n), curvature(0, n), round);
    });
  }
};
static_assert(gptq::refining_backend<refining_archetype> && gptq::refines_as_promised<refining_archetype>);

}  // namespace test
