/// What a folder will hold once it is quantized: its tensors and their places, and config.json; and what no format can hold.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/format/formats.hpp>
#include <gptq/io/reader.hpp>
#include <gptq/io/shard_layout.hpp>
#include <gptq/io/tensor.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/quantize/plan.hpp>
#include <gptq/quantize/recipe.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Refuses a plan with nothing to quantize, and layers that the format does not accept. Names the layers.
inline void check_plan(model_weights const& weights, quantization_plan const& plan, checkpoint_format format) {
  std::string const folder = weights.reader().folder().string();
  if (plan.quantized().empty()) throw shape_error(folder + ": the rules leave no layer to quantize");
  struct refusal {
    remedies change;
    std::vector<std::string> layers;
  };
  std::map<std::string, refusal> refused;  // by reason
  for (planned_linear const& p : plan.quantized())
    if (auto const no = accepts(format, outline_of(p))) {
      refused[no->reason].change = no->change;
      refused[no->reason].layers.push_back(p.info.name);
    }
  for (auto const& [reason, r] : refused) {
    std::string text = folder + ": ";
    for (std::size_t i = 0; i < r.layers.size() && i < 8; ++i) text += (i ? ", " : "") + r.layers[i];
    if (r.layers.size() > 8) text += " and " + std::to_string(r.layers.size() - 8) + " more";
    throw shape_error(text + ": " + reason, r.change);
  }
}

/// Names of the source's tensors that come with the codes: weights of the layers to quantize, and their biases.
inline std::set<std::string> replaced_tensors(quantization_plan const& plan) {
  std::set<std::string> names;
  for (planned_linear const& p : plan.quantized()) {
    names.insert(p.info.name + ".weight");
    names.insert(p.info.name + ".bias");
  }
  return names;
}

/// Biases that come with the codes and are written as float16, whatever they were.
inline std::set<std::string> converted_biases(quantization_plan const& plan) {
  std::set<std::string> names;
  for (planned_linear const& p : plan.quantized()) names.insert(p.info.name + ".bias");
  return names;
}

/// The type that a tensor which is not quantized is written in.
inline dtype kept_type(dtype type, recipe const& r) { return r.to_float16 && is_float(type) ? dtype::f16 : type; }

/// All tensors of the result in the order in which they are written: what stays in float as the source has it, then layer
/// by layer codes and biases, which are float16.
inline std::vector<tensor_outline> result_tensors(model_weights const& weights, quantization_plan const& plan,
                                                  recipe const& r) {
  std::vector<tensor_outline> tensors;
  std::set<std::string> const replaced = replaced_tensors(plan);
  for (std::string const& name : weights.reader().names()) {
    tensor_view const& t = weights.reader().at(name);
    if (!replaced.count(name)) tensors.push_back({name, kept_type(t.type, r), t.shape});
  }
  for (planned_linear const& p : plan.quantized()) {
    for (tensor_outline& t : layout(r.format, outline_of(p))) tensors.push_back(std::move(t));
    if (tensor_view const* const bias = weights.reader().find(p.info.name + ".bias"))
      tensors.push_back({bias->name, dtype::f16, bias->shape});
  }
  return tensors;
}

/// Bytes that the header of the result's tensors will take at most, metadata included.
inline std::size_t header_room(model_weights const& weights, quantization_plan const& plan) {
  constexpr std::size_t entry = 128;  // dtype, shape and offsets
  std::size_t bytes = 1024;
  for (std::string const& name : weights.reader().names()) bytes += name.size() + entry;
  for (planned_linear const& p : plan.quantized()) bytes += 5 * (p.info.name.size() + 16 + entry);
  return bytes;
}

/// Metadata of the source's files that the result keeps: where tied tensors are stored.
inline std::map<std::string, std::string> kept_metadata(checkpoint_reader const& reader) {
  std::map<std::string, std::string> kept;
  for (safetensors_file const& part : reader.parts())
    for (auto const& [key, value] : part.metadata())
      if (reader.contains(value)) kept.emplace(key, value);
  return kept;
}

/// config.json as found, with the dtype that its float tensors have now and what engines must find in it.
inline json output_config(model_weights const& weights, recipe const& r) {
  json config = weights.reader().config();
  if (r.to_float16) config[config.contains("dtype") ? "dtype" : "torch_dtype"] = "float16";
  if (std::string_view const name = weights.config().family->served_architecture; !name.empty()) {
    config["architectures"] = {std::string(name)};
    config["num_key_value_heads"] = weights.config().kv_heads;  // null is not read by all
  }
  return config;
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
