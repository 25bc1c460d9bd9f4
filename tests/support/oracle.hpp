/// The published procedure, column by column, in double, unblocked, with no cleverness: the judge of every backend.
/// Follows algorithm "GPTQ" of arXiv 2210.17323 with the public reference's treatment of groups; never shipped.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/core/spec.hpp>
#include <gptq/quant/options.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

namespace test {

using table = std::vector<std::vector<double>>;

inline table zeros(std::size_t rows, std::size_t cols) { return table(rows, std::vector<double>(cols, 0.0)); }

/// Lower Cholesky factor, a = L·Lᵀ.
inline table cholesky(table const& a) {
  std::size_t const n = a.size();
  table l = zeros(n, n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      double s = a[i][j];
      for (std::size_t k = 0; k < j; ++k) s -= l[i][k] * l[j][k];
      if (i == j && !(s > 0)) throw std::runtime_error("oracle: not positive definite");
      l[i][j] = i == j ? std::sqrt(s) : s / l[j][j];
    }
  return l;
}

/// U upper triangular with a⁻¹ = Uᵀ·U, the way the paper says it: invert, then factor the inverse.
inline table inverse_factor(table const& a) {
  std::size_t const n = a.size();
  table const l = cholesky(a);
  table x = zeros(n, n);  // L⁻¹
  for (std::size_t r = 0; r < n; ++r) {
    x[r][r] = 1.0;
    for (std::size_t k = 0; k < r; ++k)
      for (std::size_t c = 0; c <= k; ++c) x[r][c] -= l[r][k] * x[k][c];
    for (std::size_t c = 0; c <= r; ++c) x[r][c] /= l[r][r];
  }
  table inverse = zeros(n, n);
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t r = 0; r <= k; ++r)
      for (std::size_t c = 0; c <= k; ++c) inverse[r][c] += x[k][r] * x[k][c];
  table const lower = cholesky(inverse);
  table u = zeros(n, n);
  for (std::size_t r = 0; r < n; ++r)
    for (std::size_t c = r; c < n; ++c) u[r][c] = lower[c][r];
  return u;
}

struct oracle_grid {
  double scale = 1;
  double zero = 0;
  double unrounded = 1;  ///< the scale before it became a float16
};

inline oracle_grid fit_range(double low, double high, int bits, bool sym, gptq::grid_options const& o) {
  double const maxq = std::pow(2.0, bits) - 1;
  oracle_grid g;
  g.unrounded = (high - low) / maxq;
  g.scale = g.unrounded;
  if (o.round_scales)
    g.scale = (std::max)(static_cast<double>(gptq::to_float(gptq::to_float16(static_cast<float>(g.scale)))),
                         std::pow(2.0, -24));
  g.zero = sym ? (maxq + 1) / 2 : std::clamp(std::nearbyint(-low / g.scale), o.nonzero_zeros ? 1.0 : 0.0, maxq);
  return g;
}

inline double quantized(double x, oracle_grid const& g, int bits) {
  double const maxq = std::pow(2.0, bits) - 1;
  return std::clamp(std::nearbyint(x / g.scale) + g.zero, 0.0, maxq);
}

