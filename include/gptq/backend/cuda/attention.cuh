/// Causal attention on the device: one kernel for the heads and types that it fits; for others, tiles of queries of all
/// heads of several samples by two batched products of cuBLAS with a masked softmax between. The scores of a tile are all
/// that is ever in memory.
#pragma once

#include <gptq/backend/cuda/forward_kernels.cuh>
#include <gptq/backend/cuda/fused_attention.cuh>
#include <gptq/backend/cuda/products.cuh>

#include <algorithm>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Where the matrices of a batch lie: sample i / heads, head i % heads.
template <class T>
struct attention_operands {
  device_view<T const> q, k, v;
  device_view<T> y;
  attention_shape shape;
  index_t query, key;           ///< first row of the first sample's tile
  index_t queries_of, keys_of;  ///< rows of one sample
  float* scores;
  T* probabilities;
  index_t scores_of;  ///< elements of one matrix of scores
};

/// pointers [6 × batch]: k, q, scores, v, probabilities, y.
template <class T>
__global__ void attention_pointers_kernel(attention_operands<T> a, index_t batch, void const** pointers) {
  index_t const i = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= batch) return;
  index_t const sample = i / a.shape.heads;
  index_t const h = i - sample * a.shape.heads;
  index_t const kv = h / (a.shape.heads / a.shape.kv_heads);
  index_t const query = a.query + sample * a.queries_of;
  index_t const key = a.key + sample * a.keys_of;
  pointers[i] = a.k.row(key) + a.shape.key.first + kv * a.shape.key.stride;
  pointers[batch + i] = a.q.row(query) + a.shape.query.first + h * a.shape.query.stride;
  pointers[2 * batch + i] = a.scores + i * a.scores_of;
  pointers[3 * batch + i] = a.v.row(key) + a.shape.value.first + kv * a.shape.value.stride;
  pointers[4 * batch + i] = a.probabilities + i * a.scores_of;
  pointers[5 * batch + i] = a.y.row(query) + h * a.shape.head_dim;
}

template <class T>
void attention(cuda_context& c, device_view<T const> q, device_view<T const> k, device_view<T const> v,
               sequence_bounds bounds, attention_shape const& shape, device_view<T> y) {
  if constexpr (sizeof(T) == 2)
    if (fits_fused_attention(q, k, v, shape, y)) return fused_attention(c, q, k, v, bounds, shape, y);
  constexpr index_t tile = 128;
  constexpr index_t most_scores = index_t(1) << 26;  // elements: 256 MiB of scores
  std::size_t const samples = bounds.queries.empty() ? 0 : bounds.queries.size() - 1;
  auto const length = [](std::span<index_t const> b, std::size_t s) { return b[s + 1] - b[s]; };
  device_matrix<float> scores;
  device_matrix<T> probabilities;
  device_matrix<void const*> pointers;
  for (std::size_t s = 0; s < samples;) {
    index_t const nq = length(bounds.queries, s);
    index_t const nk = length(bounds.keys, s);
    if (nq == 0) {
      ++s;
      continue;
    }
    index_t const row = (nk + 7) / 8 * 8;
    index_t const rows = (std::min)(tile, nq);
    index_t const at_once = (std::max)(index_t(1), most_scores / ((std::max)(rows, index_t(1)) * row * shape.heads));
    std::size_t end = s + 1;
    while (end < samples && index_t(end - s) < at_once && length(bounds.queries, end) == nq &&
           length(bounds.keys, end) == nk)
      ++end;
    index_t const batch = index_t(end - s) * shape.heads;
    if (scores.cols() < batch * rows * row) {
      scores = {};
      probabilities = {};
      scores = c.make<float>(1, batch * rows * row);
      if (!std::is_same_v<T, float>) probabilities = c.make<T>(1, batch * rows * row);
    }
    if (pointers.cols() < batch) pointers = c.make<void const*>(6, batch);
    for (index_t i = 0; i < nq; i += tile) {
      index_t const queries = (std::min)(tile, nq - i);
      index_t const position = nk - nq + i;
      index_t const first = shape.window > 0 ? (std::max)(index_t(0), position - shape.window + 1) : 0;
      index_t const keys = position + queries - first;
      index_t const stride = (keys + 7) / 8 * 8;
      T* const p = std::is_same_v<T, float> ? reinterpret_cast<T*>(scores.data()) : probabilities.data();
      attention_pointers_kernel<T><<<unsigned(pieces_of(batch, 128)), 128, 0, c.stream()>>>(
          {q, k, v, y, shape, bounds.queries[s] + i, bounds.keys[s] + first, nq, nk, scores.data(), p,
           queries * stride},
          batch, pointers.data());
      check_launch("attention_pointers_kernel");
      void const** const at = pointers.data();
      auto const to = [&](index_t which) { return const_cast<void* const*>(at + which * batch); };
      float const one = 1;
      float const zero = 0;
      check(cublasGemmBatchedEx(c.blas(), CUBLAS_OP_T, CUBLAS_OP_N, int(keys), int(queries), int(shape.head_dim),
                                &shape.scale, to(0), blas_type<T>, int(k.stride), to(1), blas_type<T>, int(q.stride),
                                &zero, to(2), CUDA_R_32F, int(stride), int(batch), CUBLAS_COMPUTE_32F,
                                CUBLAS_GEMM_DEFAULT),
            "cublasGemmBatchedEx");
      masked_softmax_kernel<T><<<unsigned(batch * queries), 256, 0, c.stream()>>>(
          {batch, queries, keys, stride, position - first, shape.window, shape.softcap}, scores.data(), p);
      check_launch("masked_softmax_kernel");
      check(cublasGemmBatchedEx(c.blas(), CUBLAS_OP_N, CUBLAS_OP_N, int(shape.head_dim), int(queries), int(keys), &one,
                                to(3), blas_type<T>, int(v.stride), to(4), blas_type<T>, int(stride), &zero, to(5),
                                blas_type<T>, int(y.stride), int(batch), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmBatchedEx");
    }
    s = end;
  }
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
