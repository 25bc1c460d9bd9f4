/// What tells one family of decoders from another, as data: the names of its tensors, which linear layers share an
/// input, where biases are, which attention window holds. To add a family, add its description to `families`.
///
/// A block is walked in four stages. A stage is a set of linear layers that read the same tensor; their outputs lie
/// side by side in one matrix, in the order given here:
///
///   stage        reads                        writes
///   attention    norm of the states           queries | keys | values
///   context      attention's weighted values  added to the states
///   gate_up      norm of the states           gate | up
///   down         act(gate)·up                 added to the states
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace gptq {
inline namespace v0 {

inline constexpr int stage_count = 4;
enum stage : int { attention_stage, context_stage, gate_up_stage, down_stage };

/// The size of a linear layer's output, by what it is made of.
enum class output_size : unsigned char { hidden, query, key_value, mlp };

/// When a linear layer has a bias. The last two: as a key of config.json says (attention_bias, mlp_bias; absent: none).
enum class bias_rule : unsigned char { none, always, attention_key, mlp_key };

/// Which blocks see only a sliding window of earlier tokens.
///   none     no block, whatever config.json says
///   all      every block if sliding_window is set
///   flagged  if use_sliding_window is true, the blocks from max_window_layers on
/// Where config.json has layer_types, that list says which blocks.
enum class window_rule : unsigned char { none, all, flagged };

struct linear_rule {
  std::string_view name;  ///< below the block; empty: none
  output_size out = output_size::hidden;
  bias_rule bias = bias_rule::none;
};

struct stage_rule {
  std::array<linear_rule, 3> linears;
};

struct family_rule {
  std::string_view model_type;  ///< as in config.json
  window_rule window;
  std::string_view root = "model.";     ///< before all names but the head; some checkpoints lack it
  std::string_view blocks = "layers.";  ///< before the number of a block
  std::string_view attention_norm = "input_layernorm";
  std::string_view mlp_norm = "post_attention_layernorm";
  std::string_view embedding = "embed_tokens";
  std::string_view final_norm = "norm";
  std::string_view head = "lm_head";
  std::array<stage_rule, stage_count> stages;
};

namespace detail {

/// The layer names of Llama and all that followed it, with the biases given for q, k and v, for o, and for the MLP.
constexpr std::array<stage_rule, stage_count> llama_stages(bias_rule qkv, bias_rule o, bias_rule mlp) {
  return {{{{{{"self_attn.q_proj", output_size::query, qkv},
              {"self_attn.k_proj", output_size::key_value, qkv},
              {"self_attn.v_proj", output_size::key_value, qkv}}}},
           {{{{"self_attn.o_proj", output_size::hidden, o}}}},
           {{{{"mlp.gate_proj", output_size::mlp, mlp}, {"mlp.up_proj", output_size::mlp, mlp}}}},
           {{{{"mlp.down_proj", output_size::hidden, mlp}}}}}};
}

}  // namespace detail

inline constexpr std::array<family_rule, 3> families = {{
    {.model_type = "llama",
     .window = window_rule::none,
     .stages = detail::llama_stages(bias_rule::attention_key, bias_rule::attention_key, bias_rule::mlp_key)},
    {.model_type = "mistral",
     .window = window_rule::all,
     .stages = detail::llama_stages(bias_rule::none, bias_rule::none, bias_rule::none)},
    {.model_type = "qwen2",  // also Qwen2.5; the biases are in no key of config.json
     .window = window_rule::flagged,
     .stages = detail::llama_stages(bias_rule::always, bias_rule::none, bias_rule::none)},
}};

/// The family of that model_type, or null.
constexpr family_rule const* find_family(std::string_view model_type) {
  for (family_rule const& f : families)
    if (f.model_type == model_type) return &f;
  return nullptr;
}

/// "llama, mistral, qwen2"
inline std::string supported_families() {
  std::string text;
  for (family_rule const& f : families) text += (text.empty() ? "" : ", ") + std::string(f.model_type);
  return text;
}

}  // namespace v0
}  // namespace gptq
