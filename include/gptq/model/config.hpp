/// config.json of a model, in the spellings of transformers 4 and 5, as the few numbers that running it takes.
#pragma once

#include <gptq/core/model_backend.hpp>
#include <gptq/io/json.hpp>
#include <gptq/model/config_keys.hpp>
#include <gptq/model/config_rope.hpp>
#include <gptq/model/family.hpp>
#include <gptq/model/rope.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The shape of a decoder. Sizes are plausible: positive, bounded, and they fit together.
struct model_config {
  family_rule const* family = nullptr;
  index_t hidden = 0;
  index_t mlp = 0;
  index_t blocks = 0;
  index_t heads = 0;
  index_t kv_heads = 0;
  index_t head_dim = 0;
  index_t vocabulary = 0;     ///< rows of the embedding; the tokenizer may have fewer
  index_t max_positions = 0;  ///< 0: config.json does not say
  float norm_eps = 0;
  activation_function activation = activation_function::silu;
  bool tied = false;  ///< config.json's word; what is stored decides (model_weights)
  bool attention_bias = false;
  bool mlp_bias = false;
  bool embedding_norm = false;  ///< tokens begin with a norm of their embedding
  bool residual_after_norm =
      false;  ///< attention and MLP add to the norm of the hidden states, not to the hidden states
  float embedding_scale = 1;
  float score_scale = 1;    ///< of attention scores
  float score_softcap = 0;  ///< c > 0: scores become c·tanh(score / c)
  float logit_softcap = 0;  ///< the same for logits
  rope_config rope;
  std::vector<index_t> windows;  ///< [blocks] tokens a query sees, itself included; 0: all before it

  /// Rows of the weight of a linear layer.
  [[nodiscard]] index_t size_of(linear_output o) const {
    switch (o) {
      case linear_output::queries: return heads * head_dim;
      case linear_output::keys:
      case linear_output::values: return kv_heads * head_dim;
      case linear_output::keys_and_values: return 2 * kv_heads * head_dim;
      case linear_output::queries_keys_values: return (heads + 2 * kv_heads) * head_dim;
      case linear_output::mlp: return mlp;
      case linear_output::gate_and_up: return 2 * mlp;
      default: return hidden;
    }
  }
  [[nodiscard]] bool has_bias(bias_rule r) const {
    return r == bias_rule::always || (r == bias_rule::attention_key && attention_bias) ||
           (r == bias_rule::mlp_key && mlp_bias);
  }
};

namespace detail {

inline activation_function read_activation(config_keys const& keys, family_rule const& family) {
  if (!family.keys.activation) return activation_function::silu;
  char const* const key = keys.either(family.keys.activation, key_spelling().activation);
  auto const name = keys.get<std::string>(key);
  if (name == "silu" || name == "swish") return activation_function::silu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return activation_function::gelu_tanh;
  if (name == "gelu") return activation_function::gelu_erf;
  keys.fail(key, "\"" + printable(name, 60) + "\" is not supported (silu, gelu, gelu_new, gelu_pytorch_tanh)");
}

/// A setting that only some families have; null switches it off.
inline double read_scalar(config_keys const& keys, char const* key, double family_default) {
  if (family_default == 0 || !keys.raw().contains(key)) return family_default;
  return keys.number(key, 1e-3, 1e6, 0);
}

inline std::vector<index_t> read_windows(config_keys const& keys, family_rule const& family, index_t blocks) {
  std::vector<index_t> windows(static_cast<std::size_t>(blocks), 0);
  bool const flagged = family.window == window_rule::flagged;
  bool const on = !flagged || keys.get<bool>("use_sliding_window", false);
  if (family.window == window_rule::none || !on || !keys.has("sliding_window")) return windows;
  index_t const window = keys.size("sliding_window", most_positions);
  index_t first = 0;
  if (flagged && keys.has("max_window_layers")) first = keys.get<index_t>("max_window_layers");
  index_t const step = family.window == window_rule::alternating ? 2 : 1;
  for (index_t i = std::max(first, index_t(0)); i < blocks; i += step) windows[static_cast<std::size_t>(i)] = window;
  if (!keys.has("layer_types")) return windows;

  json const& types = keys.at("layer_types");
  if (!types.is_array() || types.size() != windows.size())
    keys.fail("layer_types", "must be a list of " + std::to_string(blocks) + " strings");
  for (std::size_t i = 0; i < windows.size(); ++i) {
    bool const sliding = types[i] == "sliding_attention";
    if (!sliding && types[i] != "full_attention")
      keys.fail("layer_types", "holds " + printable(types[i].dump(), 60) +
                                   "; supported are \"full_attention\" and \"sliding_attention\"");
    windows[i] = sliding ? window : 0;
  }
  return windows;
}

}  // namespace detail

