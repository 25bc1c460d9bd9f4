/// Weights from codes: weight(n, k) = scale(g, n) · (code(k, n) − zero(g, n)), g the group of input k; exact in float
/// for float16 scales.
#pragma once

#include <gptq/core/quantized_linear.hpp>
#include <gptq/pack/pack.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

/// Codes come as [in × out], weights go as [out × in]: tiles of both fit the first-level cache.
inline constexpr index_t dequantize_tile = 64;

/// to[c · to_stride + r] = from[r · tile + c] for r < rows and c < cols, rows of `from` being dequantize_tile long.
inline void transpose_tile(float const* from, float* to, index_t to_stride, index_t rows, index_t cols) {
  constexpr index_t tile = dequantize_tile;
  using four = float __attribute__((vector_size(16)));
  auto const get = [](float const* p) {
    four x;
    std::memcpy(&x, p, sizeof x);
    return x;
  };
  auto const put = [](float* p, four x) { std::memcpy(p, &x, sizeof x); };
  for (index_t c = 0; c < cols; c += 4)
    for (index_t r = 0; r < rows; r += 4) {
      float const* const f = from + r * tile + c;
      float* const t = to + c * to_stride + r;
      if (r + 4 > rows || c + 4 > cols) {
        for (index_t i = 0; c + i < cols && i < 4; ++i)
          for (index_t j = 0; r + j < rows && j < 4; ++j) t[i * to_stride + j] = f[j * tile + i];
        continue;
      }
      four const a = get(f), b = get(f + tile), d = get(f + 2 * tile), e = get(f + 3 * tile);
      four const ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                 ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      four const de_low = __builtin_shufflevector(d, e, 0, 4, 1, 5),
                 de_high = __builtin_shufflevector(d, e, 2, 6, 3, 7);
      put(t, __builtin_shufflevector(ab_low, de_low, 0, 1, 4, 5));
      put(t + to_stride, __builtin_shufflevector(ab_low, de_low, 2, 3, 6, 7));
      put(t + 2 * to_stride, __builtin_shufflevector(ab_high, de_high, 0, 1, 4, 5));
      put(t + 3 * to_stride, __builtin_shufflevector(ab_high, de_high, 2, 3, 6, 7));
    }
}

/// out [count × in] from scales and zeros [groups × count]. `fetch(k, n, codes)` fills a tile that starts at input k,
/// output n.
template <class Fetch>
void dequantize_tiles(matrix_view<float const> scales, matrix_view<float const> zeros,
                      std::vector<std::int32_t> const& g_idx, matrix_view<float> out, Fetch&& fetch) {
  constexpr index_t tile = dequantize_tile;
  alignas(64) std::array<std::uint8_t, tile * tile> codes;
  alignas(64) std::array<float, tile * tile> weights;
  for (index_t n = 0; n < out.rows; n += tile) {
    index_t const cols = std::min(tile, out.rows - n);
    for (index_t k = 0; k < out.cols; k += tile) {
      index_t const rows = std::min(tile, out.cols - k);
      fetch(k, n, matrix_view<std::uint8_t>(codes.data(), rows, cols, tile));
      for (index_t r = 0; r < rows; ++r) {
        index_t const g = g_idx[static_cast<std::size_t>(k + r)];
        float const* const scale = scales.row(g) + n;
        float const* const zero = zeros.row(g) + n;
        std::uint8_t const* const code = codes.data() + r * tile;
        float* __restrict const weight = weights.data() + r * tile;
        for (index_t c = 0; c < cols; ++c) weight[c] = scale[c] * (static_cast<float>(code[c]) - zero[c]);
      }
      transpose_tile(weights.data(), out.row(n) + k, out.stride, rows, cols);
    }
  }
}

}  // namespace detail

/// Outputs [first, first + out.rows) of a packed layer into out [outputs × in], row-major. Ranges can be done in
/// parallel. Throws shape_error if `out` does not fit or g_idx names a group that does not exist.
inline void dequantize(packed_view const& p, index_t first, matrix_view<float> out) {
  if (first < 0 || out.rows < 0 || first > p.out_features - out.rows || out.cols != p.in_features)
    throw shape_error("dequantize: outputs [" + std::to_string(first) + ", +" + std::to_string(out.rows) + ") of a " +
                      std::to_string(p.out_features) + " x " + std::to_string(p.in_features) + " layer into " +
                      std::to_string(out.rows) + " x " + std::to_string(out.cols));
  std::vector<std::int32_t> const g_idx = group_index(p);
  detail::check_groups(g_idx, p.groups);
  matrix<float> scales(p.groups, out.rows);
  matrix<float> zeros(p.groups, out.rows);
  for (index_t g = 0; g < p.groups; ++g)
    for (index_t n = 0; n < out.rows; ++n) {
      scales(g, n) = scale_at(p, g, first + n);
      zeros(g, n) = zero_at(p, g, first + n);
    }
  index_t const row_bytes = 4 * p.out_features;
  detail::dequantize_tiles(scales, zeros, g_idx, out, [&](index_t k, index_t n, matrix_view<std::uint8_t> codes) {
    unpack_rows(p.qweight + k * p.spec.bits / 32 * row_bytes + 4 * (first + n), row_bytes, p.spec.bits, codes);
  });
}

/// The weight [out × in], row-major.
inline matrix<float> dequantize(packed_view const& p) {
  matrix<float> out(p.out_features, p.in_features);
  dequantize(p, 0, out);
  return out;
}

inline matrix<float> dequantize(packed_linear const& p) { return dequantize(view(p)); }

/// The weight [out × in], row-major, of a layer that is not packed yet; its scales need not be float16.
inline matrix<float> dequantize(quantized_linear const& q) {
  detail::check_sizes(q);
  std::vector<std::int32_t> g_idx = q.g_idx;
  if (g_idx.empty()) {
    packed_view trivial;
    trivial.spec = q.spec;
    trivial.in_features = q.in_features();
    g_idx = group_index(trivial);
  }
  detail::check_groups(g_idx, q.groups());
  matrix<float> zeros(q.groups(), q.out_features());
  for (index_t i = 0; i < zeros.size(); ++i) zeros.data()[i] = static_cast<float>(q.zeros.data()[i]);
  matrix<float> out(q.out_features(), q.in_features());
  detail::dequantize_tiles(q.scales, zeros, g_idx, out, [&](index_t k, index_t n, matrix_view<std::uint8_t> codes) {
    for (index_t r = 0; r < codes.rows; ++r) std::copy_n(q.codes.row(k + r) + n, codes.cols, codes.row(r));
  });
  return out;
}

}  // namespace v0
}  // namespace gptq
