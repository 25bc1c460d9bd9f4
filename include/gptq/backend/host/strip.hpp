/// The inner loops of the host backend work on strips: a few outputs wide, contiguous and padded, so that one strip of
/// all rows of a block stays in cache and the sum over earlier columns runs in registers.
#pragma once

#include <gptq/core/flags.hpp>
#include <gptq/core/matrix.hpp>

#include <algorithm>
#include <cstddef>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// A 64-byte vector of S; compilers split it where registers are narrower.
template <class S>
struct lanes_of;
template <>
struct lanes_of<float> {
  typedef float type __attribute__((vector_size(64), may_alias));
};
template <>
struct lanes_of<double> {
  typedef double type __attribute__((vector_size(64), may_alias));
};

/// Outputs per strip: four vectors, 64 floats or 32 doubles.
template <class S>
inline constexpr index_t strip_width = 4 * 64 / static_cast<index_t>(sizeof(S));

/// One row of a strip of S, in elements of T.
template <class T, class S = T>
using strip_row = T[static_cast<std::size_t>(strip_width<S>)];

/// Copies columns [first, first + count) of x into rows of strip_width; what is past count becomes `padding`.
template <class S, class T>
void load_strip(matrix_view<T const> x, index_t first, index_t count, S* strip, S padding = S(0)) {
  for (index_t r = 0; r < x.rows; ++r, strip += strip_width<S>) {
    T const* const row = x.row(r) + first;
    for (index_t c = 0; c < count; ++c) strip[c] = static_cast<S>(row[c]);
    std::fill(strip + count, strip + strip_width<S>, padding);
  }
}

template <class S>
void store_strip(S const* strip, matrix_view<S> x, index_t first, index_t count) {
  for (index_t r = 0; r < x.rows; ++r, strip += strip_width<S>) std::copy_n(strip, count, x.row(r) + first);
}

/// out[l] = start[l] ± Σ_{i<n} weights[i]·rows[i][l]
template <int Sign, class S>
void combine_rows(S const* start, S const* weights, S const* rows, index_t n, S* out) {
  using lanes = typename lanes_of<S>::type;
  auto const* const in = reinterpret_cast<lanes const*>(start);
  auto const* row = reinterpret_cast<lanes const*>(rows);
  lanes s0 = in[0], s1 = in[1], s2 = in[2], s3 = in[3];
  for (index_t i = 0; i < n; ++i, row += 4) {
    S const w = Sign < 0 ? -weights[i] : weights[i];
    s0 += w * row[0];
    s1 += w * row[1];
    s2 += w * row[2];
    s3 += w * row[3];
  }
  auto* const to = reinterpret_cast<lanes*>(out);
  to[0] = s0;
  to[1] = s1;
  to[2] = s2;
  to[3] = s3;
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
