/// The host backend with everything that a run over a whole model needs: it quantizes, runs decoders, packs.
#pragma once

#include <gptq/backend/host.hpp>
#include <gptq/backend/host/forward.hpp>
#include <gptq/core/quantized_linear.hpp>
#include <gptq/model/pipeline.hpp>
#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/pack.hpp>

namespace gptq {
inline namespace v0 {

/// Models pipeline_backend and evaluation_backend.
class host_model_backend : public host_backend, public host_forward {
 public:
  using host_backend::add;
  using host_backend::copy;
  using host_backend::download;
  using host_backend::make;
  using host_backend::matrix_type;
  using host_backend::space;

  packed_linear pack(quantized_linear const& linear, checkpoint_format format, index_t first, index_t count,
                     matrix_view<float> weight) {
    packed_linear packed = gptq::pack(linear, format, first, count);
    detail::parallel_pieces(count, 64, [&](index_t row, index_t rows) {
      gptq::dequantize(gptq::view(packed), row, weight.row_range(row, rows));
    });
    return packed;
  }
};
static_assert(pipeline_backend<host_model_backend> && evaluation_backend<host_model_backend>);

}  // namespace v0
}  // namespace gptq
