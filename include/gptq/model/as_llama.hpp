/// The same model as a Llama checkpoint: for TeleChat2, whose own names and fused layer engines load only in part.
#pragma once

#include <gptq/io/json.hpp>
#include <gptq/io/reader.hpp>
#include <gptq/io/tensor.hpp>
#include <gptq/model/config.hpp>
#include <gptq/model/decoder_layer.hpp>
#include <gptq/model/names.hpp>
#include <gptq/model/rope.hpp>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// config.json of the Llama that computes the same. Throws format_error for what Llama does not have.
inline json llama_config(json const& source, model_config const& c, std::string const& file) {
  config_keys const keys(source, file);
  if (c.family->rotary != rotary_rule::telechat)
    keys.fail("model_type", "is not \"telechat\": only TeleChat2 is rewritten as Llama");
  if (c.embedding_norm) keys.fail("embed_layernorm", "is true, which Llama does not have");
  if (c.residual_after_norm)
    keys.fail("apply_residual_connection_post_layernorm", "is true, which Llama does not have");
  json out = {{"architectures", {"LlamaForCausalLM"}},
              {"model_type", "llama"},
              {"hidden_size", c.hidden},
              {"intermediate_size", c.mlp},
              {"num_hidden_layers", c.blocks},
              {"num_attention_heads", c.heads},
              {"num_key_value_heads", c.kv_heads},
              {"head_dim", c.head_dim},
              {"hidden_act", "silu"},
              {"attention_bias", true},
              {"mlp_bias", true},
              {"rms_norm_eps", keys.number(keys.either(c.family->keys.norm_eps, key_spelling().norm_eps), 0, 1)},
              {"rope_theta", rope_base(c.rope, 1)},
              {"rope_scaling", nullptr},
              {"vocab_size", c.vocabulary},
              {"tie_word_embeddings", c.tied}};
  if (c.max_positions > 0) out["max_position_embeddings"] = c.max_positions;
  for (char const* const key : {"bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "initializer_range",
                                "attention_dropout", "use_cache", "torch_dtype", "dtype", "transformers_version"})
    if (source.contains(key)) out[key] = source.at(key);
  return out;
}

/// Tensors under Llama's names. What is only renamed stays where it is; the rest gets memory of its own.
class llama_tensors {
 public:
  llama_tensors(checkpoint_reader const& source, model_config const& from, model_config const& to, std::string root)
      : source_(source), config_(from), from_(from, std::move(root)), to_(to, std::string(to.family->root)) {
    rename(from_.embedding(), to_.embedding());
    rename(from_.final_norm(), to_.final_norm());
    rename(from_.head(), to_.head());
    for (index_t i = 0; i < from.blocks; ++i) {
      block_graph const old = decoder_layer(from, from_.block(i), i);
      block_graph const now = decoder_layer(to, to_.block(i), i);
      for (std::size_t t = 0; t < now.tensors.size(); ++t) rename(old.tensors[t].name, now.tensors[t].name);
      for (std::size_t g = 0; g < now.groups.size(); ++g) convert(old.groups[g].linears, now.groups[g].linears);
    }
    for (std::string const& name : source.names())
      if (!used_.count(name) && !model_names::is_no_weight(name))
        throw format_error(tensor_place(source.at(name)) + "has no place in a Llama checkpoint");
  }

  std::vector<tensor_view> views;
  std::vector<std::unique_ptr<std::byte[]>> storage;

 private:
  void rename(std::string const& from, std::string const& to) {
    tensor_view const* const t = source_.find(from);
    used_.insert(from);
    if (!t) return;  // a tied head; what is missing is found where the result is opened
    views.push_back(*t);
    views.back().name = to;
  }

  /// A tensor of its own, like `t` but for name and shape; its bytes are zero.
  std::byte* add(tensor_view const& t, std::string name, std::vector<std::int64_t> shape) {
    std::size_t bytes = size_of(t.type);
    for (std::int64_t const n : shape) bytes *= static_cast<std::size_t>(n);
    storage.push_back(std::make_unique<std::byte[]>(bytes));
    views.push_back({std::move(name), t.type, std::move(shape), {storage.back().get(), bytes}, t.file});
    return storage.back().get();
  }

  /// Keys and values that are one linear become two; the rest gets other names.
  void convert(std::vector<linear_info> const& from, std::vector<linear_info> const& to) {
    std::size_t next = 0;
    for (std::size_t l = 0; l < from.size(); ++l) {
      bool const pairs = from[l].rows != to[next].rows;
      if (pairs)
        split(from[l], to[next], to[next + 1]);
      else
        rename(from[l].name + ".weight", to[next].name + ".weight");
      for (std::size_t end = next + (pairs ? 2 : 1); next < end; ++next) {
        std::string const bias = to[next].name + ".bias";
        if (from[l].has_bias)
          rename(from[l].name + ".bias", bias);
        else if (tensor_view const* const t = source_.find(from[l].name + ".weight"))
          add(*t, bias, {to[next].rows});
      }
    }
  }

  /// Rows head by head, keys before values, into all keys and all values.
  void split(linear_info const& from, linear_info const& keys, linear_info const& values) {
    tensor_view const* const t = source_.find(from.name + ".weight");
    used_.insert(from.name + ".weight");
    if (!t) return;
    if (t->shape != std::vector<std::int64_t>{from.rows, from.inputs})
      throw format_error(tensor_place(*t) + "the shape must be [" + std::to_string(from.rows) + ", " +
                         std::to_string(from.inputs) + "]");
    std::size_t const head =
        static_cast<std::size_t>(config_.head_dim * from.inputs) * size_of(t->type);  // bytes of its rows
    std::byte* const k = add(*t, keys.name + ".weight", {keys.rows, keys.inputs});
    std::byte* const v = add(*t, values.name + ".weight", {values.rows, values.inputs});
    for (std::size_t h = 0; h < static_cast<std::size_t>(config_.kv_heads); ++h) {
      std::memcpy(k + h * head, t->bytes.data() + 2 * h * head, head);
      std::memcpy(v + h * head, t->bytes.data() + (2 * h + 1) * head, head);
    }
  }

  checkpoint_reader const& source_;
  model_config const& config_;
  model_names from_;
  model_names to_;
  std::set<std::string> used_;
};

}  // namespace detail

/// A TeleChat2 folder as the Llama checkpoint that computes the same for texts up to the length it was trained on:
/// key_value in two, Llama's names, biases of zero where TeleChat2 has none, the base of the rotary embedding grown as
/// its rule says. Exact: no value is changed. Throws format_error for other models and for what Llama does not have.
inline checkpoint_reader as_llama(checkpoint_reader source) {
  std::filesystem::path const file = source.folder() / "config.json";
  model_config const from = read_model_config(source.config(), file);
  json config = detail::llama_config(source.config(), from, file.string());
  model_config const to = read_model_config(config, file);
  std::string root(from.family->root);
  if (!source.contains(model_names(from, root).final_norm())) root.clear();
  detail::llama_tensors converted(source, from, to, root);
  return {std::move(source), std::move(config), std::move(converted.views), std::move(converted.storage)};
}

}  // namespace v0
}  // namespace gptq
