/// One block of columns on the device: the serial heart of GPTQ as one kernel.
///
/// A block of 32 × 8 threads owns 32 outputs and keeps their columns, and the triangle of the error-propagation matrix, in shared
/// memory. Columns are taken in panels of 16: the first warp goes through a panel with its outputs in registers, one
/// output in each lane; then all warps add what the panel feeds forward to the columns after it.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>
#include <gptq/backend/cuda/grid_fit.cuh>
#include <gptq/backend/cuda/triangle_tile.cuh>
#include <gptq/core/grid.hpp>
#include <gptq/core/quantize_backend.hpp>

#include <cstdint>

namespace gptq {
inline namespace v0 {
namespace detail {

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
  output_tile updated;  ///< w + correction + what was fed forward so far; after its turn the error against w′
  output_tile weights;  ///< original weights; after its turn E = W − Q
  output_tile scales;   ///< of each column; before it is known the correction, for the fit
  float reciprocals[panel_columns][tile_outputs];  ///< of the scales of one panel
  std::uint8_t zeros[tile_columns][tile_outputs];
  union {
    std::uint8_t codes[tile_columns][tile_outputs];
    fit_scratch fit;
  };
  float pivots[tile_columns];
  float excess[tile_columns];
  std::int32_t groups[tile_columns];
  std::int32_t order[tile_columns];
};
static_assert(sizeof(column_tile) <= 99 << 10, "what devices of compute capability 8.6, 8.9 and 12.x have for a block");

struct quantized_value {
  float steps, error, missed;  ///< code − zero, w − q, w′ − q
};

/// `ratio` is w′ / scale.
template <int Bits>
__device__ inline quantized_value quantize_at(float updated, float weight, float ratio, float scale, float zero) {
  float const steps = round_even(min_or_nan(max_or_nan(ratio, -zero), float(max_code<Bits>) - zero));
  float const value = __fmul_rn(scale, steps);
  return {steps, __fsub_rn(weight, value), __fsub_rn(updated, value)};
}

__device__ inline void store_column(column_tile& t, int j, quantized_value const& q, float zero) {
  int const lane = int(threadIdx.x);
  t.weights[j][lane] = q.error;
  t.updated[j][lane] = q.missed;
  t.codes[j][lane] = static_cast<std::uint8_t>(q.steps == q.steps ? q.steps + zero : 0.0f);  // NaN shows in the loss
}

/// One column after the other with true division, for scales so extreme that their reciprocals are no help.
template <int Bits>
__device__ inline void quantize_plainly(column_tile& t, int j) {
  int const lane = int(threadIdx.x);
  float const zero = float(t.zeros[j][lane]);
  float const scale = t.scales[j][lane];
  float const u = t.updated[j][lane];
  store_column(t, j, quantize_at<Bits>(u, t.weights[j][lane], u / scale, scale, zero), zero);
}

/// Columns [first, first + 16): the serial part. Everything is read before, and what column m gets from the columns
/// before m − 1 is summed while that one is being quantized.
template <int Bits>
__device__ inline void quantize_panel(column_tile& t, int panel) {
  int const lane = int(threadIdx.x);
  int const first = panel * panel_columns;
  float v[panel_columns], w[panel_columns], s[panel_columns], r[panel_columns], z[panel_columns];
#pragma unroll
  for (int k = 0; k < panel_columns; ++k) {
    v[k] = t.updated[first + k][lane];
    w[k] = t.weights[first + k][lane];
    s[k] = t.scales[first + k][lane];
    r[k] = t.reciprocals[k][lane];
    z[k] = float(t.zeros[first + k][lane]);
  }
#pragma unroll
  for (int m = 0; m < panel_columns; ++m) {
    float const ratio = divide(v[m], s[m], r[m]);
    if (m + 1 < panel_columns) {
      panel_row const row(t.triangle, first, m + 1, panel);
#pragma unroll
      for (int k = 0; k < m; ++k) v[m + 1] = fmaf(row[k], w[k], v[m + 1]);
      quantized_value const q = quantize_at<Bits>(v[m], w[m], ratio, s[m], z[m]);
      w[m] = q.error;
      v[m] = q.missed;
      s[m] = q.steps;
      v[m + 1] = fmaf(row[m], w[m], v[m + 1]);
    } else {
      quantized_value const q = quantize_at<Bits>(v[m], w[m], ratio, s[m], z[m]);
      w[m] = q.error;
      v[m] = q.missed;
      s[m] = q.steps;
    }
  }
#pragma unroll
  for (int k = 0; k < panel_columns; ++k) store_column(t, first + k, {s[k], w[k], v[k]}, z[k]);
}

/// The arguments of a launch, without the template parameters of the concept.
struct column_arguments {
  device_view<float const> propagation, correction;
  float const* pivots;
  float const* excess;
  std::int32_t const* groups;
  std::int32_t const* order;
  device_view<float> scales;
  device_view<std::uint8_t> zeros;
  device_view<float> weights;
  device_view<std::uint8_t> codes;
  device_view<double> losses;
};

/// How the grids of a block come about: they are there; or they are found here from groups of `size` columns as they
/// are before any is quantized.
enum class grid_source : unsigned char { given, fit_sym, fit_asym };

struct fit_arguments {
  grid_options options;
  int size = 0;
};

template <int Bits, bool Propagate, grid_source Source>
__global__ void __launch_bounds__(256, 2) quantize_block_kernel(column_arguments a, fit_arguments fit) {
  constexpr bool fits = Source != grid_source::given;
  extern __shared__ __align__(16) unsigned char shared[];
  column_tile& t = *reinterpret_cast<column_tile*>(shared);
  int const lane = int(threadIdx.x);
  int const warp = int(threadIdx.y);
  int const thread = warp * 32 + lane;
  int const rows = int(a.weights.rows);
  int const padded = (rows + panel_columns - 1) / panel_columns * panel_columns;
  index_t const n = index_t(blockIdx.x) * tile_outputs + lane;
  bool const inside = n < a.weights.cols;

  if constexpr (Propagate) load_triangle(t.triangle, a.propagation);
  if (thread < rows) {
    t.groups[thread] = a.groups[thread];
    t.order[thread] = a.order[thread];
    t.pivots[thread] = Propagate ? a.pivots[thread] : 1.0f;
    t.excess[thread] = Propagate ? a.excess[thread] : 0.0f;
  }
#pragma unroll 8
  for (int j = warp; j < padded; j += tile_warps) {
    bool const there = inside && j < rows;
    float const w = there ? a.weights(j, n) : 0.0f;
    float const c = there ? a.correction(j, n) : 0.0f;
    t.weights[j][lane] = w;
    t.updated[j][lane] = c + w;
    if constexpr (fits) t.scales[j][lane] = c;
  }
  if constexpr (Propagate) wait_for_triangle();
  __syncthreads();

  if constexpr (fits) {
    if constexpr (Propagate) substitute(t.triangle, t.scales, padded);
    for (int first = 0; first < rows; first += fit.size) {
      int const count = first + fit.size < rows ? fit.size : rows - first;
      auto const g = fit_values<Bits, Source == grid_source::fit_sym>(
          [&](int j) { return t.scales[first + j][lane] + t.weights[first + j][lane]; }, count, fit.options, t.fit);
      for (int j = first + warp; j < first + count; j += tile_warps) {
        t.scales[j][lane] = g.scale;
        t.zeros[j][lane] = static_cast<std::uint8_t>(g.zero);
      }
      if (warp == 0 && inside) {
        a.scales(t.groups[first], n) = g.scale;
        a.zeros(t.groups[first], n) = static_cast<std::uint8_t>(g.zero);
      }
    }
    __syncthreads();
  }
  bool extreme = false;  // scales whose reciprocal is no help
#pragma unroll 8
  for (int j = warp; j < padded; j += tile_warps) {
    bool const there = inside && j < rows;
    float scale = 1;
    if constexpr (fits) {
      if (j < rows) scale = t.scales[j][lane];
    } else {
      scale = there ? a.scales(t.groups[j], n) : 1.0f;
      t.zeros[j][lane] = there ? a.zeros(t.groups[j], n) : std::uint8_t(0);
    }
    if (fits && j >= rows) t.zeros[j][lane] = 0;
    t.scales[j][lane] = scale;
    if (j < panel_columns) t.reciprocals[j][lane] = 1.0f / scale;
    extreme |= !(scale > 1e-30f && scale < 1e30f);
  }
  bool const plain = __syncthreads_or(extreme);

  if constexpr (Propagate) {
    for (int panel = 0; panel * panel_columns < padded; ++panel) {
      int const first = panel * panel_columns;
      if (warp == 0) {
        if (!plain) {
          quantize_panel<Bits>(t, panel);
        } else {
#pragma unroll 1
          for (int m = 0; m < panel_columns; ++m) {
            quantize_plainly<Bits>(t, first + m);
#pragma unroll 1
            for (int k = m + 1; k < panel_columns; ++k)
              t.updated[first + k][lane] += t.triangle.row(first + k, panel)[m] * t.weights[first + m][lane];
          }
        }
      }
      __syncthreads();
      feed_forward<1>(t.triangle, t.weights, t.updated, panel, padded);
      if (first + panel_columns < padded)
        for (int k = warp; k < panel_columns; k += tile_warps)
          t.reciprocals[k][lane] = 1.0f / t.scales[first + panel_columns + k][lane];
      __syncthreads();
    }
  } else {
#pragma unroll 1
    for (int j = warp; j < rows; j += tile_warps) quantize_plainly<Bits>(t, j);
    __syncthreads();
  }

  double damped = 0;
  double damping = 0;
#pragma unroll 4
  for (int j = warp; j < rows; j += tile_warps) {
    float const error = t.weights[j][lane];
    float const scaled = t.updated[j][lane] * t.pivots[j];
    float const lifted = t.excess[j] * error;
    damped += double(scaled) * double(scaled);
    damping += double(lifted) * double(lifted);
    if (inside) {
      a.weights(j, n) = error;
      a.codes(t.order[j], n) = t.codes[j][lane];
    }
  }
  // Scales are not needed any more: their place serves the sums.
  auto& scratch = *reinterpret_cast<double(*)[tile_warps][32]>(&t.scales[0][0]);
  damped = sum_over_warps(damped, scratch);
  damping = sum_over_warps(damping, scratch);
  if (warp == 0 && inside) {
    a.losses(0, n) += damped;
    a.losses(1, n) += damping;
  }
}

template <int Bits, grid_source Source = grid_source::given>
void quantize_tile(cuda_context const& c, column_arguments const& a, fit_arguments const& fit = {}) {
  unsigned const blocks = unsigned(pieces_of(a.weights.cols, tile_outputs));
  if (blocks == 0 || a.weights.rows == 0) return;
  auto const kernel =
      a.propagation.data ? quantize_block_kernel<Bits, true, Source> : quantize_block_kernel<Bits, false, Source>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(sizeof(column_tile))),
        "cudaFuncSetAttribute");
  kernel<<<blocks, dim3(32, tile_warps), sizeof(column_tile), c.stream()>>>(a, fit);
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
  int const padded = (rows + panel_columns - 1) / panel_columns * panel_columns;
  index_t const n = index_t(blockIdx.x) * tile_outputs + lane;
  bool const inside = n < x.cols;
  load_triangle(t.triangle, f);
#pragma unroll 8
  for (int j = int(threadIdx.y); j < padded; j += Warps) t.x[j][lane] = inside && j < rows ? x(j, n) : 0.0f;
  wait_for_triangle();
  __syncthreads();
  substitute(t.triangle, t.x, padded);
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
