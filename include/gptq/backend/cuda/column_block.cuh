/// One block of columns on the device: the serial heart of GPTQ as one kernel.
///
/// A block of 32 × 8 threads owns 32 outputs and keeps their columns, and the triangle of the feedback matrix, in shared
/// memory. Columns are taken in panels of 16: the first warp goes through a panel with its outputs in registers, one
/// output in each lane; then all warps add what the panel feeds forward to the columns after it.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>
#include <gptq/core/backend.hpp>
#include <gptq/core/grid.hpp>

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

/// Copies F [rows × rows] into shared memory; what is beyond it or above the diagonal is not read later.
__device__ inline void load_triangle(triangle_tile& t, device_view<float const> f) {
  int const thread = int(threadIdx.y * 32 + threadIdx.x);
  int const rows = int(f.rows);
  bool const wide = f.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(f.data) % 16 == 0;
  constexpr int quads = triangle_tile::squares * panel_columns * panel_columns / 4;
#pragma unroll 3
  for (int i = thread; i < quads; i += 256) {
    int const square = i / (panel_columns * panel_columns / 4);
    int block = 0;
    while ((block + 1) * (block + 2) / 2 <= square) ++block;
    int const j = block * panel_columns + i / (panel_columns / 4) % panel_columns;
    int const c = (square - block * (block + 1) / 2) * panel_columns + i % (panel_columns / 4) * 4;
    if (j >= rows) continue;
    float4 v{0, 0, 0, 0};
    if (wide && c + 4 <= rows) {
      v = *reinterpret_cast<float4 const*>(f.row(j) + c);
    } else {
      if (c < rows) v.x = f(j, c);
      if (c + 1 < rows) v.y = f(j, c + 1);
      if (c + 2 < rows) v.z = f(j, c + 2);
      if (c + 3 < rows) v.w = f(j, c + 3);
    }
    reinterpret_cast<float4*>(t.values)[i] = v;
  }
}

/// x_j += Sign · Σ_{i in panel} F_ji·e_i for all columns j after the panel, shared out to the warps.
template <int Sign>
__device__ inline void feed_forward(triangle_tile& f, output_tile const& e, output_tile& x, int panel, int rows) {
  int const lane = int(threadIdx.x);
  int const first = panel * panel_columns;
  if (first + panel_columns >= rows) return;
  float v[panel_columns];
#pragma unroll
  for (int i = 0; i < panel_columns; ++i) v[i] = Sign * e[first + i][lane];
#pragma unroll 2
  for (int j = first + panel_columns + int(threadIdx.y); j < rows; j += tile_warps) {
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

/// x ← F⁻¹·x in shared memory.
__device__ inline void substitute(triangle_tile& f, output_tile& x, int rows) {
  int const lane = int(threadIdx.x);
  for (int panel = 0; panel * panel_columns < rows; ++panel) {
    int const first = panel * panel_columns;
    if (threadIdx.y == 0) {
      float v[panel_columns];
#pragma unroll
      for (int k = 0; k < panel_columns; ++k) v[k] = x[first + k][lane];
#pragma unroll
      for (int k = 0; k < panel_columns; ++k) {
        if (first + k < rows) {
#pragma unroll
          for (int m = k + 1; m < panel_columns; ++m) v[m] = fmaf(-f.row(first + m, panel)[k], v[k], v[m]);
          x[first + k][lane] = v[k];
        }
      }
    }
    __syncthreads();
    feed_forward<-1>(f, x, x, panel, rows);
    __syncthreads();
  }
}

__device__ inline float max_or_nan(float a, float b) {
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(a) : "f"(a), "f"(b));
  return a;
}
__device__ inline float min_or_nan(float a, float b) {
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(a) : "f"(a), "f"(b));
  return a;
}

/// x / scale, rounded as the division is, by a reciprocal that is itself correctly rounded: two fused steps.
__device__ inline float divide(float x, float scale, float reciprocal) {
  float const q = x * reciprocal;
  return fmaf(fmaf(-q, scale, x), reciprocal, q);
}

/// Shared memory of a block of columns.
struct column_tile {
  triangle_tile triangle;
  output_tile updated;     ///< w + correction + what was fed forward so far; after its turn the error against w′
  output_tile weights;     ///< original weights; after its turn E = W − Q
  output_tile scales;      ///< of each column
  output_tile reciprocals;
  std::uint8_t zeros[tile_columns][tile_outputs];
  std::uint8_t codes[tile_columns][tile_outputs];
};

/// Quantizes column j of the lane's output.
template <int Bits>
__device__ inline void quantize_column(column_tile& t, int j, float updated, bool plain, float& error) {
  int const lane = int(threadIdx.x);
  float const scale = t.scales[j][lane];
  float const zero = float(t.zeros[j][lane]);
  float const ratio = plain ? updated / scale : divide(updated, scale, t.reciprocals[j][lane]);
  float const steps = round_even(min_or_nan(max_or_nan(ratio, -zero), float(max_code<Bits>) - zero));
  float const value = __fmul_rn(scale, steps);
  error = __fsub_rn(t.weights[j][lane], value);
  t.weights[j][lane] = error;
  t.updated[j][lane] = __fsub_rn(updated, value);
  t.codes[j][lane] = static_cast<std::uint8_t>(steps == steps ? steps + zero : 0.0f);  // NaN shows in the loss
}

/// The arguments of a launch, without the template parameters of the concept.
struct column_arguments {
  device_view<float const> feedback, correction;
  float const* pivots;
  float const* excess;
  std::int32_t const* groups;
  std::int32_t const* order;
  device_view<float const> scales;
  device_view<std::uint8_t const> zeros;
  device_view<float> weights;
  device_view<std::uint8_t> codes;
  device_view<double> losses;
};

