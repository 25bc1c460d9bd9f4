/// The verbs of refining_backend on the device: a product or an elementwise kernel each.
#pragma once

#include <gptq/backend/cuda/products.cuh>
#include <gptq/core/grid.hpp>

#include <cstdint>

namespace gptq {
inline namespace v0 {
namespace detail {

struct gather_row_element {
  device_view<float const> x;
  std::int32_t const* order;
  device_view<float> out;
  __device__ void operator()(index_t r, index_t c) const { out(r, c) = x(order[r], c); }
};

struct scale_row_element {
  float const* weights;
  device_view<float> x;
  __device__ void operator()(index_t r, index_t c) const { x(r, c) *= weights[r]; }
};

struct gather_normalized_element {
  device_view<float const> gram;
  std::int32_t const* order;
  double scale;
  float const* divisors;
  device_view<float> out;
  __device__ void operator()(index_t r, index_t c) const {
    index_t const a = order[r], b = order[c];
    double const value = static_cast<double>(a > b ? gram(a, b) : gram(b, a));
    out(r, c) = r == c ? 1.0f : static_cast<float>(scale / double(divisors[r]) * value);
  }
};

struct split_block_element {
  device_view<float> a;
  device_view<float> lower;
  __device__ void operator()(index_t r, index_t c) const {
    index_t const first = r - r % lower.cols;
    bool const moves = c <= r - first;
    lower(r, c) = moves ? a(r, first + c) : 0.0f;
    if (moves) a(r, first + c) = 0.0f;
  }
};

struct add_dequantized_element {
  float alpha;
  device_view<std::uint8_t const> codes;
  device_view<std::uint8_t const> zeros;
  device_view<float const> scales;
  std::int32_t const* groups;
  std::int32_t const* order;
  device_view<float> y;
  __device__ void operator()(index_t j, index_t n) const {
    index_t const g = groups[j];
    auto const steps = static_cast<float>(int(codes(order[j], n)) - int(zeros(g, n)));
    float const value = scales.data ? __fmul_rn(scales(g, n), steps) : steps;
    y(j, n) = __fadd_rn(y(j, n), __fmul_rn(alpha, value));
  }
};

struct reestimate_scale_element {
  device_view<double const> gradient;
  device_view<double const> curvature;
  bool round;
  device_view<float> scales;
  __device__ void operator()(index_t, index_t n) const {
    scales(0, n) = reestimated_scale(scales(0, n), gradient(0, n), curvature(0, n), round);
  }
};

template <int Warps>
__global__ void __launch_bounds__(256)
    products_kernel(device_view<float const> x, device_view<float const> y, float const* weights, double* sums) {
  __shared__ double scratch[Warps][32];
  index_t const n = index_t(blockIdx.x) * 32 + threadIdx.x;
  double sum = 0;
  if (n < y.cols)
    for (index_t j = threadIdx.y; j < y.rows; j += Warps) sum += double(weights[j]) * double(x(j, n)) * double(y(j, n));
  sum = sum_over_warps(sum, scratch);
  if (threadIdx.y == 0 && n < y.cols) sums[n] += sum;
}

inline void add_products(cuda_context const& c, device_view<float const> x, device_view<float const> y,
                         device_view<float const> weights, device_view<double> sums) {
  if (y.rows == 0 || y.cols == 0) return;
  products_kernel<8><<<unsigned(pieces_of(y.cols, 32)), dim3(32, 8), 0, c.stream()>>>(x, y, weights.data, sums.data);
  check_launch("products_kernel");
}

/// out += xᵀ·y; 16-bit inputs meet fp32 sums, fp32 inputs stay in fp32 throughout.
template <class T>
void add_cross(cuda_context const& c, device_view<T const> x, device_view<T const> y, device_view<float> out) {
  if (x.rows == 0 || out.rows == 0 || out.cols == 0) return;
  float const one = 1;
  check(cublasGemmEx(c.blas(), CUBLAS_OP_N, CUBLAS_OP_T, int(y.cols), int(x.cols), int(x.rows), &one, y.data,
                     blas_type<T>, int(y.stride), x.data, blas_type<T>, int(x.stride), &one, out.data, CUDA_R_32F,
                     int(out.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

/// y += alpha·aᵀ·x in fp32.
inline void multiply_add_transposed(cuda_context const& c, float alpha, device_view<float const> a,
                                    device_view<float const> x, device_view<float> y) {
  if (y.rows == 0 || y.cols == 0 || a.rows == 0) return;
  float const one = 1;
  check(cublasSgemm(c.blas(), CUBLAS_OP_N, CUBLAS_OP_T, int(y.cols), int(y.rows), int(a.rows), &alpha, x.data,
                    int(x.stride), a.data, int(a.stride), &one, y.data, int(y.stride)),
        "cublasSgemm");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
