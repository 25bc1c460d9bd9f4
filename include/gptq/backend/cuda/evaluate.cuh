/// Numbers per token from logits, on the device: cross entropy, and the divergence of two models. Exponentials and sums
/// are in double, as on the host: what is left after cancellation may be 1e-5 and less.
#pragma once

#include <gptq/backend/cuda/forward_kernels.cuh>

#include <cstdint>

namespace gptq {
inline namespace v0 {
namespace detail {

/// The largest element of a row and the first place where it stands, in all threads of the block.
template <class T>
__device__ float largest(T const* row, index_t n, index_t& place, float* values, int* places) {
  float top = -3.4e38f;
  int at = 0x7fffffff;
  for (index_t c = threadIdx.x; c < n; c += 256) {
    float const v = to_float(row[c]);
    if (v > top) {
      top = v;
      at = int(c);
    }
  }
  float const best = reduce_block(top, values, max_of{});
  at = top == best ? at : 0x7fffffff;
  at = reduce_block(at, places, [](int a, int b) { return a < b ? a : b; });
  place = at;
  return best;
}

template <class T>
__global__ void __launch_bounds__(256)
    cross_entropy_kernel(device_view<T const> logits, std::int32_t const* targets, double* nll) {
  __shared__ float values[8];
  __shared__ int places[8];
  __shared__ double sums[8];
  T const* const row = logits.row(blockIdx.x);
  index_t place = 0;
  double const top = double(largest(row, logits.cols, place, values, places));
  double sum = 0;
  for (index_t c = threadIdx.x; c < logits.cols; c += 256) sum += exp(double(to_float(row[c])) - top);
  sum = reduce_block(sum, sums, sum_of{});
  if (threadIdx.x == 0) nll[blockIdx.x] = top + log(sum) - double(to_float(row[targets[blockIdx.x]]));
}

/// result [2 × rows]: the divergence, and whether the largest logits stand at the same place.
template <class T>
__global__ void __launch_bounds__(256)
    divergence_kernel(device_view<T const> reference, device_view<T const> logits, double* result) {
  __shared__ float values[8];
  __shared__ int places[8];
  __shared__ double sums[8];
  T const* const a = reference.row(blockIdx.x);
  T const* const b = logits.row(blockIdx.x);
  index_t place_a = 0;
  index_t place_b = 0;
  double const top_a = double(largest(a, reference.cols, place_a, values, places));
  double const top_b = double(largest(b, reference.cols, place_b, values, places));
  double sum_a = 0, sum_b = 0, shift = 0;
  for (index_t c = threadIdx.x; c < reference.cols; c += 256) {
    double const x = double(to_float(a[c]));
    double const y = double(to_float(b[c]));
    double const p = exp(x - top_a);
    sum_a += p;
    sum_b += exp(y - top_b);
    shift += p * (x - y);
  }
  sum_a = reduce_block(sum_a, sums, sum_of{});
  sum_b = reduce_block(sum_b, sums, sum_of{});
  shift = reduce_block(shift, sums, sum_of{});
  if (threadIdx.x == 0) {
    result[blockIdx.x] = shift / sum_a + (top_b + log(sum_b)) - (top_a + log(sum_a));
    result[gridDim.x + blockIdx.x] = place_a == place_b;
  }
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
