/// The forward operations of a decoder on the device, and the backend that quantizes and runs models.
#pragma once

#include <gptq/backend/cuda.cuh>
#include <gptq/backend/cuda/attention.cuh>
#include <gptq/backend/cuda/evaluate.cuh>
#include <gptq/backend/cuda/packed_product.cuh>
#include <gptq/core/model_abilities.hpp>
#include <gptq/pack/packed_backend.hpp>

#include <cstdint>
#include <span>
#include <utility>

namespace gptq {
inline namespace v0 {

/// Models quantize_backend, forward_backend, evaluation_backend, packed_backend and what a run over a whole model asks for. T is the type
/// of weights and activations: bfloat16 or float16, with sums in fp32; or float, in which everything is fp32.
template <class T>
class basic_cuda_model_backend : public cuda_backend {
 public:
  using activation = T;
  using const_view = view<T const>;
  using table_view = view<float const>;
  using id_view = view<std::int32_t const>;

  using cuda_backend::cuda_backend;

  /// A host matrix as one of To on the device.
  template <class To, class From>
  [[nodiscard]] device_matrix<To> adopt(matrix<From>&& from) {
    auto staged = make<From>(from.rows(), from.cols());
    upload(std::as_const(from).view(), staged.view());
    if constexpr (std::is_same_v<To, From>) {
      return staged;
    } else {
      auto to = make<To>(from.rows(), from.cols());
      detail::elementwise(*context(), to.rows(), to.cols(),
                          detail::convert_element<From, To>{std::as_const(staged).view(), to.view()});
      return to;
    }
  }

  void embed(id_view ids, const_view table, float scale, view<T> y) {
    detail::elementwise(*context(), y.rows, y.cols, detail::embed_element<T>{ids.data, table, scale, y});
  }
  void rms_norm(const_view x, const_view weight, float eps, bool unit_offset, view<T> y) {
    if (x.rows == 0 || x.cols == 0) return;
    detail::rms_norm_kernel<T><<<unsigned((std::min)(x.rows, index_t(1) << 20)), 256, 0, stream()>>>(
        x, weight.data, eps, unit_offset ? 1.0f : 0.0f, y);
    detail::check_launch("rms_norm_kernel");
  }
  void norm_heads(view<T> x, head_layout layout, index_t heads, const_view weight, float eps, bool unit_offset) {
    if (x.rows == 0 || heads == 0) return;
    index_t const blocks = detail::pieces_of(x.rows * heads, 8);
    detail::norm_heads_kernel<T><<<unsigned((std::min)(blocks, index_t(1) << 20)), 256, 0, stream()>>>(
        x, layout, heads, weight.data, weight.cols, eps, unit_offset ? 1.0f : 0.0f);
    detail::check_launch("norm_heads_kernel");
  }
  void linear(const_view x, const_view w, const_view bias, view<T> y) { product(x, w, bias, false, y); }
  void add_linear(const_view x, const_view w, const_view bias, view<T> y) { product(x, w, bias, true, y); }
  static constexpr bool multiplies_packed = true;
  static constexpr bool fetches = true;
  static constexpr bool uploads = true;
  using packed_layer = device_packed_layer;
  packed_layer adopt_packed(packed_view const& packed) { return detail::upload_packed(*context(), packed); }
  void linear(const_view x, packed_layer const& w, const_view bias, view<T> y) {
    detail::multiply_packed<T>(*context(), x, w, bias.data, false, y);
  }
  void add_linear(const_view x, packed_layer const& w, const_view bias, view<T> y) {
    detail::multiply_packed<T>(*context(), x, w, bias.data, true, y);
  }
  void rotate(view<T> x, head_layout layout, index_t heads, table_view cosines, table_view sines, id_view positions) {
    detail::elementwise(*context(), x.rows, heads * cosines.cols,
                        detail::rotate_element<T>{x, layout, cosines, sines, positions.data});
  }
  void attention(const_view q, const_view k, const_view v, sequence_bounds bounds, attention_shape const& shape,
                 view<T> y) {
    detail::attention<T>(*context(), q, k, v, bounds, shape, y);
  }
  void gated_activation(activation_function f, const_view gate, const_view up, view<T> y) {
    bool const wide = detail::in_eights(gate) && detail::in_eights(up) && detail::in_eights(y);
    detail::elementwise(*context(), y.rows, detail::pieces_of(y.cols, 8),
                        detail::gate_element<T>{f, wide, gate, up, y});
  }

  using cuda_backend::add;
  void add(const_view x, view<T> y) { add(1.0f, x, y); }
  void softcap(float cap, view<T> y) {
    detail::elementwise(*context(), y.rows, y.cols, detail::softcap_element<T>{cap, y});
  }

  void cross_entropy(const_view logits, id_view targets, std::span<double> nll) {
    if (logits.rows == 0) return;
    auto result = make<double>(1, logits.rows);
    detail::cross_entropy_kernel<T><<<unsigned(logits.rows), 256, 0, stream()>>>(logits, targets.data, result.data());
    detail::check_launch("cross_entropy_kernel");
    download(result, matrix_view<double>(nll.data(), 1, logits.rows));
  }
  void divergence(const_view reference, const_view logits, std::span<double> kl, std::span<std::uint8_t> same_top) {
    if (logits.rows == 0) return;
    auto result = make<double>(2, logits.rows);
    detail::divergence_kernel<T><<<unsigned(logits.rows), 256, 0, stream()>>>(reference, logits, result.data());
    detail::check_launch("divergence_kernel");
    matrix<double> host(2, logits.rows);
    download(result, host.view());
    for (index_t t = 0; t < logits.rows; ++t) {
      kl[std::size_t(t)] = host(0, t);
      same_top[std::size_t(t)] = host(1, t) != 0;
    }
  }

  /// Outputs [first, first + count) as the tensors of a file; weight [count × in] becomes what a reader computes.
  detail::packing pack(device_linear const& linear, checkpoint_format format, index_t first, index_t count,
                       view<T> weight) {
    detail::dequantize<true>(*context(), linear, first, weight);
    return {context(), linear, format, first, count};
  }

 private:
  void product(const_view x, const_view w, const_view bias, bool add, view<T> y) {
    if (y.rows == 0 || y.cols == 0) return;
    if (bias.data) detail::elementwise(*context(), y.rows, y.cols, detail::bias_element<T>{bias.data, add, y});
    float const alpha = 1;
    float const beta = add || bias.data ? 1 : 0;
    detail::check(
        cublasGemmEx(context()->blas(), CUBLAS_OP_T, CUBLAS_OP_N, int(y.cols), int(y.rows), int(x.cols), &alpha, w.data,
                     detail::blas_type<T>, int(w.stride), x.data, detail::blas_type<T>, int(x.stride), &beta, y.data,
                     detail::blas_type<T>, int(y.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
  }
};

/// The backend that models of 16 bits run on.
using cuda_model_backend = basic_cuda_model_backend<bfloat16>;

static_assert(forward_backend<basic_cuda_model_backend<float>> && evaluation_backend<cuda_model_backend>);
static_assert(packed_backend<cuda_model_backend> && multiplies_packed_as_promised<cuda_model_backend>);
static_assert(fetching_backend<cuda_model_backend> && fetches_as_promised<cuda_model_backend>);
static_assert(uploading_backend<cuda_model_backend> && uploads_as_promised<cuda_model_backend>);

}  // namespace v0
}  // namespace gptq
