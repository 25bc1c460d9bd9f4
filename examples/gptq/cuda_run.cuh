/// The device's side of device.hpp; included by the .cu files, one for each type.
#pragma once

#include "cuda_kernels.cuh"
#include "device.hpp"

#include <gptq/backend/cuda/forward.cuh>
#include <gptq/comm/solo.hpp>
#include <gptq/quantize/job_memory.hpp>
#include <gptq/quantize/pipeline.hpp>

#include <future>
#include <optional>

APP_COLUMN_PASS(extern, 2)
APP_COLUMN_PASS(extern, 3)
APP_COLUMN_PASS(extern, 4)
APP_COLUMN_PASS(extern, 8)
APP_FUSED_ATTENTION(extern, gptq::float16)
APP_FUSED_ATTENTION(extern, gptq::bfloat16)

namespace app {
namespace cuda {

template <class T>
constexpr char const* type_name = "float32";
template <>
inline constexpr char const* type_name<gptq::float16> = "float16";
template <>
inline constexpr char const* type_name<gptq::bfloat16> = "bfloat16";

/// A backend that with context and libraries stays below `memory`, if that is given.
template <class T>
gptq::basic_cuda_model_backend<T> open_backend(std::size_t memory) {
  constexpr std::size_t overhead = gptq::cuda_overhead_bytes;
  if (memory > 0 && memory < 2 * overhead)
    throw gptq::device_memory_error("--device-memory: at least 2GiB are needed, of which half is the CUDA context's");
  return gptq::basic_cuda_model_backend<T>({.memory_budget = memory > 0 ? memory - overhead : 0});
}

template <class T>
void describe(gptq::basic_cuda_model_backend<T>& backend, std::size_t memory, device_usage& usage) {
  usage.name = backend.device_name();
  usage.activations = type_name<T>;
  usage.memory_limit = memory;
  usage.peak_memory = backend.device_peak_memory();
  usage.peak_matrices = backend.peak_memory();
}

}  // namespace cuda

template <class T>
device_run quantize_on_cuda(device_request const& device, gptq::job const& j, std::filesystem::path const& output,
                            std::vector<std::vector<std::int32_t>> const& samples, gptq::run_options const& options) {
  using backend_type = gptq::basic_cuda_model_backend<T>;
  auto opening = std::async(std::launch::async, [&device] {  // while the source is checked
    if (device.ready.valid()) device.ready.get();
    return cuda::open_backend<T>(device.memory);
  });
  std::optional<backend_type> backend;
  std::future<void> loading;
  gptq::activation_options memory;
  auto const open = [&] {
    backend.emplace(opening.get());
    loading = std::async(std::launch::async, gptq::detail::load_products<T>, 0);
    memory = gptq::plan_memory(j, samples, sizeof(T), backend->memory_budget());
    return gptq::ready_backend<backend_type>{*backend, memory};
  };
  gptq::solo<gptq::cuda_space> alone;
  device_run result{gptq::run_on(open, alone, j, output, samples, options), device_usage()};
  cuda::describe(*backend, device.memory, *result.usage);
  result.usage->micro_batch = result.report.micro_batch;
  result.usage->states_on_host = memory.on_host;
  return result;
}

}  // namespace app
