/// Layers made for tests: correlated activations with channels of different strength, weights of ordinary size.
#pragma once

#include "support/oracle.hpp"

#include <gptq/core/matrix.hpp>

#include <random>

namespace test {

/// xᵀ·x in double.
inline table exact_gram(gptq::matrix_view<float const> x) {
  auto const in = static_cast<std::size_t>(x.cols);
  table h = zeros(in, in);
  for (gptq::index_t t = 0; t < x.rows; ++t)
    for (std::size_t r = 0; r < in; ++r) {
      auto const a = static_cast<double>(x(t, static_cast<gptq::index_t>(r)));
      float const* const row = x.row(t);
      for (std::size_t c = 0; c <= r; ++c) h[r][c] += a * static_cast<double>(row[c]);
    }
  for (std::size_t r = 0; r < in; ++r)
    for (std::size_t c = r + 1; c < in; ++c) h[r][c] = h[c][r];
  return h;
}

inline table scaled(table h, double scale) {
  for (auto& row : h)
    for (double& v : row) v *= scale;
  return h;
}

struct layer {
  gptq::matrix<float> x;  ///< [tokens × in]
  gptq::matrix<float> w;  ///< [out × in]
  table gram;             ///< xᵀ·x in double
};

/// `dead` inputs, spread evenly, are zero in every token.
inline layer make_layer(gptq::index_t out, gptq::index_t in, gptq::index_t tokens, unsigned seed,
                        gptq::index_t dead = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  layer l{gptq::matrix<float>(tokens, in), gptq::matrix<float>(out, in), {}};
  std::vector<float> strength(static_cast<std::size_t>(in));
  for (auto& s : strength) s = std::exp(0.7f * normal(random));
  if (in > 8) strength[static_cast<std::size_t>(in / 3)] *= 12.0f;
  for (gptq::index_t t = 0; t < tokens; ++t) {
    float common = 0;
    for (gptq::index_t k = 0; k < in; ++k) {
      common = 0.8f * common + normal(random);
      l.x(t, k) = (common + 0.5f * normal(random)) * strength[static_cast<std::size_t>(k)];
    }
    for (gptq::index_t d = 0; d < dead; ++d) l.x(t, (2 * d + 1) * in / (2 * dead)) = 0;
  }
  for (gptq::index_t i = 0; i < l.w.size(); ++i) l.w.data()[i] = 0.02f * normal(random);
  l.gram = exact_gram(l.x.view());
  return l;
}

inline table as_table(gptq::matrix_view<float const> m) {
  table t = zeros(static_cast<std::size_t>(m.rows), static_cast<std::size_t>(m.cols));
  for (gptq::index_t r = 0; r < m.rows; ++r)
    for (gptq::index_t c = 0; c < m.cols; ++c)
      t[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)] = static_cast<double>(m(r, c));
  return t;
}

}  // namespace test
