/// What tells one family of decoders from another, as data: the names of its tensors, which linear layers share an
/// input, where norms and biases are, how config.json spells its sizes, which positions and windows hold. To add a
/// family, add its description to `families`; docs/adding-a-model.md walks through one.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace gptq {
inline namespace v0 {

/// What the rows of a linear layer's weight are, which says how many there are and where the heads lie.
enum class linear_output : unsigned char {
  hidden,
  queries,
  keys,
  values,
  keys_and_values,  ///< key/value head by head: its keys, then its values
  queries_keys_values,
  mlp,
  gate_and_up
};

/// When a linear layer has a bias. The last two: as a key of config.json says (attention_bias, mlp_bias; absent: none).
enum class bias_rule : unsigned char { none, always, attention_key, mlp_key };

/// Which blocks see only a sliding window of earlier tokens.
///   none         no block, whatever config.json says
///   all          every block if sliding_window is set
///   flagged      if use_sliding_window is true, the blocks from max_window_layers on
///   alternating  the blocks of even number if sliding_window is set
/// Where config.json has layer_types, that list says which blocks.
enum class window_rule : unsigned char { none, all, flagged, alternating };

/// How config.json describes the rotary embedding: as transformers does, or by base_seqlen and training_seqlen.
enum class rotary_rule : unsigned char { standard, telechat };

/// One linear: its name, what its rows are, and when it has a bias.
struct linear_rule {
  std::string_view name;  ///< below the block; empty: none
  linear_output out = linear_output::hidden;
  bias_rule bias = bias_rule::none;
};

/// Why the layers of a linear group stay in float unless asked for, and the engines that can't load them quantized.
struct float_rule {
  std::string_view reason;  ///< empty: they are quantized
  std::string_view engines;
};

/// Linears that read the same activation; their outputs lie side by side in the order given here.
struct group_rule {
  std::array<linear_rule, 3> linears;
  std::string_view served_as = "";  ///< below the block, in the words of engines; see family_rule::served_blocks
  float_rule stays_float = {};
};

/// The norms of a layer, below the block; empty: none.
struct norm_rule {
  std::string_view attention = "input_layernorm";  ///< of the hidden states, before attention
  std::string_view attention_output = "";          ///< of what attention adds to them
  std::string_view mlp = "post_attention_layernorm";
  std::string_view mlp_output = "";
  std::string_view query = "";  ///< of each head's query, before it is rotated
  std::string_view key = "";
};

/// The keys of config.json that families spell each in their own way. The spelling of Llama is read too.
struct key_spelling {
  char const* blocks = "num_hidden_layers";
  char const* heads = "num_attention_heads";
  char const* mlp = "intermediate_size";
  char const* norm_eps = "rms_norm_eps";
  char const* positions = "max_position_embeddings";
  char const* activation = "hidden_act";  ///< null: no key says so, it is silu
};

/// A family: everything about it that is data. What is not set is as in Llama.
struct family_rule {
  std::string_view model_type;  ///< as in config.json
  std::string_view label;       ///< for people
  window_rule window = window_rule::none;
  rotary_rule rotary = rotary_rule::standard;
  key_spelling keys = {};

  std::string_view root = "model.";     ///< before all names but the head; some checkpoints lack it
  std::string_view blocks = "layers.";  ///< before the number of a block
  std::string_view embedding = "embed_tokens";
  std::string_view embedding_norm = "";  ///< present where config.json says so (embed_layernorm)
  std::string_view final_norm = "norm";
  std::string_view head = "lm_head";
  norm_rule norms = {};
  group_rule qkv = {};      ///< read the normed hidden states: queries, keys, values, wherever the linears put them
  group_rule o = {};        ///< reads the attention output
  group_rule gate_up = {};  ///< read the normed hidden states
  group_rule down = {};     ///< reads the MLP intermediate

  // For a family whose layers vLLM and SGLang know under other names than the checkpoint.
  std::string_view served_blocks = "";        ///< before the number of a block; empty: the names are the same
  std::string_view served_architecture = "";  ///< what they must find in config.json

  bool tied = false;              ///< the head is the embedding where config.json does not say
  bool norm_offset = false;       ///< norms multiply by 1 + weight
  bool partial_rotary = false;    ///< partial_rotary_factor is read; elsewhere engines disagree about it: refused
  bool scaled_embedding = false;  ///< embeddings are multiplied by sqrt(hidden)
  // A family that has one of these gives the value for a config.json without the key; 0: the key is not read.
  double query_scalar = 0;   ///< query_pre_attn_scalar: scores are divided by its root instead of that of head_dim
  double score_softcap = 0;  ///< attn_logit_softcapping
  double logit_softcap = 0;  ///< final_logit_softcapping
};

namespace detail {

/// The linears of Llama and all that followed it, with the biases given for q, k and v, for o, and for the MLP.
constexpr family_rule with_llama_linears(family_rule f, bias_rule qkv, bias_rule o, bias_rule mlp) {
  f.qkv = {.linears = {{{"self_attn.q_proj", linear_output::queries, qkv},
                        {"self_attn.k_proj", linear_output::keys, qkv},
                        {"self_attn.v_proj", linear_output::values, qkv}}}};
  f.o = {.linears = {{{"self_attn.o_proj", linear_output::hidden, o}}}};
  f.gate_up = {.linears = {{{"mlp.gate_proj", linear_output::mlp, mlp}, {"mlp.up_proj", linear_output::mlp, mlp}}}};
  f.down = {.linears = {{{"mlp.down_proj", linear_output::hidden, mlp}}}};
  return f;
}

}  // namespace detail

/// The families that there are, by model_type.
inline constexpr std::array<family_rule, 7> families = {{
    detail::with_llama_linears({.model_type = "gemma2",
                                .label = "Gemma 2",
                                .window = window_rule::alternating,
                                .keys = {.activation = "hidden_activation"},
                                .norms = {.attention_output = "post_attention_layernorm",
                                          .mlp = "pre_feedforward_layernorm",
                                          .mlp_output = "post_feedforward_layernorm"},
                                .tied = true,
                                .norm_offset = true,
                                .scaled_embedding = true,
                                .query_scalar = 256,
                                .score_softcap = 50,
                                .logit_softcap = 30},
                               bias_rule::attention_key, bias_rule::attention_key, bias_rule::none),
    detail::with_llama_linears({.model_type = "llama", .label = "Llama 2 and 3"}, bias_rule::attention_key,
                               bias_rule::attention_key, bias_rule::mlp_key),
    detail::with_llama_linears({.model_type = "mistral", .label = "Mistral", .window = window_rule::all},
                               bias_rule::none, bias_rule::none, bias_rule::none),
    {.model_type = "phi3",
     .label = "Phi-3",
     .window = window_rule::all,
     .qkv = {.linears = {{{"self_attn.qkv_proj", linear_output::queries_keys_values}}}},
     .o = {.linears = {{{"self_attn.o_proj", linear_output::hidden}}}},
     .gate_up = {.linears = {{{"mlp.gate_up_proj", linear_output::gate_and_up}}}},
     .down = {.linears = {{{"mlp.down_proj", linear_output::hidden}}}},
     .partial_rotary = true},
    detail::with_llama_linears({.model_type = "qwen2", .label = "Qwen2 and 2.5", .window = window_rule::flagged},
                               bias_rule::always, bias_rule::none, bias_rule::none),  // no key of config.json says so
    detail::with_llama_linears({.model_type = "qwen3",
                                .label = "Qwen3",
                                .window = window_rule::flagged,
                                .norms = {.query = "self_attn.q_norm", .key = "self_attn.k_norm"}},
                               bias_rule::attention_key, bias_rule::attention_key, bias_rule::none),
    {.model_type = "telechat",
     .label = "TeleChat2",
     .rotary = rotary_rule::telechat,
     .keys = {.blocks = "n_layer",
              .heads = "n_head",
              .mlp = "ffn_hidden_size",
              .norm_eps = "layer_norm_epsilon",
              .positions = "training_seqlen",
              .activation = nullptr},
     .root = "transformer.",
     .blocks = "h.",
     .embedding = "word_embeddings",
     .embedding_norm = "word_embeddings_layernorm",
     .final_norm = "ln_f",
     .qkv = {.linears = {{{"self_attention.query", linear_output::queries},
                          {"self_attention.key_value", linear_output::keys_and_values}}},
             .served_as = "self_attn.qkv_proj",
             .stays_float = {"vLLM takes key_value.weight apart by rows, which packed words do not allow, and fuses "
                             "query with it",
                             "vLLM, GPTQModel"}},
     .o = {.linears = {{{"self_attention.dense", linear_output::hidden, bias_rule::always}}},
           .served_as = "self_attn.o_proj"},
     .gate_up = {.linears = {{{"mlp.gate_proj", linear_output::mlp}, {"mlp.up_proj", linear_output::mlp}}},
                 .served_as = "mlp.gate_up_proj"},
     .down = {.linears = {{{"mlp.down_proj", linear_output::hidden, bias_rule::always}}}, .served_as = "mlp.down_proj"},
     .served_blocks = "model.layers.",
     .served_architecture = "TeleChat2ForCausalLM"},
}};

/// The family of that model_type, or null.
constexpr family_rule const* find_family(std::string_view model_type) {
  for (family_rule const& f : families)
    if (f.model_type == model_type) return &f;
  return nullptr;
}

/// "gemma2, llama, …"
inline std::string supported_families() {
  std::string text;
  for (family_rule const& f : families) text += (text.empty() ? "" : ", ") + std::string(f.model_type);
  return text;
}

}  // namespace v0
}  // namespace gptq
