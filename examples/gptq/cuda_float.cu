#include "cuda_run.cuh"

namespace app {

template gptq::pipeline_report quantize_on_cuda<float>(std::size_t, std::filesystem::path const&,
                                                       std::filesystem::path const&,
                                                       std::vector<std::vector<std::int32_t>> const&,
                                                       gptq::pipeline_options, std::future<void>&, device_usage&);

}  // namespace app
