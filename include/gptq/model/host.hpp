/// The host backend with everything that a run over a whole model needs: it quantizes, runs decoders, packs.
#pragma once

#include <gptq/backend/host.hpp>
#include <gptq/backend/host/forward.hpp>
#include <gptq/core/quantized_linear.hpp>
#include <gptq/model/pipeline.hpp>
#include <gptq/model/stage.hpp>
#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/pack.hpp>

#include <utility>

namespace gptq {
inline namespace v0 {

/// Models pipeline_backend, evaluation_backend and packed_backend.
class host_model_backend : public host_backend, public host_forward {
 public:
  using packed_layer = packed_view;

  using host_backend::add;
  using host_backend::copy;
  using host_backend::download;
  using host_backend::make;
  using host_backend::matrix_type;
  using host_backend::space;
  using host_forward::add_linear;
  using host_forward::linear;

  packed_linear pack(quantized_linear const& linear, checkpoint_format format, index_t first, index_t count,
                     matrix_view<float> weight) {
    packed_linear packed = gptq::pack(linear, format, first, count);
    detail::parallel_pieces(count, 64, [&](index_t row, index_t rows) {
      gptq::dequantize(gptq::view(packed), row, weight.row_range(row, rows));
    });
    return packed;
  }

  packed_layer adopt_packed(packed_view const& packed) { return packed; }
  void linear(const_view x, packed_view const& w, const_view bias, view y) { product<false>(x, w, bias, y); }
  void add_linear(const_view x, packed_view const& w, const_view bias, view y) { product<true>(x, w, bias, y); }

 private:
  /// Strips of outputs, each dequantized to where it stays in the cache.
  template <bool Add>
  static void product(const_view x, packed_view const& w, const_view bias, view y) {
    detail::parallel_pieces(w.out_features, 64, [&](index_t first, index_t count) {
      matrix<float> strip(count, w.in_features);
      gptq::dequantize(w, first, strip);
      view const part = y.col_range(first, count);
      auto out = detail::eigen(part);
      if (!Add) out.setZero();
      if (bias.data) out.rowwise() += detail::eigen(bias).row(0).segment(first, count);
      detail::add_product<false, true>(1.0f, x, std::as_const(strip).view(), part);
    });
  }
};
static_assert(pipeline_backend<host_model_backend> && evaluation_backend<host_model_backend>);
static_assert(packed_backend<host_model_backend>);

}  // namespace v0
}  // namespace gptq
