#include "cuda_run.cuh"

namespace app {

template device_run quantize_on_cuda<gptq::float16>(device_request const&, gptq::job const&,
                                                    std::filesystem::path const&,
                                                    std::vector<std::vector<std::int32_t>> const&,
                                                    gptq::run_options const&);

}  // namespace app
