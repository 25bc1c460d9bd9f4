/// config.json of a model, in the spellings of transformers 4 and 5, as the few numbers that running it takes.
#pragma once

#include <gptq/checkpoint/json.hpp>
#include <gptq/core/forward.hpp>
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
  rope_config rope;
  std::vector<index_t> windows;  ///< [blocks] tokens a query sees, itself included; 0: all before it

  [[nodiscard]] index_t size_of(output_size s) const {
    switch (s) {
      case output_size::query: return heads * head_dim;
      case output_size::key_value: return kv_heads * head_dim;
      case output_size::mlp: return mlp;
      default: return hidden;
    }
  }
  [[nodiscard]] bool has_bias(bias_rule r) const {
    return r == bias_rule::always || (r == bias_rule::attention_key && attention_bias) ||
           (r == bias_rule::mlp_key && mlp_bias);
  }
  /// Features that the linear layers of a stage read.
  [[nodiscard]] index_t stage_inputs(int s) const {
    return s == context_stage ? heads * head_dim : s == down_stage ? mlp : hidden;
  }
  /// Features that they write, side by side.
  [[nodiscard]] index_t stage_outputs(int s) const {
    index_t n = 0;
    for (linear_rule const& l : family->stages[static_cast<std::size_t>(s)].linears)
      if (!l.name.empty()) n += size_of(l.out);
    return n;
  }
};

namespace detail {

/// Reads keys of one config.json; every failure names file and key.
class config_keys {
 public:
  config_keys(json const& object, std::string file) : object_(object), file_(std::move(file)) {}

  [[noreturn]] void fail(std::string const& key, std::string const& reason) const {
    throw format_error(file_ + ": \"" + key + "\" " + reason);
  }
  [[nodiscard]] bool has(char const* key) const {
    auto const found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }
  [[nodiscard]] json const& at(char const* key) const { return *object_.find(key); }
  [[nodiscard]] config_keys object(char const* key) const {
    if (!at(key).is_object()) fail(key, "must be an object");
    return {at(key), file_};
  }
  template <class T>
  [[nodiscard]] T get(char const* key) const {
    return value_of<T>(object_, key, file_);
  }
  template <class T>
  [[nodiscard]] T get(char const* key, T fallback) const {
    return value_or<T>(object_, key, std::move(fallback), file_);
  }
  /// An integer in [1, most].
  [[nodiscard]] index_t size(char const* key, index_t most) const {
    auto const n = get<index_t>(key);
    if (n < 1 || n > most) fail(key, "must be from 1 to " + std::to_string(most) + ", not " + std::to_string(n));
    return n;
  }
  [[nodiscard]] index_t size(char const* key, index_t most, index_t fallback) const {
    return has(key) ? size(key, most) : fallback;
  }
  /// A number in [least, most].
  [[nodiscard]] double number(char const* key, double least, double most) const {
    auto const x = get<double>(key);
    if (!(x >= least && x <= most))
      fail(key, "must be from " + short_text(least) + " to " + short_text(most) + ", not " + short_text(x));
    return x;
  }
  [[nodiscard]] double number(char const* key, double least, double most, double fallback) const {
    return has(key) ? number(key, least, most) : fallback;
  }
  [[nodiscard]] json const& raw() const { return object_; }

 private:
  static std::string short_text(double x) { return json(x).dump(); }

  json const& object_;
  std::string file_;
};

inline constexpr index_t most_features = index_t(1) << 22;
inline constexpr index_t most_positions = index_t(1) << 30;

inline activation_function read_activation(config_keys const& keys) {
  auto const name = keys.get<std::string>("hidden_act");
  if (name == "silu" || name == "swish") return activation_function::silu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return activation_function::gelu_tanh;
  if (name == "gelu") return activation_function::gelu_erf;
  keys.fail("hidden_act", "\"" + printable(name, 60) + "\" is not supported (silu, gelu, gelu_new, gelu_pytorch_tanh)");
}

/// rope_parameters (transformers 5), else rope_scaling (4): the object that says how positions are scaled, or null.
inline json const* rope_object(config_keys const& keys) {
  char const* const key = keys.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!keys.has(key)) return nullptr;
  json const& found = keys.object(key).raw();
  if (found.empty() || !found.begin()->is_object()) return &found;
  // One object per kind of attention.
  for (json const& one : found)
    if (one != *found.begin()) keys.fail(key, "differs between kinds of attention, which is not supported");
  return &*found.begin();
}

