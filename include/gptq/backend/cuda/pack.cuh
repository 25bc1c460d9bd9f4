/// Packing, unpacking and dequantizing on the device: the same tensors as gptq/pack, bit for bit. Include
/// gptq/backend/cuda.cuh.
#pragma once

#include <gptq/backend/cuda/elementwise.cuh>
#include <gptq/core/quantized_linear.hpp>
#include <gptq/pack/pack.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A solved layer in device memory.
using device_linear = basic_quantized_linear<device_matrix<std::uint8_t>, device_matrix<float>>;

namespace detail {

/// Word `word` of the stream of codes code(0), code(1), …, of which there are `count`.
template <int Bits, class Code>
__device__ std::uint32_t word_of(index_t word, index_t count, Code code) {
  index_t const first = word * 32 / Bits;
  index_t const last = (word * 32 + 31) / Bits;
  std::uint32_t result = 0;
#pragma unroll
  for (int i = 0; i < 32 / Bits + 2; ++i) {
    index_t const k = first + i;
    if (k > last || k >= count) break;
    int const shift = int(k * Bits - word * 32);
    std::uint32_t const c = code(k);
    result |= shift >= 0 ? c << shift : c >> -shift;
  }
  return result;
}

template <int Bits>
struct pack_rows_element {
  device_view<std::uint8_t const> codes;
  device_view<std::int32_t> words;
  __device__ void operator()(index_t w, index_t n) const {
    words(w, n) =
        static_cast<std::int32_t>(word_of<Bits>(w, codes.rows, [&](index_t k) { return std::uint32_t(codes(k, n)); }));
  }
};

template <int Bits>
struct pack_zeros_element {
  device_view<std::uint8_t const> zeros;
  device_view<std::int32_t> words;
  std::uint32_t one;  ///< what version 1 subtracts
  int* refused;
  __device__ void operator()(index_t g, index_t w) const {
    words(g, w) = static_cast<std::int32_t>(word_of<Bits>(w, zeros.cols, [&](index_t n) {
      std::uint32_t const zero = zeros(g, n);
      if (zero < one || zero >> Bits) *refused = 1;
      return zero - one;
    }));
  }
};

struct pack_scales_element {
  device_view<float const> scales;
  device_view<float16> narrow;
  int* refused;
  __device__ void operator()(index_t g, index_t n) const {
    float16 const s = to_float16(scales(g, n));
    if (s.bits == 0 || s.bits >= 0x7c00) *refused = 1;  // zero, Inf, NaN or negative
    narrow(g, n) = s;
  }
};

template <int Bits>
struct unpack_rows_element {
  device_view<std::uint32_t const> words;
  device_view<std::uint8_t> codes;
  __device__ void operator()(index_t k, index_t n) const {
    index_t const bit = k * Bits;
    int const shift = int(bit % 32);
    std::uint32_t code = words(bit / 32, n) >> shift;
    if (shift + Bits > 32) code |= words(bit / 32 + 1, n) << (32 - shift);
    codes(k, n) = static_cast<std::uint8_t>(code & ((1u << Bits) - 1));
  }
};

/// out(n, k) = scale·(code − zero), transposed through shared memory; scales rounded to float16 as a file holds them.
template <class T, bool Round>
__global__ void __launch_bounds__(256)
    dequantize_kernel(device_view<std::uint8_t const> codes, device_view<float const> scales,
                      device_view<std::uint8_t const> zeros, std::int32_t const* groups, device_view<T> out) {
  __shared__ float tile[32][33];
  index_t const first_k = index_t(blockIdx.x) * 32;
  for (index_t first_n = index_t(blockIdx.y) * 32; first_n < out.rows; first_n += index_t(gridDim.y) * 32) {
    index_t const n = first_n + threadIdx.x;
    if (n < out.rows)
      for (index_t i = threadIdx.y; i < 32 && first_k + i < out.cols; i += 8) {
        index_t const g = groups[first_k + i];
        float scale = scales(g, n);
        if (Round) scale = to_float(to_float16(scale));
        tile[i][threadIdx.x] = scale * (float(codes(first_k + i, n)) - float(zeros(g, n)));
      }
    __syncthreads();
    index_t const k = first_k + threadIdx.x;
    if (k < out.cols)
      for (index_t i = threadIdx.y; i < 32 && first_n + i < out.rows; i += 8)
        out(first_n + i, k) = from_float<T>(tile[threadIdx.x][i]);
    __syncthreads();
  }
}

/// A layer on the host, for messages and for what is not worth a kernel.
inline quantized_linear to_host(cuda_context& c, device_linear const& q) {
  auto const fetch = [&]<class T>(device_matrix<T> const& from) {
    matrix<T> to(from.rows(), from.cols());
    std::size_t const bytes = std::size_t(from.size()) * sizeof(T);
    c.pinned().download(from.data(), bytes, to.data(), bytes, bytes, 1, c.stream());
    return to;
  };
  return {q.spec, fetch(q.codes), fetch(q.scales), fetch(q.zeros), q.g_idx, q.report};
}

/// Outputs [first, first + count) of a layer on their way to be the tensors of a file. Made where all verbs are called:
/// then what can't be packed has been refused, and the layer may go. get() copies to the host, beside other work and in any
/// one thread.
class packing {
 public:
  packing(std::shared_ptr<cuda_context> c, device_linear const& q, checkpoint_format format, index_t first,
          index_t count)
      : c_(std::move(c)) {
    check_layer_format(q.spec);
    if (first < 0 || count < 0 || first > q.out_features() - count)
      throw shape_error("pack: outputs [" + std::to_string(first) + ", +" + std::to_string(count) + ") of " +
                        std::to_string(q.out_features()));
    index_t const groups = q.groups();
    p_.spec = q.spec;
    p_.format = format;
    p_.in_features = q.in_features();
    p_.out_features = count;
    words_ = c_->make<std::int32_t>(word_count(p_.in_features, q.spec.bits), count);
    zeros_ = c_->make<std::int32_t>(groups, word_count(count, q.spec.bits));
    scales_ = c_->make<float16>(groups, count);
    c_->flags()[1] = 0;
    with_bits(q.spec.bits, [&]<int Bits>() {
      elementwise(*c_, words_.rows(), words_.cols(),
                  pack_rows_element<Bits>{q.codes.view().col_range(first, count), words_.view()});
      elementwise(*c_, zeros_.rows(), zeros_.cols(),
                  pack_zeros_element<Bits>{q.zeros.view().col_range(first, count), zeros_.view(),
                                           static_cast<unsigned>(zero_offset(format)), c_->device_flags() + 1});
    });
    elementwise(*c_, groups, count,
                pack_scales_element{q.scales.view().col_range(first, count), scales_.view(), c_->device_flags() + 1});
    p_.g_idx = q.g_idx;
    if (p_.g_idx.empty()) p_.g_idx = group_index(view(p_));
    check_groups(p_.g_idx, groups);
    c_->synchronize();
    if (c_->flags()[1]) gptq::pack(to_host(*c_, q), format, first, count);  // throws what is wrong, and where
  }

