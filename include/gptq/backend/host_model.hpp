/// The host backend with everything that a run over a whole model needs: it quantizes, runs decoders, packs.
#pragma once

#include <gptq/backend/host.hpp>
#include <gptq/backend/host/forward.hpp>
#include <gptq/core/flags.hpp>
#include <gptq/core/quantized_linear.hpp>
#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/matmul.hpp>
#include <gptq/pack/pack.hpp>
#include <gptq/pack/packed_backend.hpp>

#include <algorithm>
#include <cstddef>
#include <span>

namespace gptq {
inline namespace v0 {
inline namespace GPTQ_FLAGS {

/// Models pipeline_backend, evaluation_backend and packed_backend.
class host_model_backend : public host_backend, public host_forward {
 public:
  static constexpr bool multiplies_packed = true;
  using packed_layer = packed_view;

  using host_backend::add;
  using host_backend::copy;
  using host_backend::download;
  using host_backend::make;
  using host_backend::matrix_type;
  using host_backend::space;
  using host_forward::add;
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
  void linear(const_view x, packed_view const& w, const_view bias, view y) {
    // Where matmul's outputs are cut changes no sum, as its documentation says: long ranges stream best.
    index_t const share = (w.out_features + detail::thread_count() - 1) / detail::thread_count();
    index_t const piece = std::max((share + 63) / 64 * 64, index_t(256));  // what matmul likes; less wakes no thread
    detail::parallel_pieces(w.out_features, piece, [&](index_t first, index_t count) {
      auto const part = bias.data ? std::span<float const>(bias.data + first, static_cast<std::size_t>(count))
                                  : std::span<float const>();
      matmul(w, first, x, y.col_range(first, count), part);
    });
  }
  void add_linear(const_view x, packed_view const& w, const_view bias, view y) {
    if (sum_.size() < y.rows * y.cols) sum_ = matrix<float>(y.rows, y.cols);
    view const sum(sum_.data(), y.rows, y.cols);
    linear(x, w, bias, sum);
    host_forward::add(sum, y);
  }

 private:
  matrix<float> sum_;
};
static_assert(packed_backend<host_model_backend> && multiplies_packed_as_promised<host_model_backend>);

}  // namespace GPTQ_FLAGS
}  // namespace v0
}  // namespace gptq
