/// Running a model on a CUDA device: what the app's own sources see of it. The definitions are in cuda_*.cu, which only a
/// build with CUDA has.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/run/evaluate.hpp>
#include <gptq/run/generate.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace app {

/// What a device did, for reports.
struct device_usage {
  std::string name;
  std::string activations;        ///< the type that the model was run in
  std::size_t memory_limit = 0;   ///< as given; 0: none
  std::size_t peak_memory = 0;    ///< of the whole device: matrices, context, libraries
  std::size_t peak_matrices = 0;  ///< of it
  gptq::index_t micro_batch = 0;  ///< tokens that were worked on together
  bool states_on_host = false;    ///< the calibration states were in host memory
};

/// Throws device_error where there is no device that the app could use.
void require_cuda_device();

/// A run that has ended, and what the device did for it; nothing where the host computed.
struct device_run {
  gptq::pipeline_report report;
  std::optional<device_usage> usage;
};

/// A device to be opened: `memory` bytes of it in all (0: as much as is free), once `ready`, of begin_use(), is.
struct device_request {
  std::size_t memory;
  std::future<void>& ready;
};

/// gptq::run in that type; options.memory does not count, the run is planned for the device.
template <class T>
device_run quantize_on_cuda(device_request const& device, gptq::job const& j, std::filesystem::path const& output,
                            std::vector<std::vector<std::int32_t>> const& samples, gptq::run_options const& options);

/// How that run would fit into the device, with elements of so many bytes.
gptq::activation_options plan_on_cuda(std::size_t memory, gptq::job const& j,
                                      std::vector<std::vector<std::int32_t>> const& samples, std::size_t element);

/// gptq::evaluate in float.
gptq::evaluation evaluate_on_cuda(std::size_t memory, gptq::model_weights const& model,
                                  std::span<std::int32_t const> ids, gptq::evaluation_options const& options,
                                  gptq::model_weights const* reference, device_usage& usage);

/// gptq::generate in float.
gptq::generation generate_on_cuda(std::size_t memory, gptq::model_weights const& model,
                                  std::span<std::int32_t const> prompt, gptq::generate_options const& options,
                                  device_usage& usage);

}  // namespace app
