/// Quantizes a whole model folder: float weights and calibration samples in, a GPTQ checkpoint out.
///
/// One pass, block by block and stage by stage: the inputs of a stage are collected on the weights that were already
/// quantized before it, its linear layers are solved as one stack with one Hessian, and the walk goes on with the new
/// weights. One block's weights are in memory; what is finished is written at once.
#pragma once

#include <gptq/io/output_folder.hpp>
#include <gptq/quantize/block_quantizer.hpp>
#include <gptq/quantize/pipeline_output.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <type_traits>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Quantizes the model in `source` to a new folder `target`, on calibration `samples` (token ids, each run alone).
/// The folder is complete when this returns; after an exception nothing of it is left. Throws format_error,
/// shape_error or numeric_error, each naming file, tensor or layer; everything that can be refused is refused
/// before the first token is run.
///
/// `open` returns the backend, B&. It is called when the checks of the source are through, so that a device can be opened
/// meanwhile, and may change what `options` say of the activations.
template <class Open>
requires pipeline_backend<std::remove_reference_t<std::invoke_result_t<Open&>>> pipeline_report
quantize_model_on(Open&& open, std::filesystem::path const& source, std::filesystem::path const& target,
                  std::vector<std::vector<std::int32_t>> const& samples, pipeline_options const& options) {
  using B = std::remove_reference_t<std::invoke_result_t<Open&>>;
  model_weights const weights = open_source(source, options);
  if (weights.quantized()) throw format_error(source.string() + ": the model is quantized already");
  quantization_plan const plan(weights, options);
  detail::check_plan(weights, plan, options.format);
  output_folder folder(target, source, options.overwrite);
  std::uint64_t const estimate = detail::estimated_bytes(weights, plan, options.format);
  folder.check_space(estimate + (std::min)(estimate, options.shard_size));
  detail::check_values(weights.reader(), options);

  checkpoint_writer writer(folder.path(), options.shard_size, detail::kept_metadata(weights.reader()),
                           detail::estimated_header(weights, plan));
  detail::write_float_tensors(writer, weights, plan, options);
  pipeline_report report = detail::block_quantizer<B>(open(), weights, plan, writer, samples, options).run();
  {
    detail::activity const a(report, "write");
    writer.finish();
    write_quantization_config(folder.path(), detail::output_config(weights, options),
                              detail::quantization_settings(plan, options, weights.names().head_module()));
    copy_side_files(source, folder.path());
    folder.commit();
  }
  report.bytes_after = writer.total_size();
  for (safetensors_file const& part : weights.reader().parts())
    for (tensor_view const& t : part.tensors()) report.bytes_before += t.bytes.size();
  index_t widest = 0;
  for (auto const& l : report.linears) widest = (std::max)(widest, l.in_features);
  if (report.tokens < widest)
    report.warnings.emplace_back(std::to_string(report.tokens) + " calibration tokens are fewer than the " +
                                 std::to_string(widest) + " inputs of the widest layer");
  return report;
}

/// The same with a backend that is there already.
template <pipeline_backend B>
pipeline_report quantize_model(B& b, std::filesystem::path const& source, std::filesystem::path const& target,
                               std::vector<std::vector<std::int32_t>> const& samples, pipeline_options const& options) {
  return quantize_model_on([&]() -> B& { return b; }, source, target, samples, options);
}

}  // namespace v0
}  // namespace gptq
