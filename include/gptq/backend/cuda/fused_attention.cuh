/// Causal attention of 16-bit types in one kernel: scores live in registers only, and the softmax is kept up to date while
/// the keys go by.
///
/// A block of 4 warps owns 128 queries of one head, 32 in each warp. Tiles of 64 keys and values pass through two places
/// in shared memory, the next one on its way while one is worked on. Products are mma.sync (m16n8k16) with fp32 sums.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>
#include <gptq/core/model_backend.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>

#include <cstdint>

namespace gptq {
inline namespace v0 {
namespace detail {

inline constexpr int attention_queries = 128;
inline constexpr int attention_keys = 64;

/// Two values as the halves of a word, rounded to nearest.
template <class T>
__device__ std::uint32_t pack_halves(float low, float high) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return bit_pun<std::uint32_t>(__floats2bfloat162_rn(low, high));
  else
    return bit_pun<std::uint32_t>(__floats2half2_rn(low, high));
}

template <class T>
__device__ float sum_of_halves(std::uint32_t pair) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return bit_pun<float>(pair << 16) + bit_pun<float>(pair & 0xffff0000u);
  } else {
    float2 const two = __half22float2(bit_pun<__half2>(pair));
    return two.x + two.y;
  }
}

/// By the device's approximation, relative error 2^-22; 0 for what is below the normal numbers.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// d += a·b, a 16 × 16 and b 16 × 8.
template <class T>
__device__ void multiply_fragment(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<T, bfloat16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Rows of Dim elements in shared memory, in pieces of 16 bytes whose place depends on the row, so that the eight rows
/// that a fragment is read from lie in different banks.
template <class T, int Dim>
struct attention_tile {
  static constexpr int pieces = Dim / 8;
  T* data;

  __device__ T* piece(int row, int i) const { return data + (row * pieces + (i ^ (row & 7))) * 8; }

  /// Copies rows [first, first + count) of `from`, asynchronously; those from `end` on, and columns from `dim` on, are 0.
  __device__ void load(T const* from, index_t stride, index_t first, index_t end, int count, int dim) const {
    for (int i = int(threadIdx.x); i < count * pieces; i += 128) {
      int const row = i / pieces;
      int const c = i % pieces;
      bool const there = first + row < end && 8 * c < dim;
      __pipeline_memcpy_async(piece(row, c), there ? from + (first + row) * stride + 8 * c : from, 16, there ? 0 : 16);
    }
  }
  /// Four 8 × 8 matrices; lane i names row i % 8 of matrix i / 8.
  __device__ void fragments(std::uint32_t (&r)[4], int row, int i) const {
    auto const at = static_cast<std::uint32_t>(__cvta_generic_to_shared(piece(row, i)));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
  }
  __device__ void transposed_fragments(std::uint32_t (&r)[4], int row, int i) const {
    auto const at = static_cast<std::uint32_t>(__cvta_generic_to_shared(piece(row, i)));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
  }
};

template <class T>
struct fused_attention_arguments {
  device_view<T const> q, k, v;
  device_view<T> y;
  attention_shape shape;
  index_t const* queries;  ///< bounds of the samples' queries
  index_t const* keys;     ///< and of their keys
};

template <class T, int Dim>
inline constexpr int attention_bytes = (attention_queries + 4 * attention_keys) * Dim* int(sizeof(T));

/// Scores of one 16 × 64 tile become probabilities relative to the highest score so far, in powers of two; `top` and
/// `sum` are those of rows r and r + 8 of this lane. Returns what earlier sums and outputs shrink by.
__device__ inline float2 softmax_step(float (&s)[attention_keys / 8][4], float (&top)[2], float (&sum)[2]) {
  float shrink[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest = top[half];
#pragma unroll
    for (int n = 0; n < attention_keys / 8; ++n) highest = fmaxf(highest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
    shrink[half] = power_of_two(top[half] - highest);
    top[half] = highest;
    sum[half] *= shrink[half];
#pragma unroll
    for (int n = 0; n < attention_keys / 8; ++n)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) s[n][i] = power_of_two(s[n][i] - highest);
  }
  return {shrink[0], shrink[1]};
}

/// Grid: tiles of queries × heads × samples.
template <class T, int Dim>
__global__ void __launch_bounds__(128) fused_attention_kernel(fused_attention_arguments<T> a) {
  constexpr int halves = 2;  // of a warp's queries
  constexpr int score_tiles = attention_keys / 8;
  constexpr int output_tiles = Dim / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  attention_shape const& shape = a.shape;
  index_t const sample = blockIdx.z;
  index_t const query0 = a.queries[sample], key0 = a.keys[sample];
  index_t const nq = a.queries[sample + 1] - query0, nk = a.keys[sample + 1] - key0;
  index_t const tile = index_t(gridDim.x) - 1 - blockIdx.x;  // those with the most keys first
  index_t const q0 = tile * attention_queries;
  if (q0 >= nq) return;
  index_t const head = blockIdx.y;
  index_t const kv = head / (shape.heads / shape.kv_heads);
  int const dim = int(shape.head_dim);
  T const* const q = a.q.row(query0) + shape.query.first + head * shape.query.stride;
  T const* const k = a.k.row(key0) + shape.key.first + kv * shape.key.stride;
  T const* const v = a.v.row(key0) + shape.value.first + kv * shape.value.stride;

  using rows = attention_tile<T, Dim>;
  rows const q_tile{reinterpret_cast<T*>(shared)};
  auto const k_tile = [&](int stage) { return rows{q_tile.data + (attention_queries + stage * attention_keys) * Dim}; };
  auto const v_tile = [&](int stage) {
    return rows{q_tile.data + (attention_queries + (2 + stage) * attention_keys) * Dim};
  };
  int const lane = int(threadIdx.x) % 32;
  int const warp = int(threadIdx.x) / 32;

  index_t const behind = nk - nq;  // the key that query 0 stands at
  index_t const last = (q0 + attention_queries < nq ? q0 + attention_queries : nq) - 1;
  index_t const end = behind + last + 1;  // keys that any query here sees
  index_t begin = shape.window > 0 && behind + q0 - shape.window + 1 > 0 ? behind + q0 - shape.window + 1 : 0;
  begin = begin / attention_keys * attention_keys;

  q_tile.load(q, a.q.stride, q0, nq, attention_queries, dim);
  k_tile(0).load(k, a.k.stride, begin, nk, attention_keys, dim);
  v_tile(0).load(v, a.v.stride, begin, nk, attention_keys, dim);
  __pipeline_commit();

  float out[halves][output_tiles][4] = {};
  float top[halves][2], sum[halves][2] = {};
#pragma unroll
  for (int h = 0; h < halves; ++h) top[h][0] = top[h][1] = -1e30f;
  float const log2e = 1.4426950408889634f;
  float const factor = shape.softcap > 0 ? shape.scale / shape.softcap : shape.scale * log2e;

  int stage = 0;
  for (index_t first = begin; first < end; first += attention_keys, stage ^= 1) {
    __pipeline_wait_prior(0);
    __syncthreads();
    if (first + attention_keys < end) {
      k_tile(stage ^ 1).load(k, a.k.stride, first + attention_keys, nk, attention_keys, dim);
      v_tile(stage ^ 1).load(v, a.v.stride, first + attention_keys, nk, attention_keys, dim);
      __pipeline_commit();
    }
    float s[halves][score_tiles][4] = {};
#pragma unroll
    for (int d = 0; d < Dim / 16; ++d) {
      std::uint32_t queries[halves][4];
#pragma unroll
      for (int h = 0; h < halves; ++h) q_tile.fragments(queries[h], 32 * warp + 16 * h + lane % 16, 2 * d + lane / 16);
#pragma unroll
      for (int n = 0; n < score_tiles; n += 2) {
        std::uint32_t keys[4];
        k_tile(stage).fragments(keys, 8 * n + lane % 8 + lane / 16 * 8, 2 * d + lane / 8 % 2);
#pragma unroll
        for (int h = 0; h < halves; ++h) {
          multiply_fragment<T>(s[h][n], queries[h], keys[0], keys[1]);
          multiply_fragment<T>(s[h][n + 1], queries[h], keys[2], keys[3]);
        }
      }
    }
    bool const masked =
        first + attention_keys > behind + q0 + 1 || (shape.window > 0 && first <= behind + last - shape.window);
#pragma unroll
    for (int h = 0; h < halves; ++h) {
#pragma unroll
      for (int n = 0; n < score_tiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[h][n][i] *= factor;
          if (shape.softcap > 0) s[h][n][i] = tanhf(s[h][n][i]) * (shape.softcap * log2e);
        }
      if (masked) {
        int const position = int(behind + q0 - first) + 32 * warp + 16 * h + lane / 4;  // from this tile's first key on
        int const window = shape.window > 0 ? int(shape.window) : 1 << 30;
#pragma unroll
        for (int n = 0; n < score_tiles; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            int const key = 8 * n + lane % 4 * 2 + i % 2;
            int const distance = position + i / 2 * 8 - key;
            if (distance < 0 || distance >= window) s[h][n][i] = -1e38f;
          }
      }
      float2 const shrink = softmax_step(s[h], top[h], sum[h]);
#pragma unroll
      for (int n = 0; n < output_tiles; ++n) {
        out[h][n][0] *= shrink.x;
        out[h][n][1] *= shrink.x;
        out[h][n][2] *= shrink.y;
        out[h][n][3] *= shrink.y;
      }
    }
#pragma unroll
    for (int j = 0; j < attention_keys / 16; ++j) {
      std::uint32_t p[halves][4];
#pragma unroll
      for (int h = 0; h < halves; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float const* const pair = &s[h][2 * j + i / 2][i % 2 * 2];
          p[h][i] = pack_halves<T>(pair[0], pair[1]);
          sum[h][i % 2] += sum_of_halves<T>(p[h][i]);  // as rounded, so that the weights add up to 1
        }
#pragma unroll
      for (int n = 0; n < output_tiles; n += 2) {
        std::uint32_t values[4];
        v_tile(stage).transposed_fragments(values, 16 * j + lane % 16, n + lane / 16);
#pragma unroll
        for (int h = 0; h < halves; ++h) {
          multiply_fragment<T>(out[h][n], p[h], values[0], values[1]);
          multiply_fragment<T>(out[h][n + 1], p[h], values[2], values[3]);
        }
      }
    }
  }

#pragma unroll
  for (int h = 0; h < halves; ++h)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[h][half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      float const inverse = 1.0f / total;
      index_t const row = q0 + 32 * warp + 16 * h + lane / 4 + 8 * half;
      if (row >= nq) continue;
      T* const to = a.y.row(query0 + row) + head * dim;
#pragma unroll
      for (int n = 0; n < output_tiles; ++n) {
        int const c = 8 * n + lane % 4 * 2;
        if (c < dim)
          *reinterpret_cast<std::uint32_t*>(to + c) =
              pack_halves<T>(out[h][n][2 * half] * inverse, out[h][n][2 * half + 1] * inverse);
      }
    }
}

/// Whether all that is read lies at multiples of 16 bytes, and a head is not too wide.
template <class T>
bool fits_fused_attention(device_view<T const> q, device_view<T const> k, device_view<T const> v,
                          attention_shape const& s, device_view<T> y) {
  auto const even = [](auto... n) { return ((n % 8 == 0) && ...); };
  auto const starts = [](auto... p) { return ((reinterpret_cast<std::uintptr_t>(p) % 16 == 0) && ...); };
  return s.head_dim <= 128 && starts(q.data, k.data, v.data, y.data) &&
         even(s.head_dim, q.stride, k.stride, v.stride, y.stride, s.query.first, s.query.stride, s.key.first,
              s.key.stride, s.value.first, s.value.stride);
}

template <class T>
void fused_attention(cuda_context& c, device_view<T const> q, device_view<T const> k, device_view<T const> v,
                     sequence_bounds bounds, attention_shape const& shape, device_view<T> y) {
  std::size_t const samples = bounds.queries.empty() ? 0 : bounds.queries.size() - 1;
  index_t longest = 0;
  for (std::size_t s = 0; s < samples; ++s) longest = (std::max)(longest, bounds.queries[s + 1] - bounds.queries[s]);
  if (longest == 0 || shape.heads == 0) return;
  auto on_device = c.make<index_t>(2, index_t(samples) + 1);
  std::size_t const bytes = bounds.queries.size() * sizeof(index_t);
  c.pinned().upload(bounds.queries.data(), bytes, on_device.view().row(0), bytes, bytes, 1, c.stream());
  c.pinned().upload(bounds.keys.data(), bytes, on_device.view().row(1), bytes, bytes, 1, c.stream());
  auto const launch = [&]<int Dim>() {
    auto const kernel = fused_attention_kernel<T, Dim>;
    constexpr int shared = attention_bytes<T, Dim>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "cudaFuncSetAttribute");
    constexpr std::size_t most = 65535;  // of a grid's third dimension
    for (std::size_t s = 0; s < samples; s += most) {
      dim3 const grid(unsigned(pieces_of(longest, attention_queries)), unsigned(shape.heads),
                      unsigned((std::min)(most, samples - s)));
      kernel<<<grid, 128, shared, c.stream()>>>(
          {q, k, v, y, shape, on_device.view().row(0) + s, on_device.view().row(1) + s});
      check_launch("fused_attention_kernel");
    }
  };
  if (shape.head_dim <= 64)
    launch.template operator()<64>();
  else
    launch.template operator()<128>();
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
