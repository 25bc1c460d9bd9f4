/// The arithmetic of one quantization grid: which scale and zero point a range of values gets, and which code a value.
/// Shared by every backend and usable alone. Conventions of the public reference (`quant.py`, IST-DASLab/gptq):
/// code = clamp(round(x / scale) + zero, 0, 2^bits − 1), value = scale · (code − zero), ties round to even.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/core/macros.hpp>
#include <gptq/core/spec.hpp>

#if defined(__FAST_MATH__)
#error "gptq: quantization needs IEEE arithmetic; compile without -ffast-math (packing and dequantizing do not mind)"
#endif

namespace gptq {
inline namespace v0 {

/// How grids are found.
struct grid_options {
  float mse = 2.4f;              ///< exponent of the error that the range search minimises; 0 takes minimum and maximum
  int mse_steps = 100;           ///< the search tries ranges shrunk by i / mse_steps …
  float mse_max_shrink = 0.8f;   ///< … for i / mse_steps below this
  bool round_scales = true;      ///< scales are float16 values from the start, as files store them
  bool nonzero_zeros = false;    ///< asym: zero points are at least 1, which version-1 files need
  bool reference_range = false;  ///< sym: keep the reference's half range for groups without negative values
};

/// Largest code of a width.
template <int Bits>
inline constexpr int max_code = (1 << Bits) - 1;

/// The smallest positive float16, to which smaller scales are lifted.
inline constexpr float smallest_float16 = 5.9604644775390625e-08f;

/// Rounds to the nearest integer, ties to even, for |x| ≤ 2^21; a sum that vectorises, unlike nearbyint.
GPTQ_HD inline float round_even(float x) {
  constexpr float shift = 12582912.0f;  // 1.5 · 2^23
  return (x + shift) - shift;
}
GPTQ_HD inline double round_even(double x) {
  constexpr double shift = 6755399441055744.0;  // 1.5 · 2^52
  return (x + shift) - shift;
}

template <class Real>
struct grid {
  Real scale;
  Real zero;
};

/// Extends [lowest, highest] to hold zero and, if Sym, to be symmetric. Empty ranges become [−1, 1].
template <bool Sym, class Real>
GPTQ_HD inline void complete_range(Real& lowest, Real& highest, grid_options const& options) {
  lowest = lowest < Real(0) ? lowest : Real(0);
  highest = highest > Real(0) ? highest : Real(0);
  if (Sym) {
    highest = -lowest > highest ? -lowest : highest;
    if (!options.reference_range || lowest < Real(0)) lowest = -highest;
  }
  if (lowest == Real(0) && highest == Real(0)) {
    lowest = Real(-1);
    highest = Real(1);
  }
}

/// The grid of a completed range. The scale is rounded to float16 first (if asked), so that the zero point and every
/// code are derived from the very number that is stored; scales too small for float16 become its smallest value.
template <int Bits, bool Sym, class Real>
GPTQ_HD inline grid<Real> range_grid(Real lowest, Real highest, grid_options const& options) {
  Real scale = (highest - lowest) / Real(max_code<Bits>);
  if (options.round_scales) {
    scale = Real(to_float(to_float16(float(scale))));
    scale = scale < Real(smallest_float16) ? Real(smallest_float16) : scale;
  }
  Real zero = Real(sym_zero(Bits));
  if (!Sym) {
    Real const least = options.nonzero_zeros ? Real(1) : Real(0);
    zero = round_even(-lowest / scale);
    zero = zero < least ? least : zero;
    zero = zero > Real(max_code<Bits>) ? Real(max_code<Bits>) : zero;
  }
  return {scale, zero};
}

/// code − zero of a value, in [−zero, 2^bits − 1 − zero]. Clamping before rounding gives the same integer as after,
/// because both bounds are integers, and keeps round_even in its range. NaN stays NaN.
template <int Bits, class Real>
GPTQ_HD inline Real quantize_value(Real x, grid<Real> g) {
  Real const lowest = -g.zero;
  Real const highest = Real(max_code<Bits>) - g.zero;
  Real steps = x / g.scale;
  steps = steps < lowest ? lowest : steps;
  steps = steps > highest ? highest : steps;
  return round_even(steps);
}

/// The scale nearest to the minimum of curvature·Δ² − 2·gradient·Δ over Δ = new − old that is a scale (a float16 if
/// `round`), or the old one where that does not lower it. Changes by a factor of two are refused: the codes were not
/// made for them.
template <class Real>
GPTQ_HD inline Real reestimated_scale(Real scale, double gradient, double curvature, bool round) {
  if (!(curvature > 0.0)) return scale;
  double const best = static_cast<double>(scale) + gradient / curvature;
  if (!(best > 0.5 * static_cast<double>(scale) && best < 2.0 * static_cast<double>(scale))) return scale;
  Real const next = round ? Real(to_float(to_float16(float(best)))) : Real(best);
  if (!(next >= Real(smallest_float16))) return scale;
  double const change = static_cast<double>(next) - static_cast<double>(scale);
  return curvature * change * change - 2.0 * gradient * change < 0.0 ? next : scale;
}

}  // namespace v0
}  // namespace gptq
