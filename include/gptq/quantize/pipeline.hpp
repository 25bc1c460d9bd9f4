/// Quantizes a whole model folder: float weights and calibration samples in, a checkpoint out.
///
///   gptq::host_model_backend backend;
///   gptq::quantize_model(backend, "Qwen2.5-7B", "Qwen2.5-7B-4bit", samples);
///
/// One pass, block by block and linear group by linear group: the inputs of a group are collected on the weights that were
/// quantized before it, its linear layers are solved as one stack with one Hessian, and the walk goes on with the new
/// weights. One block's weights are in memory; what is finished is written at once.
#pragma once

#include <gptq/io/output_folder.hpp>
#include <gptq/io/writer.hpp>
#include <gptq/quantize/block_quantizer.hpp>
#include <gptq/quantize/check_values.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/quantize/write_output.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A backend that is ready for a run, and how the run fits into its memory.
template <pipeline_backend B>
struct ready_backend {
  B& backend;
  activation_options memory;
};

/// Runs a job on calibration `samples` (token ids, each run alone) and writes its result as the folder `target`. The folder
/// is complete when this returns; after an exception nothing of it is left. Throws format_error, shape_error or
/// numeric_error, each naming file, tensor or layer; everything that can be refused is refused before the first token is
/// run.
///
/// `open` returns a ready_backend. It is called when the values of the source are checked, so that a device can be opened
/// meanwhile; options.memory does not count.
template <class Open>
pipeline_report run_on(Open&& open, job const& j, std::filesystem::path const& target,
                       std::vector<std::vector<std::int32_t>> const& samples, run_options const& options) {
  output_folder folder(target, j.source(), options.overwrite);
  folder.check_space(j.disk_bytes());
  check_values(j.weights().reader(), j.asked().to_float16);

  checkpoint_writer writer(folder.path(), j.layout());
  detail::write_float_tensors(writer, j);
  j.weights().reader().release();
  auto const ready = open();
  using B = std::remove_reference_t<decltype(ready.backend)>;
  pipeline_report report = detail::block_quantizer<B>(ready.backend, j, writer, samples, ready.memory, options).run();
  {
    detail::activity const a(report, "write");
    writer.finish();
    write_settings(folder.path(), j.settings_files());
    copy_side_files(j.source(), folder.path(), j.side_files());
    folder.commit();
  }
  report.bytes_before = j.source_bytes();
  report.bytes_after = j.layout().total_size();
  index_t widest = 0;
  for (auto const& l : report.linears) widest = (std::max)(widest, l.in_features);
  if (report.tokens < widest)
    report.warnings.emplace_back(std::to_string(report.tokens) + " calibration tokens are fewer than the " +
                                 std::to_string(widest) + " inputs of the widest layer");
  return report;
}

/// The same with a backend that is there already and options.memory; the recipe's micro-batch comes before that of
/// options.memory.
template <pipeline_backend B>
pipeline_report run(job const& j, B& b, std::filesystem::path const& target,
                    std::vector<std::vector<std::int32_t>> const& samples, run_options const& options = {}) {
  activation_options memory = options.memory;
  if (j.asked().micro_batch > 0) memory.micro_batch = j.asked().micro_batch;
  return run_on([&] { return ready_backend<B>{b, memory}; }, j, target, samples, options);
}

/// A job and its run in one.
template <pipeline_backend B>
pipeline_report quantize_model(B& b, std::filesystem::path const& source, std::filesystem::path const& target,
                               std::vector<std::vector<std::int32_t>> const& samples, recipe const& asked = {},
                               run_options const& options = {}) {
  return run(job(source, asked), b, target, samples, options);
}

}  // namespace v0
}  // namespace gptq