/// Reads the parsed config.json of `file`. Throws format_error naming file and key for a family that is not supported
/// and for keys that are missing, of the wrong type or absurd.
inline model_config read_model_config(json const& object, std::filesystem::path const& path) {
  std::string const file = path.string();
  if (!object.is_object()) throw format_error(file + ": a JSON object is needed, not " + object.type_name());
  detail::config_keys const keys(object, file);
  model_config c;
  auto const type = keys.get<std::string>("model_type");
  c.family = find_family(type);
  if (!c.family)
    keys.fail("model_type",
              "\"" + detail::printable(type, 60) + "\" is not supported; supported are " + supported_families());

  family_rule const& family = *c.family;
  key_spelling const usual;
  char const* const heads = keys.either(family.keys.heads, usual.heads);
  c.hidden = keys.size("hidden_size", detail::most_features);
  c.mlp = keys.size(keys.either(family.keys.mlp, usual.mlp), detail::most_features);
  c.blocks = keys.size(keys.either(family.keys.blocks, usual.blocks), 1 << 14);
  c.heads = keys.size(heads, 1 << 14);
  c.kv_heads = keys.size("num_key_value_heads", 1 << 14, c.heads);
  c.vocabulary = keys.size("vocab_size", 1 << 24);
  c.max_positions = keys.size(keys.either(family.keys.positions, usual.positions), detail::most_positions, 0);
  if (c.heads % c.kv_heads != 0)
    keys.fail("num_key_value_heads",
              "(" + std::to_string(c.kv_heads) + ") must divide " + heads + " (" + std::to_string(c.heads) + ")");
  if (!keys.has("head_dim") && c.hidden % c.heads != 0)
    keys.fail(heads, "(" + std::to_string(c.heads) + ") must divide hidden_size (" + std::to_string(c.hidden) +
                         ") where head_dim is not given");
  c.head_dim = keys.size("head_dim", 1 << 14, c.hidden / c.heads);
  if (c.heads * c.head_dim > detail::most_features)
    keys.fail(heads, "times head_dim is absurd: " + std::to_string(c.heads * c.head_dim));
  c.norm_eps = static_cast<float>(keys.number(keys.either(family.keys.norm_eps, usual.norm_eps), 1e-12, 0.1));
  c.activation = detail::read_activation(keys, family);
  c.tied = keys.get<bool>("tie_word_embeddings", family.tied);
  c.attention_bias = keys.get<bool>("attention_bias", false);
  c.mlp_bias = keys.get<bool>("mlp_bias", false);
  c.embedding_norm = !family.embedding_norm.empty() && keys.get<bool>("embed_layernorm", false);
  c.residual_after_norm = keys.get<bool>("apply_residual_connection_post_layernorm", false);
  if (family.scaled_embedding) c.embedding_scale = std::sqrt(float(c.hidden));
  double const query_scalar = detail::read_scalar(keys, "query_pre_attn_scalar", family.query_scalar);
  c.score_scale = static_cast<float>(1 / std::sqrt(query_scalar > 0 ? query_scalar : double(c.head_dim)));
  c.score_softcap = static_cast<float>(detail::read_scalar(keys, "attn_logit_softcapping", family.score_softcap));
  c.logit_softcap = static_cast<float>(detail::read_scalar(keys, "final_logit_softcapping", family.logit_softcap));
  if (keys.get<bool>("use_bidirectional_attention", false))
    keys.fail("use_bidirectional_attention", "is true, which is not supported");
  c.rope = detail::read_rope(keys, family, c.head_dim, c.max_positions, file);
  c.windows = detail::read_windows(keys, family, c.blocks);
  return c;
}

/// Reads config.json of a model folder and nothing else.
inline model_config read_model_config(std::filesystem::path const& folder) {
  std::filesystem::path const file = folder / "config.json";
  return read_model_config(read_json(file), file);
}

}  // namespace v0
}  // namespace gptq
