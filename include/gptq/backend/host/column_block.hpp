/// One block of columns on the host: the serial heart of GPTQ, vectorised across outputs.
#pragma once

#include <gptq/backend/host/parallel.hpp>
#include <gptq/backend/host/strip.hpp>
#include <gptq/core/flags.hpp>
#include <gptq/core/quantize_backend.hpp>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// Quantizes one strip of a block; `strip` is scratch for b.weights.rows rows.
template <int Bits, class Backend>
void quantize_strip(column_block<Backend> const& b, index_t first, index_t count, typename Backend::scalar* strip) {
  using S = typename Backend::scalar;
  constexpr index_t width = strip_width<S>;
  index_t const rows = b.weights.rows;
  bool const propagate = b.propagation.data != nullptr;
  load_strip<S, S>(b.weights, first, count, strip);

  alignas(64) strip_row<S> updated, scale, zero, damped, damping;
  strip_row<double, S> damped_sum = {}, damping_sum = {};
  std::fill_n(damped, width, S(0));
  std::fill_n(damping, width, S(0));
  index_t group = -1;
  for (index_t j = 0; j < rows; ++j) {
    S* const weight = strip + j * width;
    if (index_t const g = b.groups(0, j); g != group) {
      group = g;
      load_strip<S, S>(b.scales.row_range(g, 1), first, count, scale, S(1));
      load_strip<S, std::uint8_t>(b.zeros.row_range(g, 1), first, count, zero);
    }
    load_strip<S, S>(b.correction.row_range(j, 1), first, count, updated);
    for (index_t l = 0; l < width; ++l) updated[l] += weight[l];
    if (propagate) combine_rows<1>(updated, b.propagation.row(j), strip, j, updated);

    S const pivot = propagate ? b.pivots(0, j) : S(1);
    S const excess = propagate ? b.excess(0, j) : S(0);
    strip_row<S> codes;
    for (index_t l = 0; l < width; ++l) {
      S const steps = quantize_value<Bits>(updated[l], grid<S>{scale[l], zero[l]});
      S const value = scale[l] * steps;
      S const error = weight[l] - value;
      S const scaled = (updated[l] - value) * pivot;
      damped[l] += scaled * scaled;
      damping[l] += excess * error * (excess * error);
      codes[l] = steps == steps ? steps + zero[l] : S(0);  // NaN shows in the loss; it has no code
      weight[l] = error;
    }
    std::uint8_t* const out = b.codes.row(b.order(0, j)) + first;
    for (index_t l = 0; l < count; ++l) out[l] = static_cast<std::uint8_t>(codes[l]);
    if (j % 32 == 31 || j + 1 == rows) {  // short sums in S, long ones in double
      for (index_t l = 0; l < width; ++l) {
        damped_sum[l] += static_cast<double>(damped[l]);
        damping_sum[l] += static_cast<double>(damping[l]);
        damped[l] = damping[l] = S(0);
      }
    }
  }
  store_strip<S>(strip, b.weights, first, count);
  for (index_t l = 0; l < count; ++l) {
    b.losses(0, first + l) += damped_sum[l];
    b.losses(1, first + l) += damping_sum[l];
  }
}

/// x ← F⁻¹·x, F unit lower triangular: forward substitution down each strip.
template <class S>
void solve_unit_lower_strips(matrix_view<S const> f, matrix_view<S> x) {
  constexpr index_t width = strip_width<S>;
  parallel_pieces(x.cols, width, [&](index_t first, index_t count) {
    matrix<S> strip(x.rows, width);
    load_strip<S, S>(x, first, count, strip.data());
    for (index_t j = 1; j < x.rows; ++j) combine_rows<-1>(strip.row(j), f.row(j), strip.data(), j, strip.row(j));
    store_strip<S>(strip.data(), x, first, count);
  });
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
