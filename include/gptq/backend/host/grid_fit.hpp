/// Fits the grids of one group for all outputs: minimum and maximum, or the range with the least Σ|q − x|^norm.
#pragma once

#include <gptq/backend/host/parallel.hpp>
#include <gptq/backend/host/strip.hpp>
#include <gptq/core/flags.hpp>
#include <gptq/core/grid.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// x^exponent for x ≥ 0 with a relative error under 2e-5, as 2^(exponent·log2 x) with two short polynomials: candidates
/// are compared by sums of it, and the exact power costs more than the whole solve. Zero gives 2^-126.
inline float fast_power(float x, float exponent) {
  auto const bits = bit_pun<std::int32_t>(x);
  std::int32_t const e = (bits - 0x3f3504f3) >> 23;  // of the power of two nearest to x by ratio
  float const t = bit_pun<float>(bits - (e << 23)) - 1.0f;
  float log2 = -0.21153578f;
  log2 = log2 * t + 0.31982785f;
  log2 = log2 * t - 0.36585504f;
  log2 = log2 * t + 0.47967112f;
  log2 = log2 * t - 0.72122353f;
  log2 = log2 * t + 1.4427030f;
  float y = exponent * (log2 * t + static_cast<float>(e));
  y = y < -126.0f ? -126.0f : y;
  y = y > 127.0f ? 127.0f : y;
  float const shifted = y + 12582912.0f;  // the integer part lands in the low bits
  float const f = y - (shifted - 12582912.0f);
  float power = 0.0095701013f;
  power = power * f + 0.055917859f;
  power = power * f + 0.24024744f;
  power = power * f + 0.69312179f;
  power = power * f + 0.99999928f;
  return bit_pun<float>(bit_pun<std::int32_t>(power) + (bit_pun<std::int32_t>(shifted) << 23));
}

inline float error_power(float x, float exponent) { return fast_power(x, exponent); }
inline double error_power(double x, float exponent) { return std::pow(x, static_cast<double>(exponent)); }

/// The grids of one strip of `rows` rows: strip[r][l] → scale[l], zero[l].
template <int Bits, bool Sym, class S>
void fit_strip(S const* strip, index_t rows, grid_options const& options, S* scale, S* zero) {
  constexpr index_t width = strip_width<S>;
  alignas(64) strip_row<S> low, high;
  std::fill_n(low, width, S(0));
  std::fill_n(high, width, S(0));
  for (index_t r = 0; r < rows; ++r)
    for (index_t l = 0; l < width; ++l) {
      S const x = strip[r * width + l];
      low[l] = x < low[l] ? x : low[l];
      high[l] = x > high[l] ? x : high[l];
    }
  for (index_t l = 0; l < width; ++l) {
    complete_range<Sym>(low[l], high[l], options);
    auto const g = range_grid<Bits, Sym>(low[l], high[l], options);
    scale[l] = g.scale;
    zero[l] = g.zero;
  }
  if (!(options.mse > 0)) return;

  alignas(64) strip_row<S> best, candidate_scale, candidate_zero, inverse, error;
  std::fill_n(best, width, std::numeric_limits<S>::infinity());
  auto const candidates = static_cast<int>(options.mse_max_shrink * static_cast<float>(options.mse_steps));
  for (int i = 0; i < candidates; ++i) {
    S const p = S(1) - static_cast<S>(i) / static_cast<S>(options.mse_steps);
    for (index_t l = 0; l < width; ++l) {
      auto const g = range_grid<Bits, Sym>(p * low[l], p * high[l], options);
      candidate_scale[l] = g.scale;
      candidate_zero[l] = g.zero;
      inverse[l] = S(1) / g.scale;  // a tie that this breaks the other way has the same error
      error[l] = S(0);
    }
    for (index_t r = 0; r < rows; ++r) {
      S const* const x = strip + r * width;
      for (index_t l = 0; l < width; ++l) {
        S const lowest = -candidate_zero[l];
        S const highest = S(max_code<Bits>) - candidate_zero[l];
        S steps = x[l] * inverse[l];
        steps = steps < lowest ? lowest : steps;
        steps = steps > highest ? highest : steps;
        S const difference = round_even(steps) * candidate_scale[l] - x[l];
        error[l] += error_power(difference < S(0) ? -difference : difference, options.mse);
      }
      if (r % 16 == 15) {  // no output can still win with this candidate
        bool hopeful = false;
        for (index_t l = 0; l < width; ++l) hopeful |= error[l] < best[l];
        if (!hopeful) break;
      }
    }
    for (index_t l = 0; l < width; ++l) {
      bool const better = error[l] < best[l];
      best[l] = better ? error[l] : best[l];
      scale[l] = better ? candidate_scale[l] : scale[l];
      zero[l] = better ? candidate_zero[l] : zero[l];
    }
  }
}

template <int Bits, bool Sym, class S>
void fit_grid(matrix_view<S const> values, grid_options const& options, matrix_view<S> scales,
              matrix_view<std::uint8_t> zeros) {
  constexpr index_t width = strip_width<S>;
  parallel_pieces(values.cols, width, [&](index_t first, index_t count) {
    matrix<S> strip(values.rows, width);
    alignas(64) strip_row<S> scale, zero;
    load_strip<S, S>(values, first, count, strip.data());
    fit_strip<Bits, Sym>(strip.data(), values.rows, options, scale, zero);
    for (index_t l = 0; l < count; ++l) {
      scales(0, first + l) = scale[l];
      zeros(0, first + l) = static_cast<std::uint8_t>(zero[l]);
    }
  });
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
