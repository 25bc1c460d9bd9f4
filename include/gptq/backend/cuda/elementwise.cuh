/// The small kernels: fill, copy, add, checks for NaN and Inf, squares. Outputs lie along the fast index everywhere.
#pragma once

#include <gptq/backend/cuda/context.cuh>
#include <gptq/core/float16.hpp>

#include <cstdint>
#include <type_traits>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Blocks for `pieces` pieces of work in a kernel that loops over them: enough to fill the device several times.
inline unsigned grid_for(index_t pieces) { return unsigned(pieces < 1 ? 1 : pieces > 4096 ? 4096 : pieces); }

inline index_t pieces_of(index_t n, index_t piece) { return (n + piece - 1) / piece; }

/// Calls f(row, column) for all elements, neighbouring columns in neighbouring threads.
template <class F>
__global__ void __launch_bounds__(256) elementwise_kernel(index_t rows, index_t cols, F f) {
  index_t const tiles = (cols + 255) / 256;
  for (index_t i = blockIdx.x; i < rows * tiles; i += gridDim.x) {
    index_t const r = i / tiles;
    index_t const c = (i - r * tiles) * 256 + threadIdx.x;
    if (c < cols) f(r, c);
  }
}

template <class T>
struct fill_element {
  device_view<T> x;
  T value;
  __device__ void operator()(index_t r, index_t c) const { x(r, c) = value; }
};

/// Column 0 of x, whatever its stride, as one row.
template <class T>
struct pack_column_element {
  device_view<T const> x;
  T* to;
  __device__ void operator()(index_t, index_t i) const { to[i] = x(i, 0); }
};

template <class T>
struct add_element {
  float alpha;
  device_view<T const> x;
  device_view<T> y;
  __device__ void operator()(index_t r, index_t c) const {
    y(r, c) = from_float<T>(to_float(y(r, c)) + alpha * to_float(x(r, c)));
  }
};

template <class From, class To>
struct convert_element {
  device_view<From const> x;
  device_view<To> y;
  __device__ void operator()(index_t r, index_t c) const {
    if constexpr (std::is_same_v<To, double> || std::is_same_v<From, double>)
      y(r, c) = static_cast<To>(x(r, c));
    else
      y(r, c) = from_float<To>(to_float(x(r, c)));
  }
};

template <class F>
void elementwise(cuda_context const& c, index_t rows, index_t cols, F f) {
  if (rows <= 0 || cols <= 0) return;
  elementwise_kernel<<<grid_for(rows * pieces_of(cols, 256)), 256, 0, c.stream()>>>(rows, cols, f);
  check_launch("elementwise");
}

template <class T>
void copy_matrix(cuda_context const& c, device_view<T const> from, device_view<T> to) {
  if (from.rows == 0 || from.cols == 0) return;
  std::size_t const width = std::size_t(from.cols) * sizeof(T);
  if (from.stride == from.cols && to.stride == to.cols)
    check(cudaMemcpyAsync(to.data, from.data, width * std::size_t(from.rows), cudaMemcpyDeviceToDevice, c.stream()),
          "cudaMemcpyAsync");
  else
    check(
        cudaMemcpy2DAsync(to.data, std::size_t(to.stride) * sizeof(T), from.data, std::size_t(from.stride) * sizeof(T),
                          width, std::size_t(from.rows), cudaMemcpyDeviceToDevice, c.stream()),
        "cudaMemcpy2DAsync");
}

/// The bits of a word that are all ones where the element in it (or one of two) is NaN or Inf.
template <class T>
struct exponent_bits {
  static constexpr std::uint32_t value = std::is_same_v<T, float16>    ? 0x7c00u
                                         : std::is_same_v<T, bfloat16> ? 0x7f80u
                                                                       : 0x7f800000u;
};