inline rope_config read_rope(config_keys const& keys, index_t head_dim, index_t max_positions,
                             std::string const& file) {
  static json const none = json::object();
  json const* const found = rope_object(keys);
  config_keys const scaling(found ? *found : none, file);
  rope_config rope;
  rope.theta =
      scaling.has("rope_theta") ? scaling.number("rope_theta", 1, 1e12) : keys.number("rope_theta", 1, 1e12, 1e4);
  auto const& partial = scaling.has("partial_rotary_factor") ? scaling : keys;
  double const part = partial.number("partial_rotary_factor", 0, 1, 1);
  rope.dim = static_cast<index_t>(std::floor(part * double(head_dim)));
  if (rope.dim < 2 || rope.dim % 2 != 0)
    keys.fail(part < 1 ? "partial_rotary_factor" : "head_dim",
              "leaves " + std::to_string(rope.dim) + " features for the rotary embedding, which must be even");

  char const* const type_key = scaling.has("rope_type") ? "rope_type" : "type";
  auto const type = scaling.get<std::string>(type_key, "default");
  if (type == "default") return rope;
  if (type == "linear") {
    rope.type = rope_type::linear;
    rope.factor = scaling.number("factor", 1, 1e6);
  } else if (type == "dynamic") {
    rope.type = rope_type::dynamic;
    rope.factor = scaling.number("factor", 1, 1e6);
    if (max_positions == 0) keys.fail("max_position_embeddings", "is missing; \"dynamic\" positions need it");
    rope.original_positions = max_positions;
  } else if (type == "llama3") {
    rope.type = rope_type::llama3;
    rope.factor = scaling.number("factor", 1, 1e6);
    rope.low_frequency = scaling.number("low_freq_factor", 1e-3, 1e6);
    rope.high_frequency = scaling.number("high_freq_factor", 1e-3, 1e6);
    rope.original_positions = scaling.size("original_max_position_embeddings", most_positions);
    if (rope.low_frequency >= rope.high_frequency)
      scaling.fail("low_freq_factor", "must be less than \"high_freq_factor\"");
  } else {
    scaling.fail(type_key, "\"" + printable(type, 60) + "\" is not supported (default, linear, dynamic, llama3)");
  }
  return rope;
}

inline std::vector<index_t> read_windows(config_keys const& keys, family_rule const& family, index_t blocks) {
  std::vector<index_t> windows(static_cast<std::size_t>(blocks), 0);
  bool const flagged = family.window == window_rule::flagged;
  bool const on = !flagged || keys.get<bool>("use_sliding_window", false);
  if (family.window == window_rule::none || !on || !keys.has("sliding_window")) return windows;
  index_t const window = keys.size("sliding_window", most_positions);
  index_t first = 0;
  if (flagged && keys.has("max_window_layers")) first = keys.get<index_t>("max_window_layers");
  for (index_t i = std::max(first, index_t(0)); i < blocks; ++i) windows[static_cast<std::size_t>(i)] = window;
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

  c.hidden = keys.size("hidden_size", detail::most_features);
  c.mlp = keys.size("intermediate_size", detail::most_features);
  c.blocks = keys.size("num_hidden_layers", 1 << 14);
  c.heads = keys.size("num_attention_heads", 1 << 14);
  c.kv_heads = keys.size("num_key_value_heads", 1 << 14, c.heads);
  c.vocabulary = keys.size("vocab_size", 1 << 24);
  c.max_positions = keys.size("max_position_embeddings", detail::most_positions, 0);
  if (c.heads % c.kv_heads != 0)
    keys.fail("num_key_value_heads",
              "(" + std::to_string(c.kv_heads) + ") must divide num_attention_heads (" + std::to_string(c.heads) + ")");
  if (!keys.has("head_dim") && c.hidden % c.heads != 0)
    keys.fail("num_attention_heads", "(" + std::to_string(c.heads) + ") must divide hidden_size (" +
                                         std::to_string(c.hidden) + ") where head_dim is not given");
  c.head_dim = keys.size("head_dim", 1 << 14, c.hidden / c.heads);
  if (c.heads * c.head_dim > detail::most_features)
    keys.fail("num_attention_heads", "times head_dim is absurd: " + std::to_string(c.heads * c.head_dim));
  c.norm_eps = static_cast<float>(keys.number("rms_norm_eps", 1e-12, 0.1));
  c.activation = detail::read_activation(keys);
  c.tied = keys.get<bool>("tie_word_embeddings", false);
  c.attention_bias = keys.get<bool>("attention_bias", false);
  c.mlp_bias = keys.get<bool>("mlp_bias", false);
  c.rope = detail::read_rope(keys, c.head_dim, c.max_positions, file);
  c.windows = detail::read_windows(keys, *c.family, c.blocks);
  return c;
}

/// Reads config.json of a model folder and nothing else.
inline model_config read_model_config(std::filesystem::path const& folder) {
  std::filesystem::path const file = folder / "config.json";
  return read_model_config(read_json(file), file);
}

}  // namespace v0
}  // namespace gptq
