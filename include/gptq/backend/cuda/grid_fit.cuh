/// Fits the grids of one group for all outputs on the device: minimum and maximum, or the range with the least
/// Σ|q − x|^norm. A block of 32 × 8 threads serves 32 outputs; its warps share out rows, then candidates.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>
#include <gptq/core/grid.hpp>

#include <cstdint>

namespace gptq {
inline namespace v0 {
namespace detail {

/// x^exponent for x ≥ 0 by the device's approximate logarithm and power of two: relative error about 1e-6 · exponent.
__device__ inline float fast_power_device(float x, float exponent) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  y *= exponent;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(y));
  return y;
}

/// Shared memory of a fit.
struct fit_scratch {
  float low[8][32];
  float high[8][32];
  int best[32];  ///< the least error so far, as bits: errors are not negative, so that their order is the integers'
};

/// The grid of one output in each lane, the same in all warps. x(j) is value j of the lane's output, 0 for lanes beyond
/// the last; all threads of the block take part.
template <int Bits, bool Sym, class Values>
__device__ grid<float> fit_values(Values x, int rows, grid_options const& options, fit_scratch& s) {
  int const lane = int(threadIdx.x);
  int const warp = int(threadIdx.y);
  float low = 0;
  float high = 0;
  for (int j = warp; j < rows; j += 8) {
    float const v = x(j);
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  s.low[warp][lane] = low;
  s.high[warp][lane] = high;
  if (warp == 0) s.best[lane] = 0x7f800000;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < 8; ++w) {
    low = s.low[w][lane] < low ? s.low[w][lane] : low;
    high = s.high[w][lane] > high ? s.high[w][lane] : high;
  }
  complete_range<Sym>(low, high, options);
  auto result = range_grid<Bits, Sym>(low, high, options);
  __syncthreads();
  if (!(options.mse > 0)) return result;

  float best = bit_pun<float>(0x7f800000);
  int chosen = -1;
  int const candidates = int(options.mse_max_shrink * float(options.mse_steps));
  for (int i = warp; i < candidates; i += 8) {
    float const p = 1.0f - float(i) / float(options.mse_steps);
    auto const g = range_grid<Bits, Sym>(p * low, p * high, options);
    float const inverse = 1.0f / g.scale;  // a tie that this breaks the other way has the same error
    float const lowest = -g.zero;
    float const highest = float(max_code<Bits>) - g.zero;
    float error = 0;
    for (int j0 = 0; j0 < rows; j0 += 16) {
      float const limit = bit_pun<float>(*const_cast<int volatile*>(&s.best[lane]));
      if (!__any_sync(0xffffffffu, error <= limit)) break;  // no output can still win with this candidate
      int const end = j0 + 16 < rows ? j0 + 16 : rows;
#pragma unroll 4
      for (int j = j0; j < end; ++j) {
        float const v = x(j);
        float const steps = round_even(fminf(fmaxf(v * inverse, lowest), highest));
        error += fast_power_device(fabsf(fmaf(steps, g.scale, -v)), options.mse);
      }
    }
    if (error < best) {
      best = error;
      chosen = i;
      atomicMin(&s.best[lane], bit_pun<int>(error));
    }
  }
  s.low[warp][lane] = best;
  s.high[warp][lane] = bit_pun<float>(chosen);
  __syncthreads();
  best = bit_pun<float>(0x7f800000);
  chosen = -1;
#pragma unroll
  for (int w = 0; w < 8; ++w) {
    int const i = bit_pun<int>(s.high[w][lane]);
    float const e = s.low[w][lane];
    if (i >= 0 && (e < best || (e == best && i < chosen))) {
      best = e;
      chosen = i;
    }
  }
  __syncthreads();
  if (chosen < 0) return result;
  float const p = 1.0f - float(chosen) / float(options.mse_steps);
  return range_grid<Bits, Sym>(p * low, p * high, options);
}

template <int Bits, bool Sym>
__global__ void __launch_bounds__(256)
    fit_grid_kernel(device_view<float const> values, grid_options options, float* scales, std::uint8_t* zeros) {
  constexpr int kept = 128;
  __shared__ fit_scratch scratch;
  __shared__ float tile[kept][32];
  int const lane = int(threadIdx.x);
  index_t const n = index_t(blockIdx.x) * 32 + lane;
  bool const inside = n < values.cols;
  int const rows = int(values.rows);
  grid<float> g;
  if (rows <= kept) {
    for (int j = int(threadIdx.y); j < rows; j += 8) tile[j][lane] = inside ? values(j, n) : 0.0f;
    __syncthreads();
    g = fit_values<Bits, Sym>([&](int j) { return tile[j][lane]; }, rows, options, scratch);
  } else {
    g = fit_values<Bits, Sym>([&](int j) { return inside ? values(j, n) : 0.0f; }, rows, options, scratch);
  }
  if (threadIdx.y == 0 && inside) {
    scales[n] = g.scale;
    zeros[n] = static_cast<std::uint8_t>(g.zero);
  }
}

template <int Bits, bool Sym>
void fit_grid(cuda_context const& c, device_view<float const> values, grid_options const& options,
              device_view<float> scales, device_view<std::uint8_t> zeros) {
  if (values.cols == 0) return;
  fit_grid_kernel<Bits, Sym>
      <<<unsigned(pieces_of(values.cols, 32)), dim3(32, 8), 0, c.stream()>>>(values, options, scales.data, zeros.data);
  check_launch("fit_grid_kernel");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
