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

/// Has the libraries load what they load at the first product of a kind, a tenth of a second for each: for a thread beside
/// the first work. T is the type of weights and activations.
template <class T>
void load_products(int device) {
  check(cudaSetDevice(device), "cudaSetDevice");
  constexpr int n = 1024;
  constexpr auto type = blas_type<T>;
  cudaStream_t stream = nullptr;
  void* memory = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  auto const status = cudaMalloc(&memory, std::size_t(3 * n * n) * sizeof(float));
  if (status == cudaSuccess) {
    blas_lane const lane(stream, std::size_t(4) << 20);
    float const one = 1;
    float const zero = 0;
    auto* const x = static_cast<float*>(memory);
    float* const y = x + n * n;
    float* const z = y + n * n;
    cudaMemsetAsync(memory, 0, std::size_t(3 * n * n) * sizeof(float), stream);
    // A Gram matrix, a correction, a linear layer: in the order in which a run comes to them.
    cublasGemmEx(lane.get(), CUBLAS_OP_N, CUBLAS_OP_T, n, n, n, &one, x, type, n, y, type, n, &one, z, CUDA_R_32F, n,
                 CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    cublasSgemm(lane.get(), CUBLAS_OP_N, CUBLAS_OP_N, n, 128, 128, &one, x, n, y, n, &one, z, n);
    cublasGemmEx(lane.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, x, type, n, y, type, n, &zero, z, type, n,
                 CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    cudaStreamSynchronize(stream);
  }
  cudaFree(memory);
  cudaStreamDestroy(stream);
  cudaGetLastError();  // whoever needs the products says what fails
}

/// y = alpha·a·x + beta·y in fp32, all row-major.
inline void multiply_fp32(cublasHandle_t blas, float alpha, device_view<float const> a, device_view<float const> x,
                          float beta, device_view<float> y) {
  check(cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, int(y.cols), int(y.rows), int(a.cols), &alpha, x.data,
                    int(x.stride), a.data, int(a.stride), &beta, y.data, int(y.stride)),
        "cublasSgemm");
}

/// Splits x into high and low halves of bf16 for a product of depth 3k. Left factors give rows (high high low), right
/// ones stack (high; low; high): the product of both is high·high + high·low + low·high. Columns [4c, 4c + 4).
template <bool Left>
struct split_element {
  device_view<float const> x;
  device_view<bfloat16> parts;
  bool wide;  ///< four columns lie at a multiple of 16 bytes in x, of 8 bytes in parts
  __device__ void operator()(index_t r, index_t c) const {
    index_t const first = 4 * c;
    float v[4] = {};
    if (wide) {
      float4 const four = *reinterpret_cast<float4 const*>(x.row(r) + first);
      v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
      for (int i = 0; i < 4; ++i)
        if (first + i < x.cols) v[i] = x(r, first + i);
    }
    std::uint32_t high[2], low[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      auto const h = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      high[i] = bit_pun<std::uint32_t>(h);
      low[i] = bit_pun<std::uint32_t>(__floats2bfloat162_rn(v[2 * i] - __low2float(h), v[2 * i + 1] - __high2float(h)));
    }
    if constexpr (Left) {
      write(r, first, high);
      write(r, first + x.cols, high);
      write(r, first + 2 * x.cols, low);
    } else {
      write(r, first, high);
      write(r + x.rows, first, low);
      write(r + 2 * x.rows, first, high);
    }
  }

 private:
  __device__ void write(index_t r, index_t c, std::uint32_t const (&four)[2]) const {
    if (wide) {
      *reinterpret_cast<uint2*>(parts.row(r) + c) = {four[0], four[1]};
    } else {
      index_t const n = x.cols - (Left ? c % x.cols : c);
      for (int i = 0; i < 4 && i < n; ++i)
        parts(r, c + i).bits = static_cast<std::uint16_t>(four[i / 2] >> (16 * (i % 2)));
    }
  }
};

/// Splits all of x.
template <bool Left>
void split(cuda_context const& c, device_view<float const> x, device_view<bfloat16> parts) {
  bool const wide = x.cols % 4 == 0 && x.stride % 4 == 0 && parts.stride % 4 == 0 &&
                    reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 &&
                    reinterpret_cast<std::uintptr_t>(parts.data) % 8 == 0;
  elementwise(c, x.rows, pieces_of(x.cols, 4), split_element<Left>{x, parts, wide});
}

/// y += alpha·a·x with 16 bits of each factor and fp32 sums; not for factors near the ends of the range of bf16.
inline void multiply_bf16x3(cuda_context const& c, float alpha, device_view<float const> a, device_view<float const> x,
                            device_view<float> y) {
  auto const even = [](index_t n) { return (n + 7) / 8 * 8; };  // rows that tensor cores like
  auto left = c.make<bfloat16>(a.rows, even(3 * a.cols));
  auto right = c.make<bfloat16>(3 * x.rows, even(x.cols));
  split<true>(c, a, left.view());
  split<false>(c, x, right.view());
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

/// sums[n] += Σ_j (pivots_j·(f·x)_jn)², f [in × in] lower triangular, by blocks of so many rows. What products of bf16
/// halves are made for here are sums of many squares, in which the roundings of single factors average out: one product of
/// bf16 does, and x is converted once.
inline void add_squares_of_product(cuda_context const& c, device_view<float const> f, device_view<float const> x,
                                   device_view<float const> pivots, index_t block, device_view<double> sums) {
  bool const narrow = c.options().products == product_precision::bf16x3 && x.rows >= 512 && x.cols >= 512;
  auto const even = [](index_t n) { return (n + 7) / 8 * 8; };
  block = (std::min)(block, x.rows);
  auto y_storage = c.make<float>(block, x.cols);
  auto right = c.make<bfloat16>(narrow ? x.rows : 0, even(x.cols));
  auto left = c.make<bfloat16>(narrow ? block : 0, even(x.rows));
  auto const convert = [&](device_view<float const> from, device_view<bfloat16> to) {
    elementwise(c, from.rows, from.cols, convert_element<float, bfloat16>{from, to});
  };
  if (narrow) convert(x, right.view());
  for (index_t p = 0; p < x.rows; p += block) {
    index_t const rows = (std::min)(block, x.rows - p);
    auto const panel = f.block(p, 0, rows, p + rows);
    auto const y = y_storage.view().row_range(0, rows);
    if (narrow) {
      float const one = 1;
      float const zero = 0;
      convert(panel, left.view());
      check(cublasGemmEx(c.blas(), CUBLAS_OP_N, CUBLAS_OP_N, int(y.cols), int(rows), int(panel.cols), &one,
                         right.data(), CUDA_R_16BF, int(right.cols()), left.data(), CUDA_R_16BF, int(left.cols()),
                         &zero, y.data, CUDA_R_32F, int(y.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
    } else {
      multiply_fp32(c.blas(), 1.0f, panel, x.row_range(0, p + rows), 0.0f, y);
    }
    add_squares(c, y, pivots.col_range(p, rows), sums);
  }
}

/// Panels of columns for a triangle of edge n: enough that little is computed twice, not so many that each is small.
struct gram_plan {
  int panels = 8;
  int lanes = 1;
};
inline gram_plan plan_gram(index_t n) {
  return n >= 8192 ? gram_plan{16, 1} : n >= 4000 ? gram_plan{4, 1} : n >= 1536 ? gram_plan{5, 4} : gram_plan{1, 1};
}

/// Lower triangle of gram += xᵀ·x, or if `fresh` = xᵀ·x, by panels of rows; 16-bit inputs meet fp32 sums, fp32 inputs stay in fp32 throughout.
/// (The last rows of a panel get a little more than their triangle: what lies above the diagonal is unspecified.)
template <class T>
void add_gram(cuda_context& c, device_view<T const> x, device_view<float> gram, gram_plan plan, bool fresh = false) {
  index_t const n = x.cols;
  if (n == 0 || x.rows == 0) return;
  index_t const width = pieces_of(pieces_of(n, plan.panels), 128) * 128;
  int const panels = int(pieces_of(n, width));
  c.concurrently(panels, plan.lanes, [&](cublasHandle_t blas, int i) {
    index_t const first = (panels - 1 - i) * width;  // the largest first
    index_t const rows = (std::min)(width, n - first);
    float const one = 1;
    float const keep = fresh ? 0.0f : 1.0f;
    check(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_T, int(first + rows), int(rows), int(x.rows), &one, x.data,
                       blas_type<T>, int(x.stride), x.data + first, blas_type<T>, int(x.stride), &keep, gram.row(first),
                       CUDA_R_32F, int(gram.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  });
}

template <class T>
void add_gram(cuda_context& c, device_view<T const> x, device_view<float> gram, bool fresh = false) {
  add_gram(c, x, gram, plan_gram(x.cols), fresh);
}

/// Element (p, i) of the packed form [(n + 1) / 2 × (n + 1)] of a lower triangle of n rows: row p holds row n − 1 − p of
/// the triangle and behind it row p; the middle row of an odd n is by itself.
struct packed_position {
  index_t row, col;
  bool used;
  __device__ packed_position(index_t n, index_t p, index_t i)
      : row(i < n - p ? n - 1 - p : p), col(i < n - p ? i : i - (n - p)), used(i < n - p || p != n - 1 - p) {}
};

/// Packs the lower triangle of gram, or with Add adds the packed one to it. Bound by memory: each thread has four loads
/// under way.
template <bool Add>
__global__ void __launch_bounds__(256) packed_kernel(device_view<float> gram, device_view<float> packed) {
  constexpr int width = 4;
  index_t const first = index_t(blockIdx.x) * (256 * width) + threadIdx.x;
  for (index_t p = blockIdx.y; p < packed.rows; p += gridDim.y) {
    float values[width];
#pragma unroll
    for (int k = 0; k < width; ++k) {
      index_t const i = first + 256 * k;
      packed_position const at(gram.rows, p, i);
      values[k] = 0.0f;
      if (i >= packed.cols || !at.used) continue;
      values[k] = Add ? gram(at.row, at.col) + packed(p, i) : gram(at.row, at.col);
    }
#pragma unroll
    for (int k = 0; k < width; ++k) {
      index_t const i = first + 256 * k;
      if (i >= packed.cols) continue;
      packed_position const at(gram.rows, p, i);
      if (!Add)
        packed(p, i) = values[k];
      else if (at.used)
        gram(at.row, at.col) = values[k];
    }
  }
}

template <bool Add>
void packed_triangle(cuda_context const& c, device_view<float> gram, device_view<float> packed) {
  if (packed.rows == 0) return;
  dim3 const grid(unsigned(pieces_of(packed.cols, 1024)), unsigned((std::min)(packed.rows, index_t(65535))));
  packed_kernel<Add><<<grid, 256, 0, c.stream()>>>(gram, packed);
  check_launch("packed_kernel");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
