/// A quantized model as an engine meets it: settings and linear layers, of a finished folder or of one that is planned.
#pragma once

#include <gptq/engines/fused_layers.hpp>
#include <gptq/engines/inspect.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/io/json.hpp>
#include <gptq/io/reader.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What a bias holds.
enum class bias_content : unsigned char { none, zero, other };

/// One linear layer, quantized or in float.
struct served_linear {
  std::string name;
  bool quantized = false;
  bias_content bias = bias_content::none;
  index_t inputs = 0;
  index_t outputs = 0;
  module_settings settings;  ///< of what is stored; desc_act as declared. From here on: quantized ones only
  bool scattered = false;    ///< g_idx
  bool has_g_idx = true;
  bool zero_points_of_0 = false;  ///< one is 0, or may become 0
};

/// All that rules of engines look at.
struct served_model {
  json config;    ///< config.json
  json settings;  ///< the quantization settings as written
  quantization_config quantization;
  std::vector<served_linear> linears;         ///< all with two dimensions but the embedding
  std::vector<std::string> unknown_integers;  ///< tensors that are no floats and no part of a quantized layer
  int tensor_parallel = 1;

  [[nodiscard]] served_linear const* find(std::string_view name) const {
    for (served_linear const& l : linears)
      if (l.name == name) return &l;
    return nullptr;
  }
  [[nodiscard]] std::string text(char const* key) const {
    return config.contains(key) && config.at(key).is_string() ? config.at(key).get<std::string>() : std::string();
  }
  [[nodiscard]] bool flag(char const* key) const {
    return config.contains(key) && config.at(key).is_boolean() && config.at(key).get<bool>();
  }
};

/// Whether a name lies in a numbered block ("model.layers.3.mlp.up_proj"), whose linear layers engines take for
/// quantized.
inline bool in_block(std::string_view name) {
  for (std::size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
    std::size_t const end = name.find('.', dot + 1);
    if (end == std::string_view::npos) return false;
    std::string_view const part = name.substr(dot + 1, end - dot - 1);
    if (!part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; }))
      return true;
  }
  return false;
}

/// What a bias tensor holds; null: there is none.
inline bias_content content_of(tensor_view const* bias) {
  if (!bias) return bias_content::none;
  bool zero = true;
  for (std::byte const b : bias->bytes) zero = zero && (b == std::byte{0} || b == std::byte{0x80});
  return zero ? bias_content::zero : bias_content::other;
}

namespace detail {

inline bool is_embedding(std::string_view module) {
  for (std::string_view const name : {"embed_tokens", "word_embeddings", "wte", "wpe", "embed_positions"})
    if (ends_with_name(module, name)) return true;
  return false;
}

inline bool belongs_to_quantized(served_model const& m, std::string_view tensor) {
  served_linear const* const l = m.find(parent_name(tensor));
  return l && l->quantized;
}

}  // namespace detail

/// What `found` says of an open folder. Layers that could not be read are left out: they are among its problems.
inline served_model served(checkpoint_reader const& reader, inspection const& found) {
  served_model m;
  m.config = reader.config();
  if (found.quantization) m.quantization = *found.quantization;
  m.settings = quantization_object(reader.folder(), reader.config());
  for (module_facts const& f : found.modules) {
    if (f.shape.size() != 2 || detail::is_embedding(f.name) || (f.quantized && f.groups == 0)) continue;
    served_linear l;
    l.name = f.name;
    l.quantized = f.quantized;
    l.outputs = f.shape[0];
    l.inputs = f.shape[1];
    l.bias = content_of(reader.find(f.name + ".bias"));
    if (f.quantized) {
      auto const declared = m.quantization.settings_for(f.name);
      bool const sym = f.lowest_zero == f.highest_zero && f.lowest_zero == sym_zero(f.spec.bits);
      l.settings = {f.spec, declared && declared->desc_act};
      l.settings.sym = f.spec.sym && sym;
      l.scattered = f.scattered;
      l.has_g_idx = f.has_g_idx;
      l.zero_points_of_0 = f.lowest_zero == 0;
    } else if (!reader.contains(f.name + ".weight")) {
      continue;
    }
    m.linears.push_back(std::move(l));
  }
  for (std::string const& name : reader.names())
    if (!is_float(reader.at(name).type) && !detail::belongs_to_quantized(m, name)) m.unknown_integers.push_back(name);
  return m;
}

}  // namespace v0
}  // namespace gptq