/// Sets *flag where x holds NaN or Inf. Rows of words that start at 16 bytes are read so, others element by element.
template <class T, bool Wide>
__global__ void __launch_bounds__(256) finite_kernel(device_view<T const> x, int* flag) {
  constexpr std::uint32_t mask = exponent_bits<T>::value;
  constexpr index_t per_load = Wide ? 16 / sizeof(T) : 1;
  index_t const loads = x.cols / per_load;
  bool bad = false;
  for (index_t r = blockIdx.y; r < x.rows; r += gridDim.y)
    for (index_t i = index_t(blockIdx.x) * 256 + threadIdx.x; i < loads; i += index_t(gridDim.x) * 256) {
      if constexpr (Wide) {
        uint4 const v = reinterpret_cast<uint4 const*>(x.row(r))[i];
        for (std::uint32_t word : {v.x, v.y, v.z, v.w}) {
          bad |= (word & mask) == mask;
          if constexpr (sizeof(T) == 2) bad |= (word >> 16 & mask) == mask;
        }
      } else if constexpr (sizeof(T) == 2) {
        bad |= (x(r, i).bits & mask) == mask;
      } else {
        bad |= (bit_pun<std::uint32_t>(x(r, i)) & mask) == mask;
      }
    }
  if (bad) *flag = 1;
}

template <class T>
bool all_finite(cuda_context const& c, device_view<T const> x) {
  if (x.rows == 0 || x.cols == 0) return true;
  constexpr index_t per_load = 16 / sizeof(T);
  if (x.stride == x.cols) {  // one long row, cut into equal ones where that is easy
    index_t const n = x.size();
    x = n % (per_load * 1024) == 0 ? device_view<T const>(x.data, n / (per_load * 1024), per_load * 1024) : x;
  }
  bool const wide =
      reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride % per_load == 0 && x.cols % per_load == 0;
  index_t const columns = pieces_of(wide ? x.cols / per_load : x.cols, 256);
  unsigned const bx = unsigned(columns < 16 ? columns : 16);
  dim3 const grid(bx, unsigned((std::min)(x.rows, index_t(4096 / bx))));
  c.flags()[0] = 0;
  if (wide)
    finite_kernel<T, true><<<grid, 256, 0, c.stream()>>>(x, c.device_flags());
  else
    finite_kernel<T, false><<<grid, 256, 0, c.stream()>>>(x, c.device_flags());
  check_launch("finite_kernel");
  c.synchronize();
  return c.flags()[0] == 0;
}

/// Adds up eight doubles of one output, one from each warp of a block of 32 × 8 threads; the sum is warp 0's.
template <class T>
__device__ T sum_over_warps(T value, T (*scratch)[32]) {
  scratch[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  T sum = 0;
  if (threadIdx.y == 0)
    for (int w = 0; w < 8; ++w) sum += scratch[w][threadIdx.x];
  __syncthreads();
  return sum;
}

template <int Warps>
__global__ void __launch_bounds__(256) squares_kernel(device_view<float const> y, float const* weights, double* sums) {
  static_assert(Warps == 8);
  __shared__ double scratch[Warps][32];
  index_t const n = index_t(blockIdx.x) * 32 + threadIdx.x;
  double sum = 0;
  if (n < y.cols)
    for (index_t j = threadIdx.y; j < y.rows; j += Warps) {
      auto const x = static_cast<double>(__fmul_rn(weights[j], y(j, n)));
      sum += x * x;
    }
  sum = sum_over_warps(sum, scratch);
  if (threadIdx.y == 0 && n < y.cols) sums[n] += sum;
}

inline void add_squares(cuda_context const& c, device_view<float const> y, device_view<float const> weights,
                        device_view<double> sums) {
  if (y.rows == 0 || y.cols == 0) return;
  squares_kernel<8><<<unsigned(pieces_of(y.cols, 32)), dim3(32, 8), 0, c.stream()>>>(y, weights.data, sums.data);
  check_launch("squares_kernel");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
