/// Gathers by a permutation, and the reflection that turns a Cholesky factor into the error-propagation matrix. All of them move
/// 32 × 32 tiles through shared memory, so that both sides are read and written along their rows.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>

namespace gptq {
inline namespace v0 {
namespace detail {

/// out(p, r) = scale·gram(π(K−1−p), π(K−1−r)) below the diagonal, `diagonal` reversed on it. In natural order a row of
/// `out` is a column of `gram`: threads run along p for the reads and along r for the writes.
template <int Warps>
__global__ void __launch_bounds__(256)
    gather_hessian_kernel(device_view<float const> gram, std::int32_t const* order, double scale, float const* diagonal,
                          device_view<float> out) {
  __shared__ float tile[32][33];
  index_t const n = gram.rows;
  index_t const first_row = index_t(blockIdx.y) * 32;
  index_t const first_col = index_t(blockIdx.x) * 32;
  if (first_col > first_row) return;
  index_t const p = first_row + threadIdx.x;
  for (index_t i = threadIdx.y; i < 32; i += Warps) {
    index_t const r = first_col + i;
    if (p < n && r < p) {
      index_t const a = order[n - 1 - p];
      index_t const b = order[n - 1 - r];
      tile[i][threadIdx.x] = static_cast<float>(scale * static_cast<double>(a > b ? gram(a, b) : gram(b, a)));
    }
  }
  __syncthreads();
  index_t const r = first_col + threadIdx.x;
  for (index_t i = threadIdx.y; i < 32; i += Warps) {
    index_t const row = first_row + i;
    if (row >= n || r > row) continue;
    out(row, r) = r == row ? diagonal[n - 1 - r] : tile[threadIdx.x][i];
  }
}

/// out(j, n) = live[π(j)] ? w(n, π(j)) : 0
template <class W>
__global__ void __launch_bounds__(256) gather_weights_kernel(device_view<W const> w, std::int32_t const* order,
                                                             std::uint8_t const* live, device_view<float> out) {
  __shared__ float tile[32][33];
  index_t const first_j = index_t(blockIdx.x) * 32;
  index_t const j = first_j + threadIdx.x;
  for (index_t first_n = index_t(blockIdx.y) * 32; first_n < w.rows; first_n += index_t(gridDim.y) * 32) {
    if (j < out.rows) {
      index_t const stored = order[j];
      bool const used = live[stored] != 0;
      for (index_t i = threadIdx.y; i < 32 && first_n + i < w.rows; i += 8)
        tile[i][threadIdx.x] = used ? to_float(w(first_n + i, stored)) : 0.0f;
    }
    __syncthreads();
    index_t const n = first_n + threadIdx.x;
    if (n < w.rows)
      for (index_t i = threadIdx.y; i < 32 && first_j + i < out.rows; i += 8)
        out(first_j + i, n) = tile[threadIdx.x][i];
    __syncthreads();
  }
}

/// The diagonal, its last element first.
template <class T>
__global__ void reversed_diagonal_kernel(device_view<T const> a, T* to) {
  index_t const i = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.rows) to[i] = a(a.rows - 1 - i, a.rows - 1 - i);
}

/// Element (r, c) of the lower triangle trades places with (n−1−c, n−1−r), each divided by the pivot of its new row.
/// Pairs are handled from the side nearer the top left, so a tile and its mirror image belong to one block alone.
template <int Warps>
__global__ void __launch_bounds__(256) reflect_kernel(device_view<float> a, float const* pivots) {
  __shared__ float here[32][33];
  __shared__ float there[32][33];
  index_t const n = a.rows;
  index_t const r0 = index_t(blockIdx.y) * 32;
  index_t const c0 = index_t(blockIdx.x) * 32;
  if (c0 > r0 || r0 + c0 > n - 1) return;
  auto const pair = [&](index_t r, index_t c) { return r < n && c < r && r + c <= n - 1; };
  for (index_t i = threadIdx.y; i < 32; i += Warps) {
    index_t const x = threadIdx.x;
    if (pair(r0 + i, c0 + x)) here[i][x] = a(r0 + i, c0 + x);
    if (pair(r0 + x, c0 + i)) there[i][x] = a(n - 1 - (c0 + i), n - 1 - (r0 + x));
  }
  __syncthreads();
  for (index_t i = threadIdx.y; i < 32; i += Warps) {
    index_t const x = threadIdx.x;
    if (pair(r0 + i, c0 + x)) a(r0 + i, c0 + x) = there[x][i] / pivots[r0 + i];
    if (pair(r0 + x, c0 + i) && r0 + x + c0 + i < n - 1)
      a(n - 1 - (c0 + i), n - 1 - (r0 + x)) = here[x][i] / pivots[n - 1 - (c0 + i)];
  }
}

struct unit_upper_element {
  device_view<float> a;
  __device__ void operator()(index_t r, index_t c) const {
    if (c >= r) a(r, c) = c == r ? 1.0f : 0.0f;
  }
};

inline void gather_hessian(cuda_context const& c, device_view<float const> gram, device_view<std::int32_t const> order,
                           double scale, device_view<float const> diagonal, device_view<float> out) {
  auto const tiles = unsigned(pieces_of(gram.rows, 32));
  if (tiles == 0) return;
  gather_hessian_kernel<8>
      <<<dim3(tiles, tiles), dim3(32, 8), 0, c.stream()>>>(gram, order.data, scale, diagonal.data, out);
  check_launch("gather_hessian_kernel");
}

template <class W>
void gather_weights(cuda_context const& c, device_view<W const> w, device_view<std::int32_t const> order,
                    device_view<std::uint8_t const> live, device_view<float> out) {
  if (out.rows == 0 || w.rows == 0) return;
  dim3 const grid(unsigned(pieces_of(out.rows, 32)), unsigned((std::min)(pieces_of(w.rows, 32), index_t(65535))));
  gather_weights_kernel<W><<<grid, dim3(32, 8), 0, c.stream()>>>(w, order.data, live.data, out);
  check_launch("gather_weights_kernel");
}

inline void propagation_from_cholesky(cuda_context const& c, device_view<float> a, device_view<float> pivots) {
  auto const tiles = unsigned(pieces_of(a.rows, 32));
  if (tiles == 0) return;
  reversed_diagonal_kernel<float><<<unsigned(pieces_of(a.rows, 256)), 256, 0, c.stream()>>>(a, pivots.data);
  check_launch("reversed_diagonal_kernel");
  reflect_kernel<8><<<dim3(tiles, tiles), dim3(32, 8), 0, c.stream()>>>(a, pivots.data);
  check_launch("reflect_kernel");
  elementwise(c, a.rows, a.cols, unit_upper_element{a});
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
