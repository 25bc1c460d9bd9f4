/// Quantizes a whole model folder: float weights and calibration samples in, a checkpoint out.
///
///   gptq::host_model_backend backend;
///   gptq::quantize_model(backend, "Qwen2.5-7B", "Qwen2.5-7B-4bit", samples);
///
/// One pass, block by block and linear group by linear group: the inputs of a group are collected on the weights that were
/// quantized before it, its linear layers are solved as one stack with one Hessian, and the walk goes on with the new
/// weights. One block's weights are in memory; what is finished is written at once.
#pragma once

#include <gptq/comm/solo.hpp>
#include <gptq/io/output_folder.hpp>
#include <gptq/io/writer.hpp>
#include <gptq/quantize/block_quantizer.hpp>
#include <gptq/quantize/check_values.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/quantize/write_output.hpp>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Reads every float tensor of the job's source once. Throws numeric_error for NaN, Inf, and what float16 can't hold where
/// that is written.
inline void check_values(job const& j) {
  check_values(j.weights().reader(), j.asked().to_float16, detail::converted_biases(j.plan()));
}

namespace detail {

/// The result of a job on its way to the disk; nothing is left of it unless finish() returns.
class job_output {
 public:
  /// Creates the folder and writes all that needs no calibration.
  job_output(job const& j, std::filesystem::path const& target, bool overwrite)
      : j_(j), folder_(target, j.source(), overwrite) {
    folder_.check_space(j.disk_bytes());
    check_values(j);
    writer_.emplace(folder_.path(), j.layout());
    write_float_tensors(*writer_, j);
    j.weights().reader().release();
  }

  checkpoint_writer& writer() { return *writer_; }

  void finish(pipeline_report& report) {
    activity const a(report, "write");
    writer_->finish();
    write_settings(folder_.path(), j_.settings_files());
    copy_side_files(j_.source(), folder_.path(), j_.side_files());
    folder_.commit();
  }

 private:
  job const& j_;
  output_folder folder_;
  std::optional<checkpoint_writer> writer_;
};

/// Waits for all workers. Throws worker_error where one of them failed.
template <communicator C>
void agree(C& c) {
  if (worker_status const worst = c.agree({}); worst.state == worker_state::failed) throw worker_error(worst);
}

/// One worker's part of a run; worker 0 writes.
template <class Open, communicator C>
pipeline_report run_part(Open&& open, C& c, job const& j, std::filesystem::path const& target,
                         std::vector<std::vector<std::int32_t>> const& samples, run_options const& options) {
  std::optional<job_output> output;
  if (c.rank() == 0) output.emplace(j, target, options.overwrite);
  auto const ready = open();
  using B = std::remove_reference_t<decltype(ready.backend)>;
  pipeline_report report =
      block_quantizer<B, C>(ready, c, j, output ? &output->writer() : nullptr, samples, options).run();
  agree(c);
  if (output) output->finish(report);
  agree(c);
  report.bytes_before = j.source_bytes();
  report.bytes_after = j.layout().total_size();
  index_t widest = 0;
  for (auto const& l : report.linears) widest = (std::max)(widest, l.in_features);
  if (report.tokens < widest)
    report.warnings.emplace_back(std::to_string(report.tokens) + " calibration tokens are fewer than the " +
                                 std::to_string(widest) + " inputs of the widest layer");
  return report;
}

}  // namespace detail

/// Runs a job on calibration `samples` (token ids, each run alone) and writes its result as the folder `target`. The folder
/// is complete when this returns; after an exception nothing of it is left. Throws format_error, shape_error or
/// numeric_error, each naming file, tensor or layer; everything that can be refused is refused before the first token is
/// run.
///
/// Several workers call this at once with the same job, samples and target, each with its own backend. They share the
/// samples and the solves; worker 0 writes, and calls options.progress. The files are the same for any number of
/// workers. Where one fails, the others throw worker_error with its message.
///
/// `open` returns a ready_backend. It is called when the values of the source are checked, so that a device can be opened
/// meanwhile; options.memory does not count.
template <class Open, communicator C>
pipeline_report run_on(Open&& open, C& c, job const& j, std::filesystem::path const& target,
                       std::vector<std::vector<std::int32_t>> const& samples, run_options const& options) {
  try {
    return detail::run_part(open, c, j, target, samples, options);
  } catch (worker_error const&) {
    throw;  // the others know
  } catch (std::exception const& e) {
    static_cast<void>(c.agree({worker_state::failed, c.rank(), e.what()}));
    throw;
  }
}

/// The same with a backend that is there already and options.memory; the recipe's micro-batch comes before that of
/// options.memory.
template <pipeline_backend B, communicator C>
pipeline_report run(job const& j, B& b, C& c, std::filesystem::path const& target,
                    std::vector<std::vector<std::int32_t>> const& samples, run_options const& options = {}) {
  activation_options memory = options.memory;
  if (j.asked().micro_batch > 0) memory.micro_batch = j.asked().micro_batch;
  return run_on([&] { return ready_backend<B>{b, memory}; }, c, j, target, samples, options);
}

/// The same by one worker.
template <pipeline_backend B>
pipeline_report run(job const& j, B& b, std::filesystem::path const& target,
                    std::vector<std::vector<std::int32_t>> const& samples, run_options const& options = {}) {
  solo<typename B::space> alone;
  return run(j, b, alone, target, samples, options);
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
