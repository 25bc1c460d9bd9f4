/// A quantized folder of one block, as small as shapes allow, that a test makes and spoils.
#pragma once

#include "support/temp_dir.hpp"
#include "support/tensor_list.hpp"

#include <gptq/format/formats.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/pack/pack.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace test {

/// What becomes of qzeros.
enum class zero_tensor : unsigned char { full, empty, none };

struct tiny_layer {
  std::string name;
  gptq::index_t inputs = 128;
  gptq::index_t outputs = 128;
  bool quantized = true;
  gptq::quant_spec spec = {};
  int zero = -1;  ///< -1: that of symmetric grids; all zero points otherwise
  bool g_idx = true;
  zero_tensor qzeros = zero_tensor::full;
  float bias = -1;  ///< its value; -1: none
};

struct gptq_folder {
  gptq::json config = {{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}, {"torch_dtype", "float16"}};
  gptq::quantization_config settings;
  std::vector<tiny_layer> layers;
  std::vector<std::string> integers;       ///< names of tensors that have no business there
  std::vector<std::string> without;        ///< keys to leave out of the settings
  gptq::json with = gptq::json::object();  ///< keys to add to them

  gptq_folder() {
    for (char const* const name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                   "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
      layers.push_back({.name = std::string("model.layers.0.") + name});
    settings.damp_percent = 0.01;
  }

  /// The layers whose names end so.
  template <class F>
  gptq_folder& edit(std::string const& end, F&& f) {
    for (tiny_layer& l : layers)
      if (l.name.ends_with(end)) f(l);
    return *this;
  }

  void write(std::filesystem::path const& folder) const {
    std::filesystem::create_directories(folder);
    tensor_list writer;
    std::vector<gptq::float16> const embedding(128 * 4, gptq::to_float16(1));
    writer.add("model.embed_tokens.weight", gptq::dtype::f16, {4, 128}, std::as_bytes(std::span(embedding)));
    for (tiny_layer const& l : layers) add(writer, l);
    std::int32_t const one = 1;
    for (std::string const& name : integers) writer.add(name, gptq::dtype::i32, {1}, std::as_bytes(std::span(&one, 1)));
    writer.write(folder);
    gptq::json object = to_json(settings);
    for (auto const& key : without) object.erase(key);
    object.update(with);
    gptq::json document = config;
    document["quantization_config"] = object;
    gptq::write_json(folder / "config.json", document);
    if (settings.format != gptq::checkpoint_format::compressed_tensors)
      gptq::write_json(folder / "quantize_config.json", object);
  }

 private:
  void add(tensor_list& writer, tiny_layer const& l) const {
    if (l.bias >= 0) {
      std::vector<gptq::float16> const bias(static_cast<std::size_t>(l.outputs), gptq::to_float16(l.bias));
      writer.add(l.name + ".bias", gptq::dtype::f16, {l.outputs}, std::as_bytes(std::span(bias)));
    }
    if (!l.quantized) {
      std::vector<gptq::float16> const weight(static_cast<std::size_t>(l.outputs * l.inputs), gptq::to_float16(1));
      writer.add(l.name + ".weight", gptq::dtype::f16, {l.outputs, l.inputs}, std::as_bytes(std::span(weight)));
      return;
    }
    gptq::quantized_linear q;
    q.spec = l.spec.format();
    gptq::index_t const groups = gptq::group_count(l.inputs, l.spec.group_size);
    q.codes = gptq::matrix<std::uint8_t>(l.inputs, l.outputs);
    for (gptq::index_t i = 0; i < q.codes.size(); ++i)
      q.codes.data()[i] = static_cast<std::uint8_t>((i * 7 + i / 11) % (1 << l.spec.bits));
    q.scales = gptq::matrix<float>(groups, l.outputs);
    q.zeros = gptq::matrix<std::uint8_t>(groups, l.outputs);
    for (gptq::index_t i = 0; i < q.scales.size(); ++i) {
      q.scales.data()[i] = 0.5f + static_cast<float>(i % 8) / 8;
      q.zeros.data()[i] = static_cast<std::uint8_t>(l.zero < 0 ? 1 << (l.spec.bits - 1) : l.zero);
    }
    if (l.spec.order == gptq::column_order::desc_act) {
      q.g_idx.resize(static_cast<std::size_t>(l.inputs));
      for (gptq::index_t k = 0; k < l.inputs; ++k)
        q.g_idx[static_cast<std::size_t>(k)] = static_cast<std::int32_t>(k % groups);
    }
    // Packed as version 2, which can say everything; write_quantized makes the rest of it.
    auto p = gptq::pack(q, gptq::checkpoint_format::gptq_v2);
    if (settings.format == gptq::checkpoint_format::gptq && l.zero == 0) {
      p.format = gptq::checkpoint_format::gptq;  // what a field of all ones reads as, which nobody should write
      for (gptq::index_t i = 0; i < p.qzeros.size(); ++i) p.qzeros.data()[i] = -1;
      return raw(writer, l.name, p);
    }
    if (l.g_idx && l.qzeros == zero_tensor::full) return write_quantized(writer, l.name, view(p), settings.format);
    p.format = settings.format;
    if (settings.format == gptq::checkpoint_format::gptq) p = gptq::pack(q, gptq::checkpoint_format::gptq);
    if (!l.g_idx) p.g_idx.clear();
    if (l.qzeros != zero_tensor::full) p.qzeros = gptq::matrix<std::int32_t>(p.qzeros.rows(), 0);
    raw(writer, l.name, p, l.qzeros == zero_tensor::none);
  }

  static void raw(tensor_list& writer, std::string const& name, gptq::packed_linear const& p,
                  bool without_zeros = false) {
    auto const bytes = [](auto const& m) {
      return std::as_bytes(std::span(m.data(), static_cast<std::size_t>(m.size())));
    };
    writer.add(name + ".qweight", gptq::dtype::i32, {p.qweight.rows(), p.qweight.cols()}, bytes(p.qweight));
    if (!without_zeros)
      writer.add(name + ".qzeros", gptq::dtype::i32, {p.qzeros.rows(), p.qzeros.cols()}, bytes(p.qzeros));
    writer.add(name + ".scales", gptq::dtype::f16, {p.scales.rows(), p.scales.cols()}, bytes(p.scales));
    if (!p.g_idx.empty())
      writer.add(name + ".g_idx", gptq::dtype::i32, {p.in_features}, std::as_bytes(std::span(p.g_idx)));
  }
};

}  // namespace test
