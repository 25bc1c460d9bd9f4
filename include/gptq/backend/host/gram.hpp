/// gram += xᵀ·x on the host: tiles of the lower triangle, a product of Eigen's each, handed to whichever thread is
/// free.
#pragma once

#include <gptq/backend/host/eigen.hpp>
#include <gptq/backend/host/parallel.hpp>
#include <gptq/core/flags.hpp>
#include <gptq/core/float16.hpp>

#include <algorithm>
#include <type_traits>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// Calls f(row tile, column tile) for the tiles of a lower triangle of `tiles` × `tiles`.
template <class F>
void for_each_lower_tile(index_t tiles, F&& f) {
  parallel_for(tiles * (tiles + 1) / 2, [&](index_t t) {
    index_t i = 0;
    while ((i + 1) * (i + 2) / 2 <= t) ++i;
    f(i, t - i * (i + 1) / 2);
  });
}

/// A tile edge: large enough for a product at full rate, small enough to keep the threads evenly busy.
inline index_t tile_edge(index_t n) { return n >= 3072 ? 512 : n >= 768 ? 256 : 128; }

/// gram += xᵀ·x, or if `fresh` = xᵀ·x; x [tokens × in] of the scalar's own type. Rows are taken 2048 at a time, so that partial sums stay short.
template <class S>
void add_gram_native(matrix_view<S const> x, matrix_view<S> gram, bool fresh) {
  constexpr index_t tokens_at_once = 2048;
  index_t const in = x.cols;
  index_t const edge = tile_edge(in);
  for_each_lower_tile((in + edge - 1) / edge, [&](index_t ti, index_t tj) {
    index_t const i = ti * edge, ni = (std::min)(edge, in - i);
    index_t const j = tj * edge, nj = (std::min)(edge, in - j);
    auto const target = gram.block(i, j, ni, nj);
    if (fresh) eigen(target).setZero();
    for (index_t t = 0; t < x.rows; t += tokens_at_once) {
      index_t const nt = (std::min)(tokens_at_once, x.rows - t);
      add_product<true, false, S>(S(1), x.block(t, i, nt, ni), x.block(t, j, nt, nj), target);
    }
  });
}

/// Converts elements of any input type, row by row.
template <class S, class T>
void convert(matrix_view<T const> from, matrix_view<S> to) {
  parallel_pieces(from.rows, 64, [&](index_t first, index_t count) {
    for (index_t r = first; r < first + count; ++r) {
      T const* const in = from.row(r);
      S* const out = to.row(r);
      for (index_t c = 0; c < from.cols; ++c) {
        if constexpr (std::is_floating_point_v<T>)
          out[c] = static_cast<S>(in[c]);
        else
          out[c] = static_cast<S>(to_float(in[c]));
      }
    }
  });
}

template <class S, class T>
void add_gram(matrix_view<T const> x, matrix_view<S> gram, bool fresh) {
  if constexpr (std::is_same_v<S, T>) {
    add_gram_native<S>(x, gram, fresh);
  } else {
    constexpr index_t tokens_at_once = 4096;
    matrix<S> wide((std::min)(x.rows, tokens_at_once), x.cols);
    for (index_t t = 0; t < x.rows; t += tokens_at_once) {
      index_t const n = (std::min)(tokens_at_once, x.rows - t);
      auto const part = wide.view().row_range(0, n);
      convert<S, T>(x.row_range(t, n), part);
      add_gram_native<S>(part, gram, fresh && t == 0);
    }
  }
}

/// f(packed row, first column there, row of the triangle): where the rows of a lower triangle of `n` lie when row p of
/// the packed form [(n + 1) / 2 × (n + 1)] holds row n − 1 − p and behind it row p. The middle row of an odd n is by
/// itself.
template <class F>
void for_each_packed_row(index_t n, F&& f) {
  parallel_pieces((n + 1) / 2, 32, [&](index_t first, index_t count) {
    for (index_t p = first; p < first + count; ++p) {
      f(p, index_t(0), n - 1 - p);
      if (p != n - 1 - p) f(p, n - p, p);
    }
  });
}

template <class S>
void pack_lower(matrix_view<S const> gram, matrix_view<S> packed) {
  index_t const n = gram.rows;
  if (n % 2) std::fill_n(packed.row(n / 2) + n / 2 + 1, n / 2 + 1, S(0));
  for_each_packed_row(n,
                      [&](index_t p, index_t at, index_t r) { std::copy_n(gram.row(r), r + 1, packed.row(p) + at); });
}

template <class S>
void add_packed(matrix_view<S const> packed, matrix_view<S> gram) {
  for_each_packed_row(gram.rows, [&](index_t p, index_t at, index_t r) {
    S const* const from = packed.row(p) + at;
    S* const to = gram.row(r);
    for (index_t c = 0; c <= r; ++c) to[c] += from[c];
  });
}

/// Whether all elements are finite: the largest exponent field, taken as an integer so that the loop vectorises.
template <class T>
bool all_finite(matrix_view<T const> x) {
  using bits_type = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                       std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;
  constexpr bits_type exponent = std::is_same_v<T, float16>    ? bits_type(0x7c00)
                                 : std::is_same_v<T, bfloat16> ? bits_type(0x7f80)
                                 : std::is_same_v<T, float>    ? static_cast<bits_type>(0x7f800000u)
                                                               : static_cast<bits_type>(0x7ff0000000000000ull);
  std::atomic<bool> finite{true};
  parallel_pieces(x.rows, 256, [&](index_t first, index_t count) {
    bits_type largest = 0;
    for (index_t r = first; r < first + count; ++r) {
      T const* const row = x.row(r);
      for (index_t c = 0; c < x.cols; ++c) {
        auto const e = static_cast<bits_type>(bit_pun<bits_type>(row[c]) & exponent);
        largest = e > largest ? e : largest;
      }
    }
    if (largest == exponent) finite = false;
  });
  return finite;
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
