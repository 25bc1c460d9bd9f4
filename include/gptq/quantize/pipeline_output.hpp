/// What a quantized folder holds beside codes: the rules for the tensors that stay in float, for config.json, and
/// everything that is refused before work starts.
#pragma once

#include <gptq/format/quantization_config.hpp>
#include <gptq/io/reader.hpp>
#include <gptq/io/side_files.hpp>
#include <gptq/io/writer.hpp>
#include <gptq/model/as_llama.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/quantize/declare.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/quantize/plan.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The model that a run quantizes: the folder's, or what it is to be written as.
inline model_weights open_source(std::filesystem::path const& source, pipeline_options const& options) {
  if (!options.as_llama) return model_weights(source);
  return model_weights(as_llama(checkpoint_reader(source)));
}

namespace detail {

template <class T>
std::span<std::byte const> bytes_of(matrix<T> const& m) {
  return {reinterpret_cast<std::byte const*>(m.data()), static_cast<std::size_t>(m.size()) * sizeof(T)};
}

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

/// Calls f(first element, count, values) over a float tensor in pieces.
template <class F>
void for_each_piece(tensor_view const& t, F&& f) {
  constexpr index_t piece = 1 << 16;
  std::vector<float> values(static_cast<std::size_t>((std::min)(piece, t.size())));
  for (index_t first = 0; first < t.size(); first += piece) {
    index_t const n = (std::min)(piece, t.size() - first);
    to_float(t, first, n, values.data());
    f(first, std::span<float const>(values.data(), static_cast<std::size_t>(n)));
  }
}

/// Whether a tensor of 16-bit floats holds nothing to complain about. Without their signs the order of their bits is that
/// of the values, with Inf and NaN above, so one maximum answers.
inline bool surely_fine(tensor_view const& t, bool to_float16) {
  if (t.type != dtype::bf16 && t.type != dtype::f16) return false;
  std::uint16_t largest = 0;
  for (index_t i = 0; i < t.size(); ++i) {
    auto const bits = static_cast<std::uint16_t>(load<std::uint16_t>(t.bytes.data(), i) & 0x7fffu);
    largest = bits > largest ? bits : largest;
  }
  return largest < (t.type == dtype::f16 ? 0x7c00u : to_float16 ? 0x4780u : 0x7f80u);
}

/// The tensors that need a closer look. Whole checkpoints go through here, so all cores take part.
inline std::vector<std::string> suspicious_tensors(checkpoint_reader const& reader, bool to_float16) {
  auto const& names = reader.names();
  std::vector<char> fine(names.size(), 0);
  std::atomic<std::size_t> next{0};
  auto const work = [&] {
    for (std::size_t i = next++; i < names.size(); i = next++) {
      tensor_view const& t = reader.at(names[i]);
      fine[i] = !is_float(t.type) || surely_fine(t, to_float16);
    }
  };
  std::vector<std::future<void>> others;
  for (unsigned i = 1; i < (std::min)(std::thread::hardware_concurrency(), 16u); ++i)
    others.push_back(std::async(std::launch::async, work));
  work();
  for (auto& other : others) other.get();
  std::vector<std::string> rest;
  for (std::size_t i = 0; i < names.size(); ++i)
    if (!fine[i]) rest.push_back(names[i]);
  return rest;
}

/// Reads every float tensor once: refuses NaN and Inf, and values that float16 can't hold if they are to be converted.
inline void check_values(checkpoint_reader const& reader, pipeline_options const& options) {
  for (std::string const& name : suspicious_tensors(reader, options.to_float16)) {
    tensor_view const& t = reader.at(name);
    for_each_piece(t, [&](index_t first, std::span<float const> values) {
      float largest = 0;
      bool finite = true;
      for (float x : values) {
        finite &= std::isfinite(x);
        largest = std::abs(x) > largest ? std::abs(x) : largest;
      }
      auto const place = [&](auto&& bad) {
        auto const at = static_cast<index_t>(std::find_if(values.begin(), values.end(), bad) - values.begin());
        return " at element " + std::to_string(first + at);
      };
      if (!finite)
        throw numeric_error(tensor_place(t) + "NaN or Inf" + place([](float x) { return !std::isfinite(x); }));
      if (options.to_float16 && largest >= 65520.0f)
        throw numeric_error(tensor_place(t) + std::to_string(largest) + " does not fit float16" + place([](float x) {
                              return std::abs(x) >= 65520.0f;
                            }) + "; keep the dtype of the source",
                            remedy::keep_dtype);
    });
  }
}

/// A tensor converted to float16, or numeric_error if a value does not fit.
inline matrix<float16> as_float16(tensor_view const& t) {
  matrix<float16> out(1, t.size());
  for_each_piece(t, [&](index_t first, std::span<float const> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      float16 const half = to_float16(values[i]);
      if (std::isinf(to_float(half)))
        throw numeric_error(tensor_place(t) + std::to_string(values[i]) + " does not fit float16");
      out.data()[first + static_cast<index_t>(i)] = half;
    }
  });
  return out;
}

/// Everything but the weights of the layers to quantize and their biases, which come with the codes.
inline void write_float_tensors(checkpoint_writer& writer, model_weights const& weights, quantization_plan const& plan,
                                pipeline_options const& options) {
  std::set<std::string> later;
  for (planned_linear const& p : plan.quantized()) {
    later.insert(p.info.name + ".weight");
    later.insert(p.info.name + ".bias");
  }
  for (std::string const& name : weights.reader().names()) {
    if (later.count(name)) continue;
    tensor_view const& t = weights.reader().at(name);
    if (options.to_float16 && is_float(t.type) && t.type != dtype::f16)
      writer.add(t.name, dtype::f16, t.shape, bytes_of(as_float16(t)));
    else
      writer.add(t);
  }
}

/// The tensors of one quantized layer; its bias, if the model stores one, as float16.
inline void write_linear(checkpoint_writer& writer, checkpoint_reader const& reader, std::string const& name,
                         packed_linear const& p) {
  write_quantized(writer, name, view(p), p.format);
  if (tensor_view const* const bias = reader.find(name + ".bias"))
    writer.add(bias->name, dtype::f16, bias->shape, bytes_of(as_float16(*bias)));
}

/// Bytes of tensor data that a run will write, where float tensors keep their types.
inline std::uint64_t estimated_bytes(model_weights const& weights, quantization_plan const& plan,
                                     checkpoint_format format) {
  std::uint64_t bytes = 0;
  for (std::string const& name : weights.reader().names()) bytes += weights.reader().at(name).bytes.size();
  for (planned_linear const& p : plan.quantized()) {
    bytes -= weights.reader().at(p.info.name + ".weight").bytes.size();
    for (tensor_outline const& t : layout(format, outline_of(p))) bytes += t.bytes();
  }
  return bytes;
}

/// Bytes that the header of the result's tensors will take at most, metadata included.
inline std::size_t estimated_header(model_weights const& weights, quantization_plan const& plan) {
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
inline json output_config(model_weights const& weights, pipeline_options const& options) {
  json config = weights.reader().config();
  if (options.to_float16) config[config.contains("dtype") ? "dtype" : "torch_dtype"] = "float16";
  if (std::string_view const name = weights.config().family->served_architecture; !name.empty()) {
    config["architectures"] = {std::string(name)};
    config["num_key_value_heads"] = weights.config().kv_heads;  // null is not read by all
  }
  return config;
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
