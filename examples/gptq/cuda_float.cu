#include "cuda_run.cuh"

namespace app {

template device_run quantize_on_cuda<float>(device_request const&, gptq::job const&, std::filesystem::path const&,
                                            std::vector<std::vector<std::int32_t>> const&, gptq::run_options const&);

gptq::activation_options plan_on_cuda(std::size_t memory, gptq::job const& j,
                                      std::vector<std::vector<std::int32_t>> const& samples, std::size_t element) {
  return gptq::plan_memory(j, samples, element, cuda::open_backend<float>(memory).memory_budget());
}

}  // namespace app
