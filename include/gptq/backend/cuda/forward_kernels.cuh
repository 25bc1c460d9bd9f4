/// The small kernels of a decoder: embedding, norm, rotation, gated activation, softmax of attention scores. Elements
/// are T, arithmetic is fp32.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>
#include <gptq/core/model_backend.hpp>

#include <cstdint>

namespace gptq {
inline namespace v0 {
namespace detail {

template <class T>
struct embed_element {
  std::int32_t const* ids;
  device_view<T const> table;
  float scale;
  device_view<T> y;
  __device__ void operator()(index_t t, index_t c) const {
    y(t, c) = scale == 1.0f ? table(ids[t], c) : from_float<T>(scale * to_float(table(ids[t], c)));
  }
};

template <class T>
struct bias_element {
  T const* bias;
  bool add;
  device_view<T> y;
  __device__ void operator()(index_t t, index_t c) const {
    y(t, c) = add ? from_float<T>(to_float(y(t, c)) + to_float(bias[c])) : bias[c];
  }
};

/// Columns [8c, 8c + 8): in 16-bit types one access of 16 bytes each, where `wide` says that they lie so.
template <class T>
struct gate_element {
  activation_function f;
  bool wide;
  device_view<T const> gate, up;
  device_view<T> y;

  static __device__ float activation(activation_function f, float g) {
    switch (f) {
      case activation_function::silu: return g / (1.0f + expf(-g));
      case activation_function::gelu_tanh:
        return 0.5f * g * (1.0f + tanhf(0.7978845608028654f * (g + 0.044715f * g * g * g)));
      default: return 0.5f * g * erfcf(-0.7071067811865476f * g);
    }
  }
  __device__ void operator()(index_t t, index_t c) const {
    struct alignas(8 * sizeof(T) < 16 ? 8 * sizeof(T) : 16) eight {
      T values[8];
    };
    index_t const first = 8 * c;
    if (wide) {
      auto const g = *reinterpret_cast<eight const*>(gate.row(t) + first);
      auto const u = *reinterpret_cast<eight const*>(up.row(t) + first);
      eight result;
#pragma unroll
      for (int i = 0; i < 8; ++i)
        result.values[i] = from_float<T>(activation(f, to_float(g.values[i])) * to_float(u.values[i]));
      *reinterpret_cast<eight*>(y.row(t) + first) = result;
    } else {
      for (index_t i = first; i < first + 8 && i < y.cols; ++i)
        y(t, i) = from_float<T>(activation(f, to_float(gate(t, i))) * to_float(up(t, i)));
    }
  }
};

/// Whether rows of x can be read 8 elements at a time.
template <class T>
bool in_eights(device_view<T> x) {
  return x.cols % 8 == 0 && x.stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
}

template <class T>
struct softcap_element {
  float cap;
  device_view<T> y;
  __device__ void operator()(index_t t, index_t c) const {
    y(t, c) = from_float<T>(cap * tanhf(to_float(y(t, c)) / cap));
  }
};

/// Element c counts heads and pairs: pair i of head h is c = h·half + i.
template <class T>
struct rotate_element {
  device_view<T> x;
  head_layout layout;
  device_view<float const> cosines, sines;
  std::int32_t const* positions;
  __device__ void operator()(index_t t, index_t c) const {
    index_t const half = cosines.cols;
    index_t const h = c / half;
    index_t const i = c - h * half;
    float const cosine = cosines(positions[t], i);
    float const sine = sines(positions[t], i);
    T* const lower = x.row(t) + layout.first + h * layout.stride + i;
    T* const upper = lower + half;
    float const a = to_float(*lower);
    float const b = to_float(*upper);
    *lower = from_float<T>(cosine * a - sine * b);
    *upper = from_float<T>(cosine * b + sine * a);
  }
};

/// The sum over a block of 256 threads, in all of them.
template <class Real, class Combine>
__device__ Real reduce_block(Real value, Real* scratch, Combine combine) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[0];
#pragma unroll
  for (int w = 1; w < 8; ++w) value = combine(value, scratch[w]);
  return value;
}

struct sum_of {
  template <class Real>
  __device__ Real operator()(Real a, Real b) const {
    return a + b;
  }
};
struct max_of {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// One block for each row. y may be x.
template <class T>
__global__ void __launch_bounds__(256)
    rms_norm_kernel(device_view<T const> x, T const* weight, float eps, float offset, device_view<T> y) {
  __shared__ float scratch[8];
  for (index_t t = blockIdx.x; t < x.rows; t += gridDim.x) {
    float sum = 0;
    for (index_t c = threadIdx.x; c < x.cols; c += 256) {
      float const v = to_float(x(t, c));
      sum = fmaf(v, v, sum);
    }
    sum = reduce_block(sum, scratch, sum_of{});
    float const inverse = 1.0f / sqrtf(sum / float(x.cols) + eps);
    for (index_t c = threadIdx.x; c < x.cols; c += 256)
      y(t, c) = from_float<T>(to_float(x(t, c)) * inverse * (to_float(weight[c]) + offset));
  }
}

/// One warp for each head of each token, in place.
template <class T>
__global__ void __launch_bounds__(256) norm_heads_kernel(device_view<T> x, head_layout layout, index_t heads,
                                                         T const* weight, index_t dim, float eps, float offset) {
  int const lane = threadIdx.x % 32;
  for (index_t i = index_t(blockIdx.x) * 8 + threadIdx.x / 32; i < x.rows * heads; i += index_t(gridDim.x) * 8) {
    T* const head = x.row(i / heads) + layout.first + i % heads * layout.stride;
    float sum = 0;
    for (index_t c = lane; c < dim; c += 32) {
      float const v = to_float(head[c]);
      sum = fmaf(v, v, sum);
    }
#pragma unroll
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    float const inverse = 1.0f / sqrtf(sum / float(dim) + eps);
    for (index_t c = lane; c < dim; c += 32)
      head[c] = from_float<T>(to_float(head[c]) * inverse * (to_float(weight[c]) + offset));
  }
}

/// What one tile of attention scores is: `batch` matrices of queries × keys, one for each head of some samples.
struct score_tile {
  index_t batch, queries, keys, stride;  ///< stride from one query to the next
  index_t diagonal;                      ///< the key, counted from the first of the tile, at which query 0 stands
  index_t window;
  float softcap;
};

/// Scores → probabilities, 0 where masked. One block for each query. P may lie where the scores are if T is float.
template <class T>
__global__ void __launch_bounds__(256) masked_softmax_kernel(score_tile s, float* scores, T* probabilities) {
  __shared__ float scratch[8];
  index_t const row = blockIdx.x;
  index_t const last = s.diagonal + row % s.queries;
  index_t const first = s.window > 0 && last - s.window + 1 > 0 ? last - s.window + 1 : 0;
  float* const in = scores + row * s.stride;
  T* const out = probabilities + row * s.stride;
  float top = -3.4e38f;
  for (index_t c = first + threadIdx.x; c <= last; c += 256) {
    float v = in[c];
    if (s.softcap > 0) {
      v = s.softcap * tanhf(v / s.softcap);
      in[c] = v;
    }
    top = fmaxf(top, v);
  }
  top = reduce_block(top, scratch, max_of{});
  float sum = 0;
  for (index_t c = first + threadIdx.x; c <= last; c += 256) {
    float const e = expf(in[c] - top);
    in[c] = e;
    sum += e;
  }
  sum = reduce_block(sum, scratch, sum_of{});
  float const inverse = 1.0f / sum;
  for (index_t c = threadIdx.x; c < s.keys; c += 256)
    out[c] = c >= first && c <= last ? from_float<T>(in[c] * inverse) : from_float<T>(0.0f);
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