template <int Bits, bool Feedback>
__global__ void __launch_bounds__(256, 2) quantize_block_kernel(column_arguments a) {
  extern __shared__ __align__(16) unsigned char shared[];
  column_tile& t = *reinterpret_cast<column_tile*>(shared);
  int const lane = int(threadIdx.x);
  int const warp = int(threadIdx.y);
  int const rows = int(a.weights.rows);
  index_t const n = index_t(blockIdx.x) * tile_outputs + lane;
  bool const inside = n < a.weights.cols;

  bool extreme = false;  // scales whose reciprocal is no help
#pragma unroll 4
  for (int j = warp; j < rows; j += tile_warps) {
    index_t const g = a.groups[j];
    float const w = inside ? a.weights(j, n) : 0.0f;
    float const scale = inside ? a.scales(g, n) : 1.0f;
    t.weights[j][lane] = w;
    t.updated[j][lane] = inside ? a.correction(j, n) + w : 0.0f;
    t.scales[j][lane] = scale;
    t.reciprocals[j][lane] = 1.0f / scale;
    t.zeros[j][lane] = inside ? a.zeros(g, n) : std::uint8_t(0);
    extreme |= !(scale > 1e-30f && scale < 1e30f);
  }
  if constexpr (Feedback) load_triangle(t.triangle, a.feedback);
  bool const plain = __syncthreads_or(extreme);

  if constexpr (Feedback) {
    for (int panel = 0; panel * panel_columns < rows; ++panel) {
      int const first = panel * panel_columns;
      if (warp == 0) {
        float v[panel_columns];
#pragma unroll
        for (int k = 0; k < panel_columns; ++k) v[k] = t.updated[first + k][lane];
#pragma unroll
        for (int k = 0; k < panel_columns; ++k) {
          if (first + k < rows) {
            float error;
            quantize_column<Bits>(t, first + k, v[k], plain, error);
#pragma unroll
            for (int m = k + 1; m < panel_columns; ++m)
              v[m] = fmaf(t.triangle.row(first + m, panel)[k], error, v[m]);
          }
        }
      }
      __syncthreads();
      feed_forward<1>(t.triangle, t.weights, t.updated, panel, rows);
      __syncthreads();
    }
  } else {
    for (int j = warp; j < rows; j += tile_warps) {
      float error;
      quantize_column<Bits>(t, j, t.updated[j][lane], plain, error);
    }
    __syncthreads();
  }

  double damped = 0;
  double damping = 0;
  for (int j = warp; j < rows; j += tile_warps) {
    float const error = t.weights[j][lane];
    float const scaled = t.updated[j][lane] * (Feedback ? a.pivots[j] : 1.0f);
    float const lifted = Feedback ? a.excess[j] * error : 0.0f;
    damped += double(scaled) * double(scaled);
    damping += double(lifted) * double(lifted);
    if (inside) {
      a.weights(j, n) = error;
      a.codes(a.order[j], n) = t.codes[j][lane];
    }
  }
  __syncthreads();  // scales are not needed any more: their place serves the sums
  auto& scratch = *reinterpret_cast<double(*)[tile_warps][32]>(&t.scales[0][0]);
  damped = sum_over_warps(damped, scratch);
  damping = sum_over_warps(damping, scratch);
  if (warp == 0 && inside) {
    a.losses(0, n) += damped;
    a.losses(1, n) += damping;
  }
}

template <int Bits>
void quantize_tile(cuda_context const& c, column_arguments const& a) {
  unsigned const blocks = unsigned(pieces_of(a.weights.cols, tile_outputs));
  if (blocks == 0 || a.weights.rows == 0) return;
  auto const kernel = a.feedback.data ? quantize_block_kernel<Bits, true> : quantize_block_kernel<Bits, false>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(sizeof(column_tile))),
        "cudaFuncSetAttribute");
  kernel<<<blocks, dim3(32, tile_warps), sizeof(column_tile), c.stream()>>>(a);
  check_launch("quantize_block_kernel");
}

template <int Warps>
__global__ void __launch_bounds__(256) solve_unit_lower_kernel(device_view<float const> f, device_view<float> x) {
  static_assert(Warps == tile_warps);
  extern __shared__ __align__(16) unsigned char shared[];
  struct tiles {
    triangle_tile triangle;
    output_tile x;
  };
  tiles& t = *reinterpret_cast<tiles*>(shared);
  int const lane = int(threadIdx.x);
  int const rows = int(x.rows);
  index_t const n = index_t(blockIdx.x) * tile_outputs + lane;
  bool const inside = n < x.cols;
#pragma unroll 4
  for (int j = int(threadIdx.y); j < rows; j += Warps) t.x[j][lane] = inside ? x(j, n) : 0.0f;
  load_triangle(t.triangle, f);
  __syncthreads();
  substitute(t.triangle, t.x, rows);
  if (inside)
    for (int j = int(threadIdx.y); j < rows; j += Warps) x(j, n) = t.x[j][lane];
}

/// For at most tile_columns rows.
inline void solve_tile(cuda_context const& c, device_view<float const> f, device_view<float> x) {
  if (x.rows == 0 || x.cols == 0) return;
  constexpr int bytes = int(sizeof(triangle_tile) + sizeof(output_tile));
  auto const kernel = solve_unit_lower_kernel<tile_warps>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute");
  kernel<<<unsigned(pieces_of(x.cols, tile_outputs)), dim3(32, tile_warps), bytes, c.stream()>>>(f, x);
  check_launch("solve_unit_lower_kernel");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
