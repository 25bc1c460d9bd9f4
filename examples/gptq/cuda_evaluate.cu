#include "cuda_run.cuh"

namespace app {

void require_cuda_device() { gptq::detail::open_device(0); }

gptq::evaluation evaluate_on_cuda(std::size_t memory, gptq::model_weights const& model,
                                  std::span<std::int32_t const> ids, gptq::evaluation_options const& options,
                                  gptq::model_weights const* reference, device_usage& usage) {
  auto backend = cuda::open_backend<float>(memory);
  auto result = gptq::evaluate(backend, model, ids, options, reference);
  cuda::describe(backend, memory, usage);
  usage.micro_batch = options.activations.micro_batch;
  return result;
}

}  // namespace app
