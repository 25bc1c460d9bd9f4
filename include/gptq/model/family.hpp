/// What tells one family of decoders from another, as data: the names of its tensors, which linear layers share an
/// input, where norms and biases are, how config.json spells its sizes, which positions and windows hold. To add a
/// family, add its description to `families`; docs/adding-a-model.md walks through one.
///
/// A block is walked in four stages. A stage is a set of linear layers that read the same tensor; their outputs lie
/// side by side in one matrix, in the order given here:
///
///   stage        reads                        writes
///   attention    norm of the states           queries, keys, values, wherever the layers put them
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

/// The norms of a block: before attention and MLP; of their results before those are added to the states; of each head's
/// query and key before they are rotated.
inline constexpr int norm_count = 6;
enum block_norm : int { attention_norm, attention_output_norm, mlp_norm, mlp_output_norm, query_norm, key_norm };

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

struct linear_rule {
  std::string_view name;  ///< below the block; empty: none
  linear_output out = linear_output::hidden;
  bias_rule bias = bias_rule::none;
};

/// Why the layers of a stage stay in float unless asked for, and the engines that can't load them quantized.
struct float_rule {
  std::string_view reason;  ///< empty: they are quantized
  std::string_view engines;
};

struct stage_rule {
  std::array<linear_rule, 3> linears;
  std::string_view served_as = "";  ///< below the block, in the words of engines; see family_rule::served_blocks
  float_rule stays_float = {};
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
  std::array<std::string_view, norm_count> norms;  ///< below the block, by block_norm; empty: none
  std::array<stage_rule, stage_count> stages;

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

/// The layer names of Llama and all that followed it, with the biases given for q, k and v, for o, and for the MLP.
constexpr std::array<stage_rule, stage_count> llama_stages(bias_rule qkv, bias_rule o, bias_rule mlp) {
  return {{{{{{"self_attn.q_proj", linear_output::queries, qkv},
              {"self_attn.k_proj", linear_output::keys, qkv},
              {"self_attn.v_proj", linear_output::values, qkv}}}},
           {{{{"self_attn.o_proj", linear_output::hidden, o}}}},
           {{{{"mlp.gate_proj", linear_output::mlp, mlp}, {"mlp.up_proj", linear_output::mlp, mlp}}}},
           {{{{"mlp.down_proj", linear_output::hidden, mlp}}}}}};
}

inline constexpr std::array<std::string_view, norm_count> llama_norms = {
    {"input_layernorm", "", "post_attention_layernorm", "", "", ""}};

}  // namespace detail

inline constexpr std::array<family_rule, 7> families = {{
    {.model_type = "gemma2",
     .label = "Gemma 2",
     .window = window_rule::alternating,
     .keys = {.activation = "hidden_activation"},
     .norms = {{"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                "post_feedforward_layernorm", "", ""}},
     .stages = detail::llama_stages(bias_rule::attention_key, bias_rule::attention_key, bias_rule::none),
     .tied = true,
     .norm_offset = true,
     .scaled_embedding = true,
     .query_scalar = 256,
     .score_softcap = 50,
     .logit_softcap = 30},
    {.model_type = "llama",
     .label = "Llama 2 and 3",
     .norms = detail::llama_norms,
     .stages = detail::llama_stages(bias_rule::attention_key, bias_rule::attention_key, bias_rule::mlp_key)},
    {.model_type = "mistral",
     .label = "Mistral",
     .window = window_rule::all,
     .norms = detail::llama_norms,
     .stages = detail::llama_stages(bias_rule::none, bias_rule::none, bias_rule::none)},
    {.model_type = "phi3",
     .label = "Phi-3",
     .window = window_rule::all,
     .norms = detail::llama_norms,
     .stages = {{{{{{"self_attn.qkv_proj", linear_output::queries_keys_values}}}},
                 {{{{"self_attn.o_proj", linear_output::hidden}}}},
                 {{{{"mlp.gate_up_proj", linear_output::gate_and_up}}}},
                 {{{{"mlp.down_proj", linear_output::hidden}}}}}},
     .partial_rotary = true},
    {.model_type = "qwen2",  // the biases are in no key of config.json
     .label = "Qwen2 and 2.5",
     .window = window_rule::flagged,
     .norms = detail::llama_norms,
     .stages = detail::llama_stages(bias_rule::always, bias_rule::none, bias_rule::none)},
    {.model_type = "qwen3",
     .label = "Qwen3",
     .window = window_rule::flagged,
     .norms = {{"input_layernorm", "", "post_attention_layernorm", "", "self_attn.q_norm", "self_attn.k_norm"}},
     .stages = detail::llama_stages(bias_rule::attention_key, bias_rule::attention_key, bias_rule::none)},
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
     .norms = detail::llama_norms,
     .stages =
         {{{{{{"self_attention.query", linear_output::queries},
              {"self_attention.key_value", linear_output::keys_and_values}}},
            "self_attn.qkv_proj",
            {"vLLM takes key_value.weight apart by rows, which packed words do not allow, and fuses query with it",
             "vLLM, GPTQModel"}},
           {{{{"self_attention.dense", linear_output::hidden, bias_rule::always}}}, "self_attn.o_proj"},
           {{{{"mlp.gate_proj", linear_output::mlp}, {"mlp.up_proj", linear_output::mlp}}}, "mlp.gate_up_proj"},
           {{{{"mlp.down_proj", linear_output::hidden, bias_rule::always}}}, "mlp.down_proj"}}},
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
