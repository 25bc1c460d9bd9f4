#include "cuda_run.cuh"

#include <gptq/run/generate.hpp>

namespace app {

gptq::generation generate_on_cuda(std::size_t memory, gptq::model_weights const& model,
                                  std::span<std::int32_t const> prompt, gptq::generate_options const& options,
                                  device_usage& usage) {
  auto backend = cuda::open_backend<float>(memory);
  auto result = gptq::generate(backend, model, prompt, options);
  cuda::describe(backend, memory, usage);
  return result;
}

}  // namespace app
