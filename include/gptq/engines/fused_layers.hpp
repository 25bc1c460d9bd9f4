/// Linear layers that serving engines load as one. Their shards must agree in everything: the engine's settings know
/// only the fused name.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace gptq {
inline namespace v0 {

/// A linear layer that an engine builds from several of a checkpoint.
struct fused_layer {
  std::string_view name;                  ///< the engine's, below the block
  std::array<std::string_view, 3> parts;  ///< a checkpoint's, below the block; the last may be empty
};

/// vLLM and SGLang fuse these; TeleChat2's names are theirs after renaming.
inline constexpr std::array<fused_layer, 3> fused_layers = {{
    {"self_attn.qkv_proj", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}},
    {"mlp.gate_up_proj", {"mlp.gate_proj", "mlp.up_proj", ""}},
    {"self_attn.qkv_proj", {"self_attention.query", "self_attention.key_value", ""}},
}};

namespace detail {
inline bool ends_with_name(std::string_view module, std::string_view name) {
  return !name.empty() && module.ends_with(name) &&
         (module.size() == name.size() || module[module.size() - name.size() - 1] == '.');
}
}  // namespace detail

/// The fused layer that a module goes into, or null. `block`, if given, becomes the part of the name before it,
/// "model.layers.3.".
inline fused_layer const* fused_layer_of(std::string_view module, std::string_view* block = nullptr) {
  for (fused_layer const& f : fused_layers)
    for (std::string_view const part : f.parts)
      if (detail::ends_with_name(module, part)) {
        if (block) *block = module.substr(0, module.size() - part.size());
        return &f;
      }
  return nullptr;
}

}  // namespace v0
}  // namespace gptq