inline oracle_grid fit(std::vector<double> const& x, int bits, bool sym, gptq::grid_options const& o) {
  double low = 0, high = 0;
  for (double v : x) {
    low = (std::min)(low, v);
    high = (std::max)(high, v);
  }
  if (sym) {
    high = (std::max)(std::abs(low), high);
    if (!o.reference_range || low < 0) low = -high;
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  oracle_grid best = fit_range(low, high, bits, sym, o);
  if (!(o.mse > 0)) return best;
  double least = std::numeric_limits<double>::infinity();
  int const tries = static_cast<int>(o.mse_max_shrink * static_cast<float>(o.mse_steps));
  for (int i = 0; i < tries; ++i) {
    double const p = 1.0 - static_cast<double>(i) / o.mse_steps;
    oracle_grid const g = fit_range(p * low, p * high, bits, sym, o);
    double error = 0;
    for (double v : x)
      error += std::pow(std::abs(g.scale * (quantized(v, g, bits) - g.zero) - v), static_cast<double>(o.mse));
    if (error < least) {
      least = error;
      best = g;
    }
  }
  return best;
}

/// What the oracle found; [out][in] in stored order unless said.
struct oracle_result {
  std::vector<std::int32_t> order;
  table codes, values;                          ///< integers; dequantized
  table steps;                                  ///< w′ / scale at the moment of rounding
  std::vector<std::vector<oracle_grid>> grids;  ///< [out][group]
  std::vector<std::int32_t> g_idx;
  double damped_loss = 0;  ///< Σ ((w′ − q) / U_jj)²
};

/// H0 undamped [in][in] (already scaled), W [out][in]; `order` maps position to stored column.
inline oracle_result solve(table const& h0, table const& w_in, gptq::quant_spec const& spec,
                           gptq::quantize_options const& o, std::vector<std::int32_t> const& order) {
  std::size_t const in = h0.size();
  std::size_t const out = w_in.size();
  auto const size = spec.group_size == -1 ? in : static_cast<std::size_t>(spec.group_size);
  auto const col = [&](std::size_t j) { return static_cast<std::size_t>(order[j]); };

  // Dead inputs and damping.
  table h = h0;
  double live_sum = 0, dead = 0;
  for (std::size_t i = 0; i < in; ++i) {
    live_sum += h[i][i];
    dead += h[i][i] == 0;
  }
  double const live_mean = live_sum / (static_cast<double>(in) - dead);
  double const mean = o.reference_dead ? (live_sum + dead) / static_cast<double>(in) : live_mean;
  table w = w_in;
  for (std::size_t i = 0; i < in; ++i) {
    if (h[i][i] == 0) {
      h[i][i] = o.reference_dead ? 1.0 : live_mean;
      for (auto& row : w) row[i] = 0;
    }
    h[i][i] += o.damp_percent * mean;
  }
  table permuted = zeros(in, in);
  for (std::size_t r = 0; r < in; ++r)
    for (std::size_t c = 0; c < in; ++c) permuted[r][c] = h[col(r)][col(c)];
  table const u = inverse_factor(permuted);

  oracle_result result;
  result.order = order;
  result.codes = result.values = result.steps = zeros(out, in);
  std::size_t const groups = (in + size - 1) / size;
  result.grids.assign(out, std::vector<oracle_grid>(groups));
  result.g_idx.resize(in);
  bool const up_front = spec.static_groups || spec.group_size == -1;
  bool const scattered = spec.order == gptq::column_order::desc_act && !up_front;
  for (std::size_t j = 0; j < in; ++j)
    result.g_idx[col(j)] = static_cast<std::int32_t>((scattered ? j : col(j)) / size);

  for (std::size_t n = 0; n < out; ++n) {
    std::vector<double> row(in), snapshot;
    for (std::size_t j = 0; j < in; ++j) row[j] = w[n][col(j)];
    if (up_front)
      for (std::size_t g = 0; g < groups; ++g) {
        std::vector<double> x;
        table const& source = o.reference_dead && spec.group_size == -1 ? w_in : w;
        for (std::size_t k = g * size; k < (std::min)(in, (g + 1) * size); ++k) x.push_back(source[n][k]);
        result.grids[n][g] = fit(x, spec.bits, spec.sym, o.grid);
      }
    for (std::size_t j = 0; j < in; ++j) {
      if (j % 128 == 0) snapshot = row;  // the reference's W: up to date at block starts only
      auto const g = static_cast<std::size_t>(result.g_idx[col(j)]);
      if (!up_front && j % size == 0) {
        std::vector<double> const x(snapshot.begin() + static_cast<std::ptrdiff_t>(j),
                                    snapshot.begin() + static_cast<std::ptrdiff_t>((std::min)(in, j + size)));
        result.grids[n][g] = fit(x, spec.bits, spec.sym, o.grid);
      }
      oracle_grid const& grid = result.grids[n][g];
      double const code = quantized(row[j], grid, spec.bits);
      double const q = grid.scale * (code - grid.zero);
      result.codes[n][col(j)] = code;
      result.values[n][col(j)] = q;
      result.steps[n][col(j)] = row[j] / grid.scale;
      double const e = (row[j] - q) / u[j][j];
      result.damped_loss += e * e;
      for (std::size_t k = j + 1; k < in; ++k) row[k] -= e * u[j][k];
    }
  }
  return result;
}

/// tr(E·H·Eᵀ) for E = W − Q.
inline double output_error(table const& w, table const& q, table const& h) {
  double sum = 0;
  for (std::size_t n = 0; n < w.size(); ++n)
    for (std::size_t r = 0; r < h.size(); ++r) {
      double s = 0;
      for (std::size_t c = 0; c < h.size(); ++c) s += h[r][c] * (w[n][c] - q[n][c]);
      sum += (w[n][r] - q[n][r]) * s;
    }
  return sum;
}

}  // namespace test