  packed_linear get() {
    check(cudaSetDevice(c_->options().device), "cudaSetDevice");
    auto const lane = c_->downloads();
    auto const fetch = [&]<class T>(device_matrix<T>& from, matrix<T>& to) {
      to = matrix<T>(from.rows(), from.cols());
      std::size_t const bytes = std::size_t(from.size()) * sizeof(T);
      if (bytes) lane->pinned.download(from.data(), bytes, to.data(), bytes, bytes, 1, lane->stream.get());
      from = {};
    };
    fetch(scales_, p_.scales);
    fetch(zeros_, p_.qzeros);
    fetch(words_, p_.qweight);
    return std::move(p_);
  }

 private:
  std::shared_ptr<cuda_context> c_;
  packed_linear p_;
  device_matrix<std::int32_t> words_, zeros_;
  device_matrix<float16> scales_;
};

inline device_linear unpack(cuda_context& c, packed_linear const& p) {
  device_linear q;
  q.spec = p.spec;
  q.g_idx = p.g_idx;
  index_t const groups = p.scales.rows();
  q.codes = c.make<std::uint8_t>(p.in_features, p.out_features);
  q.scales = c.make<float>(groups, p.out_features);
  q.zeros = c.make<std::uint8_t>(groups, p.out_features);
  auto words = c.make<std::uint32_t>(p.qweight.rows(), p.qweight.cols());
  matrix<float> scales(groups, p.out_features);
  matrix<std::uint8_t> zeros(groups, p.out_features);
  auto const packed = view(p);
  if (q.g_idx.empty()) q.g_idx = group_index(packed);
  check_groups(q.g_idx, groups);
  for (index_t g = 0; g < groups; ++g)
    for (index_t n = 0; n < p.out_features; ++n) {
      scales(g, n) = scale_at(packed, g, n);
      zeros(g, n) = zero_at(packed, g, n);
    }
  auto const send = [&](auto const& from, void* to) {
    std::size_t const bytes = std::size_t(from.size()) * sizeof(*from.data());
    if (bytes) c.pinned().upload(from.data(), bytes, to, bytes, bytes, 1, c.stream());
  };
  send(scales, q.scales.data());
  send(zeros, q.zeros.data());
  send(p.qweight, words.data());
  with_bits(p.spec.bits, [&]<int Bits>() {
    elementwise(c, p.in_features, p.out_features,
                unpack_rows_element<Bits>{std::as_const(words).view(), q.codes.view()});
  });
  return q;
}

template <bool Round, class T>
void dequantize(cuda_context& c, device_linear const& q, index_t first, device_view<T> out) {
  if (first < 0 || out.rows < 0 || first > q.out_features() - out.rows || out.cols != q.in_features())
    throw shape_error("dequantize: outputs [" + std::to_string(first) + ", +" + std::to_string(out.rows) + ") of a " +
                      std::to_string(q.out_features()) + " x " + std::to_string(q.in_features()) + " layer into " +
                      std::to_string(out.rows) + " x " + std::to_string(out.cols));
  if (out.rows == 0 || out.cols == 0) return;
  check_groups(q.g_idx, q.groups());
  auto groups = c.make<std::int32_t>(1, out.cols);
  std::size_t const bytes = q.g_idx.size() * sizeof(std::int32_t);
  c.pinned().upload(q.g_idx.data(), bytes, groups.data(), bytes, bytes, 1, c.stream());
  dim3 const grid(unsigned(pieces_of(out.cols, 32)), unsigned((std::min)(pieces_of(out.rows, 32), index_t(65535))));
  dequantize_kernel<T, Round><<<grid, dim3(32, 8), 0, c.stream()>>>(
      q.codes.view().col_range(first, out.rows), q.scales.view().col_range(first, out.rows),
      q.zeros.view().col_range(first, out.rows), groups.data(), out);
  check_launch("dequantize_kernel");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
