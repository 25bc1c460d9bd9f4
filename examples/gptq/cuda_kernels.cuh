/// The kernels that take longest to compile, made once and used from the other files: those of the column pass in
/// cuda_bits_*.cu, attention of 16-bit types in cuda_attention.cu.
#pragma once

#include <gptq/backend/cuda.cuh>
#include <gptq/backend/cuda/forward.cuh>

/// For one width, explicit instantiations, or with `extern` before them their declarations.
#define APP_QUANTIZE_TILE(EXTERN, BITS, SOURCE)                                              \
  EXTERN template void gptq::detail::quantize_tile<BITS, gptq::detail::grid_source::SOURCE>( \
      gptq::detail::cuda_context const&, gptq::detail::column_arguments const&, gptq::detail::fit_arguments const&);
#define APP_FIT_GRID(EXTERN, BITS, SYM)                                                                             \
  EXTERN template void gptq::detail::fit_grid<BITS, SYM>(gptq::detail::cuda_context const&,                         \
                                                         gptq::device_view<float const>, gptq::grid_options const&, \
                                                         gptq::device_view<float>, gptq::device_view<std::uint8_t>);
#define APP_COLUMN_PASS(EXTERN, BITS)       \
  APP_QUANTIZE_TILE(EXTERN, BITS, given)    \
  APP_QUANTIZE_TILE(EXTERN, BITS, fit_sym)  \
  APP_QUANTIZE_TILE(EXTERN, BITS, fit_asym) \
  APP_FIT_GRID(EXTERN, BITS, true)          \
  APP_FIT_GRID(EXTERN, BITS, false)
#define APP_FUSED_ATTENTION(EXTERN, TYPE)                                                        \
  EXTERN template void gptq::detail::fused_attention<TYPE>(                                      \
      gptq::detail::cuda_context&, gptq::device_view<TYPE const>, gptq::device_view<TYPE const>, \
      gptq::device_view<TYPE const>, gptq::sequence_bounds, gptq::attention_shape const&, gptq::device_view<TYPE>);
