/// The kernels of the column pass, by far the most to compile: made once, in cuda_bits_*.cu, and used from the other files.
#pragma once

#include <gptq/backend/cuda.cuh>

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
