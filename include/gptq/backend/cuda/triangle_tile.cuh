/// The triangle of the error-propagation matrix of one block, and a block's columns of 32 outputs, in shared memory.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>

#include <cuda_pipeline.h>

#include <cstdint>

namespace gptq {
inline namespace v0 {
namespace detail {

inline constexpr int tile_columns = 128;
inline constexpr int tile_outputs = 32;
inline constexpr int tile_warps = 8;
inline constexpr int panel_columns = 16;

/// The strict lower triangle of a block, in squares of 16 × 16: square (J, P), P ≤ J, is number J(J+1)/2 + P, so that
/// the 16 values of one row that belong to a panel lie together.
struct triangle_tile {
  static constexpr int squares = tile_columns / panel_columns * (tile_columns / panel_columns + 1) / 2;
  float values[squares * panel_columns * panel_columns];

  __device__ float* row(int j, int panel) {
    int const block = j / panel_columns;
    return values + ((block * (block + 1) / 2 + panel) * panel_columns + j % panel_columns) * panel_columns;
  }
};

using output_tile = float[tile_columns][tile_outputs];

/// Copies F [rows × rows] into shared memory, asynchronously: wait_for_triangle() and a barrier end it. What is above the
/// diagonal is copied in part and never used; rows up to the next multiple of 16 become zero.
__device__ inline void load_triangle(triangle_tile& t, device_view<float const> f) {
  int const rows = int(f.rows);
  int const padded = (rows + panel_columns - 1) / panel_columns * panel_columns;
  bool const wide = f.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(f.data) % 16 == 0;
  int const quad = int(threadIdx.x);
  int const c = 4 * quad;
  for (int j = int(threadIdx.y); j < padded; j += tile_warps) {
    if (c >= (j / panel_columns + 1) * panel_columns) continue;
    float* const to = t.row(j, quad / 4) + c % panel_columns;
    if (wide && j < rows && c + 4 <= rows) {
      __pipeline_memcpy_async(to, f.row(j) + c, 16);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) to[i] = j < rows && c + i < rows ? f(j, c + i) : 0.0f;
    }
  }
  __pipeline_commit();
}

__device__ inline void wait_for_triangle() { __pipeline_wait_prior(0); }

/// x_j += Sign · Σ_{i in panel} F_ji·e_i for all columns j after the panel, shared out to the warps.
template <int Sign>
__device__ inline void feed_forward(triangle_tile& f, output_tile const& e, output_tile& x, int panel, int padded) {
  int const lane = int(threadIdx.x);
  int const first = panel * panel_columns;
  if (first + panel_columns >= padded) return;
  float v[panel_columns];
#pragma unroll
  for (int i = 0; i < panel_columns; ++i) v[i] = Sign * e[first + i][lane];
#pragma unroll 4
  for (int j = first + panel_columns + int(threadIdx.y); j < padded; j += tile_warps) {
    auto const* const weights = reinterpret_cast<float4 const*>(f.row(j, panel));
    float even = x[j][lane];
    float odd = 0;
#pragma unroll
    for (int i = 0; i < panel_columns / 4; ++i) {
      float4 const w = weights[i];
      even = fmaf(w.x, v[4 * i], even);
      odd = fmaf(w.y, v[4 * i + 1], odd);
      even = fmaf(w.z, v[4 * i + 2], even);
      odd = fmaf(w.w, v[4 * i + 3], odd);
    }
    x[j][lane] = even + odd;
  }
}

/// Row m of the panel's own square of F.
struct panel_row {
  float4 quads[panel_columns / 4];
  __device__ panel_row(triangle_tile& f, int first, int m, int panel) {
    auto const* const from = reinterpret_cast<float4 const*>(f.row(first + m, panel));
#pragma unroll
    for (int i = 0; i < panel_columns / 4; ++i)
      if (4 * i < m) quads[i] = from[i];
  }
  __device__ float operator[](int k) const {
    float4 const& q = quads[k / 4];
    return k % 4 == 0 ? q.x : k % 4 == 1 ? q.y : k % 4 == 2 ? q.z : q.w;
  }
};

/// x ← F⁻¹·x in shared memory.
__device__ inline void substitute(triangle_tile& f, output_tile& x, int padded) {
  int const lane = int(threadIdx.x);
  for (int panel = 0; panel * panel_columns < padded; ++panel) {
    int const first = panel * panel_columns;
    if (threadIdx.y == 0) {
      float v[panel_columns];
#pragma unroll
      for (int k = 0; k < panel_columns; ++k) v[k] = x[first + k][lane];
#pragma unroll
      for (int m = 1; m < panel_columns; ++m) {
        panel_row const row(f, first, m, panel);
#pragma unroll
        for (int k = 0; k < m; ++k) v[m] = fmaf(-row[k], v[k], v[m]);
      }
#pragma unroll
      for (int k = 0; k < panel_columns; ++k) x[first + k][lane] = v[k];
    }
    __syncthreads();
    feed_forward<-1>(f, x, x, panel, padded);
    __syncthreads();
  }
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
