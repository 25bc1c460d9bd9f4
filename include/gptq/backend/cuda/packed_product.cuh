/// Products with packed layers on the device: codes become weights in registers, and there is no other copy of them.
/// Plain rather than fast.
#pragma once

#include <gptq/backend/cuda/pack.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A packed layer in device memory: the words of the file, its scales and zero points spelled out.
struct device_packed_layer {
  int bits = 0;
  index_t in_features = 0;
  device_matrix<std::uint32_t> words;  ///< [word_count(in) × out]
  device_matrix<float> scales;         ///< [groups × out]
  device_matrix<std::uint8_t> zeros;   ///< [groups × out]
  device_matrix<std::int32_t> g_idx;   ///< [1 × in]
};

namespace detail {

inline device_packed_layer upload_packed(cuda_context& c, packed_view const& p) {
  auto const send = [&](void const* from, void* to, std::size_t bytes) {
    if (bytes) c.pinned().upload(from, bytes, to, bytes, bytes, 1, c.stream());
  };
  device_packed_layer layer{p.spec.bits, p.in_features, {}, {}, {}, {}};
  std::vector<std::int32_t> const groups = group_index(p);
  check_groups(groups, p.groups);
  matrix<float> scales(p.groups, p.out_features);
  matrix<std::uint8_t> zeros(p.groups, p.out_features);
  for (index_t g = 0; g < p.groups; ++g)
    for (index_t n = 0; n < p.out_features; ++n) {
      scales(g, n) = scale_at(p, g, n);
      zeros(g, n) = zero_at(p, g, n);
    }
  layer.words = c.make<std::uint32_t>(word_count(p.in_features, p.spec.bits), p.out_features);
  layer.scales = c.make<float>(p.groups, p.out_features);
  layer.zeros = c.make<std::uint8_t>(p.groups, p.out_features);
  layer.g_idx = c.make<std::int32_t>(1, p.in_features);
  send(p.qweight, layer.words.data(), std::size_t(layer.words.size()) * sizeof(std::uint32_t));
  send(scales.data(), layer.scales.data(), std::size_t(scales.size()) * sizeof(float));
  send(zeros.data(), layer.zeros.data(), std::size_t(zeros.size()));
  send(groups.data(), layer.g_idx.data(), groups.size() * sizeof(std::int32_t));
  return layer;
}

inline constexpr int packed_outputs = 32;  ///< of a block, one for each lane: words are read side by side
inline constexpr int packed_lanes = 8;     ///< warps of a block, which share the inputs
inline constexpr int packed_tokens = 8;    ///< of a block: so often is a weight used once it is there

template <class T>
struct packed_product {
  device_view<T const> x;
  device_view<std::uint32_t const> words;
  device_view<float const> scales;
  device_view<std::uint8_t const> zeros;
  std::int32_t const* groups;
  T const* bias;  ///< or null
  bool add;
  device_view<T> y;
};

/// 32 codes lie in `Bits` words. Sums over the inputs are in fp32: runs of 32 inputs by warps, then over the warps.
template <int Bits, class T>
__global__ void __launch_bounds__(packed_outputs* packed_lanes) packed_product_kernel(packed_product<T> p) {
  __shared__ float partial[packed_lanes][packed_tokens][packed_outputs];
  index_t const n = index_t(blockIdx.x) * packed_outputs + threadIdx.x;
  index_t const in = p.x.cols;
  for (index_t first = index_t(blockIdx.y) * packed_tokens; first < p.x.rows;
       first += index_t(gridDim.y) * packed_tokens) {
    float sums[packed_tokens] = {};
    index_t const left = p.x.rows - first;
    int const tokens = left < packed_tokens ? int(left) : packed_tokens;
    if (n < p.y.cols) {
      index_t group = -1;
      float scale = 0, zero = 0;
      for (index_t run = threadIdx.y; run * 32 < in; run += packed_lanes) {
        std::uint32_t word[Bits + 1] = {};
#pragma unroll
        for (int w = 0; w < Bits; ++w)
          if (run * Bits + w < p.words.rows) word[w] = p.words(run * Bits + w, n);
#pragma unroll
        for (int i = 0; i < 32; ++i) {
          index_t const k = run * 32 + i;
          if (k >= in) break;
          constexpr std::uint32_t mask = (1u << Bits) - 1;
          int const at = i * Bits / 32;
          int const shift = i * Bits % 32;
          std::uint32_t code = word[at] >> shift;
          if (shift + Bits > 32) code |= word[at + 1] << (32 - shift);
          if (p.groups[k] != group) {
            group = p.groups[k];
            scale = p.scales(group, n);
            zero = float(p.zeros(group, n));
          }
          float const weight = scale * (float(code & mask) - zero);
#pragma unroll
          for (int t = 0; t < packed_tokens; ++t)
            if (t < tokens) sums[t] += to_float(p.x(first + t, k)) * weight;
        }
      }
    }
#pragma unroll
    for (int t = 0; t < packed_tokens; ++t) partial[threadIdx.y][t][threadIdx.x] = sums[t];
    __syncthreads();
    int const t = int(threadIdx.y);  // a token for each warp
    static_assert(packed_lanes == packed_tokens);
    if (t < tokens && n < p.y.cols) {
      float sum = p.bias ? to_float(p.bias[n]) : 0.0f;
      for (int lane = 0; lane < packed_lanes; ++lane) sum += partial[lane][t][threadIdx.x];
      if (p.add) sum += to_float(p.y(first + t, n));
      p.y(first + t, n) = from_float<T>(sum);
    }
    __syncthreads();
  }
}

/// y = x·wᵀ + bias, or added to y; bias may be null.
template <class T>
void multiply_packed(cuda_context const& c, device_view<T const> x, device_packed_layer const& w, T const* bias,
                     bool add, device_view<T> y) {
  if (y.rows == 0 || y.cols == 0) return;
  dim3 const grid(unsigned(pieces_of(y.cols, packed_outputs)),
                  unsigned((std::min)(pieces_of(y.rows, packed_tokens), index_t(65535))));
  with_bits(w.bits, [&]<int Bits>() {
    packed_product_kernel<Bits, T><<<grid, dim3(packed_outputs, packed_lanes), 0, c.stream()>>>(
        {x, w.words.view(), w.scales.view(), w.zeros.view(), w.g_idx.data(), bias, add, y});
  });
  check_launch("packed_product_kernel");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
