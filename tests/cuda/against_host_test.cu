/// The device's side of against_host_test.cpp.
#include "cuda/against_host.hpp"

#include <gptq/backend/cuda.cuh>

namespace test {

gptq::quantized_linear solve_on_device(layer const& l, gptq::quant_spec const& spec,
                                       gptq::quantize_options const& options, std::span<std::int32_t const> order) {
  return solve_given<gptq::cuda_backend>(l, spec, options, order);
}

}  // namespace test
