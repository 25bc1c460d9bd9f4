/// Matrix products for row-major views, through cuBLAS. To the library, which counts columns first, a row-major matrix
/// is its own transpose: y = a·x becomes yᵀ = xᵀ·aᵀ.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>
#include <gptq/core/float16.hpp>

#include <cuda_bf16.h>

#include <algorithm>

namespace gptq {
inline namespace v0 {
namespace detail {

template <class T>
inline constexpr cudaDataType_t blas_type = std::is_same_v<T, float>     ? CUDA_R_32F
                                            : std::is_same_v<T, float16> ? CUDA_R_16F
                                                                         : CUDA_R_16BF;

/// y = alpha·a·x + beta·y in fp32, all row-major.
inline void multiply_fp32(cublasHandle_t blas, float alpha, device_view<float const> a, device_view<float const> x,
                          float beta, device_view<float> y) {
  check(cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, int(y.cols), int(y.rows), int(a.cols), &alpha, x.data,
                    int(x.stride), a.data, int(a.stride), &beta, y.data, int(y.stride)),
        "cublasSgemm");
}

/// Splits x into high and low halves of bf16 for a product of depth 3k. Left factors give rows (high high low), right
/// ones stack (high; low; high): the product of both is high·high + high·low + low·high.
template <bool Left>
struct split_element {
  device_view<float const> x;
  device_view<bfloat16> parts;
  __device__ void operator()(index_t r, index_t c) const {
    float const v = x(r, c);
    auto const high = __float2bfloat16_rn(v);
    auto const low = bit_pun<bfloat16>(__float2bfloat16_rn(v - __bfloat162float(high)));
    auto const top = bit_pun<bfloat16>(high);
    if constexpr (Left) {
      parts(r, c) = top;
      parts(r, c + x.cols) = top;
      parts(r, c + 2 * x.cols) = low;
    } else {
      parts(r, c) = top;
      parts(r + x.rows, c) = low;
      parts(r + 2 * x.rows, c) = top;
    }
  }
};

/// y += alpha·a·x with 16 bits of each factor and fp32 sums; not for factors near the ends of the range of bf16.
inline void multiply_bf16x3(cuda_context const& c, float alpha, device_view<float const> a, device_view<float const> x,
                            device_view<float> y) {
  auto const even = [](index_t n) { return (n + 7) / 8 * 8; };  // rows that tensor cores like
  auto left = c.make<bfloat16>(a.rows, even(3 * a.cols));
  auto right = c.make<bfloat16>(3 * x.rows, even(x.cols));
  elementwise(c, a.rows, a.cols, split_element<true>{a, left.view()});
  elementwise(c, x.rows, x.cols, split_element<false>{x, right.view()});
  float const beta = 1;
  check(cublasGemmEx(c.blas(), CUBLAS_OP_N, CUBLAS_OP_N, int(y.cols), int(y.rows), int(3 * a.cols), &alpha,
                     right.data(), CUDA_R_16BF, int(right.cols()), left.data(), CUDA_R_16BF, int(left.cols()), &beta,
                     y.data, CUDA_R_32F, int(y.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

/// y += alpha·a·x. Products below the size where splitting pays stay in fp32.
inline void multiply_add(cuda_context const& c, float alpha, device_view<float const> a, device_view<float const> x,
                         device_view<float> y) {
  if (y.rows == 0 || y.cols == 0 || a.cols == 0) return;
  bool const large = y.rows >= 256 && y.cols >= 512 && a.cols >= 512;
  if (large && c.options().products == product_precision::bf16x3)
    multiply_bf16x3(c, alpha, a, x, y);
  else
    multiply_fp32(c.blas(), alpha, a, x, 1.0f, y);
}

/// Panels of columns for a triangle of edge n: enough that little is computed twice, not so many that each is small.
struct gram_plan {
  int panels = 8;
  int lanes = 1;
};
inline gram_plan plan_gram(index_t n) {
  return n >= 8192 ? gram_plan{16, 1} : n >= 4000 ? gram_plan{4, 1} : n >= 1536 ? gram_plan{5, 4} : gram_plan{1, 1};
}

/// Lower triangle of gram += xᵀ·x by panels of rows; 16-bit inputs meet fp32 sums, fp32 inputs stay in fp32 throughout.
/// (The last rows of a panel get a little more than their triangle: what lies above the diagonal is unspecified.)
template <class T>
void add_gram(cuda_context& c, device_view<T const> x, device_view<float> gram, gram_plan plan) {
  index_t const n = x.cols;
  if (n == 0 || x.rows == 0) return;
  index_t const width = pieces_of(pieces_of(n, plan.panels), 128) * 128;
  int const panels = int(pieces_of(n, width));
  c.concurrently(panels, plan.lanes, [&](cublasHandle_t blas, int i) {
    index_t const first = (panels - 1 - i) * width;  // the largest first
    index_t const rows = (std::min)(width, n - first);
    float const one = 1;
    check(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_T, int(first + rows), int(rows), int(x.rows), &one, x.data,
                       blas_type<T>, int(x.stride), x.data + first, blas_type<T>, int(x.stride), &one, gram.row(first),
                       CUDA_R_32F, int(gram.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  });
}

template <class T>
void add_gram(cuda_context& c, device_view<T const> x, device_view<float> gram) {
  add_gram(c, x, gram, plan_gram(x.cols));
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
