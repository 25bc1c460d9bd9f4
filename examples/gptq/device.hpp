/// Running a model on a CUDA device: what the app's own sources see of it. The definitions are in cuda_*.cu, which only a
/// build with CUDA has.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/run/evaluate.hpp>
#include <gptq/run/generate.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
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

/// gptq::quantize_model in that type, in `memory` bytes of the device in all (0: as much as is free). Parts of options
/// that say how the run fits into memory are chosen here. `ready`: of begin_use().
template <class T>
gptq::pipeline_report quantize_on_cuda(std::size_t memory, std::filesystem::path const& model,
                                       std::filesystem::path const& output,
                                       std::vector<std::vector<std::int32_t>> const& samples,
                                       gptq::pipeline_options options, std::future<void>& ready, device_usage& usage);

/// gptq::evaluate in float.
gptq::evaluation evaluate_on_cuda(std::size_t memory, gptq::model_weights const& model,
                                  std::span<std::int32_t const> ids, gptq::evaluation_options const& options,
                                  gptq::model_weights const* reference, device_usage& usage);

/// gptq::generate in float.
gptq::generation generate_on_cuda(std::size_t memory, gptq::model_weights const& model,
                                  std::span<std::int32_t const> prompt, gptq::generate_options const& options,
                                  device_usage& usage);

}  // namespace app
