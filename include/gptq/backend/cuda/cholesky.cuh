/// Cholesky on the device, a = L·Lᵀ in the lower triangle, through cuSOLVER. Row-major lower is the library's upper
/// triangle, in which it is slower by a quarter to two thirds: so the matrix is mirrored, and its factor mirrored back.
#pragma once

#include <gptq/backend/cuda/products.cuh>
#include <gptq/core/quantize_backend.hpp>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Sets *flag where a pivot is not positive and finite, or the library reports a failure.
template <class T>
__global__ void pivots_kernel(device_view<T const> a, int const* info, int* flag) {
  index_t const i = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i == 0 && *info != 0) *flag = 1;
  if (i < a.rows && !(a(i, i) > T(0) && a(i, i) < T(1) / T(0))) *flag = 1;
}

/// One triangle becomes the mirror image of the other: Down copies what is above the diagonal to below it.
template <class T, bool Down>
__global__ void __launch_bounds__(256) mirror_kernel(device_view<T> a) {
  __shared__ T tile[32][33];
  index_t const n = a.rows;
  index_t const r0 = index_t(blockIdx.y) * 32;
  index_t const c0 = index_t(blockIdx.x) * 32;
  if (c0 > r0) return;  // (r0, c0) below or on the diagonal
  index_t const from_row = Down ? c0 : r0;
  index_t const from_col = Down ? r0 : c0;
  index_t const x = threadIdx.x;
  for (index_t i = threadIdx.y; i < 32; i += 8)
    if (from_row + i < n && from_col + x < n) tile[i][x] = a(from_row + i, from_col + x);
  __syncthreads();
  for (index_t i = threadIdx.y; i < 32; i += 8) {
    index_t const r = from_col + i;
    index_t const c = from_row + x;
    if (r < n && c < n && (Down ? c < r : c > r)) a(r, c) = tile[x][i];
  }
}

template <class T, bool Down>
void mirror(cuda_context const& c, device_view<T> a) {
  auto const tiles = unsigned(pieces_of(a.rows, 32));
  mirror_kernel<T, Down><<<dim3(tiles, tiles), dim3(32, 8), 0, c.stream()>>>(a);
  check_launch("mirror_kernel");
}

/// False if a pivot is not positive and finite.
template <class T>
bool potrf(cuda_context& c, device_view<T> a) {
  constexpr auto triangle = CUBLAS_FILL_MODE_LOWER;
  mirror<T, false>(c, a);
  constexpr auto type = std::is_same_v<T, double> ? CUDA_R_64F : CUDA_R_32F;
  std::size_t device_bytes = 0;
  std::size_t host_bytes = 0;
  check(cusolverDnXpotrf_bufferSize(c.solver(), c.solver_params(), triangle, a.rows, type, a.data, a.stride, type,
                                    &device_bytes, &host_bytes),
        "cusolverDnXpotrf_bufferSize");
  auto workspace = c.make<std::uint8_t>(1, index_t(device_bytes) + 256);
  matrix<std::uint8_t> host_workspace(1, index_t(host_bytes));
  auto info = c.make<int>(1, 1);
  check(cusolverDnXpotrf(c.solver(), c.solver_params(), triangle, a.rows, type, a.data, a.stride, type,
                         workspace.data(), device_bytes, host_workspace.data(), host_bytes, info.data()),
        "cusolverDnXpotrf");
  mirror<T, true>(c, a);
  c.flags()[0] = 0;
  pivots_kernel<T><<<unsigned(pieces_of(a.rows, 256)), 256, 0, c.stream()>>>(a, info.data(), c.device_flags());
  check_launch("pivots_kernel");
  c.synchronize();
  return c.flags()[0] == 0;
}

inline bool cholesky(cuda_context& c, device_view<float> a, precision p) {
  if (a.rows == 0) return true;
  if (p == precision::native) return potrf<float>(c, a);
  auto wide = c.make<double>(a.rows, a.cols);
  elementwise(c, a.rows, a.cols, convert_element<float, double>{a, wide.view()});
  if (!potrf<double>(c, wide)) return false;
  elementwise(c, a.rows, a.cols, convert_element<double, float>{wide.view(), a});
  return true;
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
