/// Rules of vLLM 0.32.0 and SGLang: engines that fuse layers and load the files as they are.
#pragma once

#include <gptq/engines/engine_rule.hpp>

#include <array>
#include <initializer_list>
#include <string>
#include <string_view>

namespace gptq {
inline namespace v0 {
namespace detail {

inline void check_keys(served_model const& m, rule_report& r, std::initializer_list<char const*> keys) {
  if (is_compressed(m)) return;
  for (char const* const key : keys)
    if (!m.settings.contains(key)) r.add("config.json", std::string("quantization_config has no \"") + key + "\"");
}

inline void check_siblings(served_model const& m, rule_report& r) {
  each_sibling(m, [&](fused_layer const& fused, served_linear const& a, served_linear const& b) {
    auto const says = [](served_linear const& l) { return l.quantized ? describe(l.settings) : std::string("float"); };
    auto const differ = [](layer_format const& x, layer_format const& y) { return x != y; };
    if (a.quantized != b.quantized || (a.quantized && differ(a.settings, b.settings)))
      r.add(b.name, says(b) + ", but " + a.name + " is " + says(a) + ": both are in " + std::string(fused.name));
  });
}

inline void check_desc_act(served_model const& m, rule_report& r) {
  each_quantized(m, [&](served_linear const& l) {
    if (l.settings.group_size == -1) return;
    if (l.settings.desc_act)
      r.add(verdict::refused, l.name, l.scattered ? "desc_act with a scattered g_idx" : "desc_act is declared");
    else if (l.scattered)
      r.add(verdict::wrong, l.name, "g_idx is scattered, but desc_act is false: the engine ignores g_idx");
  });
}

/// Biases that the architecture's class has.
inline bool expects_bias(served_model const& m, std::string_view name) {
  std::string const type = m.text("model_type");
  bool const qkv = ends_with_name(name, "q_proj") || ends_with_name(name, "k_proj") || ends_with_name(name, "v_proj");
  if (type == "qwen2" && qkv) return true;
  if (type == "telechat") return ends_with_name(name, "self_attention.dense") || ends_with_name(name, "down_proj");
  if (qkv || ends_with_name(name, "o_proj")) return m.flag("attention_bias") && type != "mistral";
  return m.flag("mlp_bias") && type == "llama" && name.find(".mlp.") != std::string_view::npos;
}
inline bool known_biases(served_model const& m) {
  std::string const type = m.text("model_type");
  return type == "qwen2" || type == "qwen3" || type == "llama" || type == "mistral" || type == "telechat";
}

inline void check_vllm_names(served_model const& m, rule_report& r) {
  for (std::string const& name : m.unknown_integers)
    r.add(name, "a tensor of integers: its module is taken for quantized");
  if (is_compressed(m)) return;
  auto const& lists = m.quantization.modules_in_block_to_quantize;
  auto const listed_as = [&](auto&& fits) {
    for (auto const& list : lists)
      for (std::string const& name : list)
        if (fits(name)) return true;
    return false;
  };
  if (m.text("model_type") != "telechat") {
    if (lists.empty()) return;
    each_quantized(m, [&](served_linear const& l) {  // the list takes the place of looking at the tensors
      if (in_block(l.name) && !listed_as([&](std::string const& n) { return l.name.find(n) != std::string::npos; }))
        r.add(l.name, "is quantized, but no name in modules_in_block_to_quantize is part of its name");
    });
    return;
  }
  bool const listed = listed_as([](std::string const& n) { return n.ends_with("self_attn.o_proj"); });
  each_quantized(m, [&](served_linear const& l) {
    if (ends_with_name(l.name, "self_attention.query") || ends_with_name(l.name, "self_attention.key_value"))
      r.add(l.name, "the loader takes key_value apart along the packed axis");
    else if (ends_with_name(l.name, "self_attention.dense") && !listed)
      r.add(l.name, "modules_in_block_to_quantize does not name \"self_attn.o_proj\", which the layer becomes");
  });
}

inline void check_vllm_shapes(served_model const& m, rule_report& r) {
  each_quantized(m, [&](served_linear const& l) {
    partition const p = partition_of(m, l);
    int const word = codes_of_whole_words(l.settings.bits);
    int const g = l.settings.group_size;
    verdict const v = row_parallel(l.name) && m.tensor_parallel == 1 ? verdict::wrong : verdict::refused;
    if (!p.divided)
      r.add(verdict::refused, l.name, "can't be divided by tensor parallelism " + std::to_string(m.tensor_parallel));
    else if (p.inputs % word != 0)
      r.add(v, l.name, times(p.inputs, "inputs a device do not fill whole words"));
    else if (g != -1 && p.inputs % g != 0)
      r.add(v, l.name, times(p.inputs, "inputs a device are no multiple of group_size ") + std::to_string(g));
    else if (p.outputs % word != 0)
      r.add(verdict::refused, l.name, times(p.outputs, "outputs a device do not fill whole words"));
  });
}

}  // namespace detail

/// Of vLLM.
inline constexpr std::array<engine_rule, 10> vllm_rules = {{
    {"V1",
     engine::vllm,
     verdict::refused,
     "bits, group_size, desc_act and sym are in the settings",
     "add the key to config.json and quantize_config.json",
     {},
     [](served_model const& m, rule_report& r) {
       detail::check_keys(m, r, {"bits", "group_size", "desc_act", "sym"});
     }},
    {"V2",
     engine::vllm,
     verdict::refused,
     "4 or 8 bits with symmetric grids; compressed-tensors also without",
     "quantize to 4 or 8 bits with symmetric grids; others go into compressed-tensors",
     {remedy::bits_4_or_8, remedy::symmetric, remedy::format_compressed_tensors},
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         bool const width = detail::one_of(l.settings.bits, {4, 8}) || (detail::is_compressed(m) && !l.settings.sym);
         if (!width || (!l.settings.sym && !detail::is_compressed(m))) r.add(l.name, detail::describe(l.settings));
       });
     }},
    {"V3", engine::vllm, verdict::refused, "group_size is -1, 32, 64 or 128", "quantize in groups of 128",
     remedy::group_size_128,
     [](served_model const& m, rule_report& r) {
       if (detail::is_compressed(m)) return;
       detail::each_quantized(m, [&](served_linear const& l) {
         if (!detail::one_of(l.settings.group_size, {-1, 32, 64, 128}))
           r.add(l.name, "group_size " + std::to_string(l.settings.group_size));
       });
     }},
    {"V5",
     engine::vllm,
     verdict::refused,
     "on each device inputs and outputs fill whole words and whole groups",
     "choose another group size or fewer devices, or leave the layer in float",
     {remedy::group_size, remedy::tensor_parallel, remedy::keep_layer_float},
     detail::check_vllm_shapes},
    {"V6",
     engine::vllm,
     verdict::degraded,
     "on each device inputs are a multiple of 128 and outputs of 64",
     "nothing to change: the Marlin kernel pads the layer",
     {},
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         auto const p = detail::partition_of(m, l);
         if (p.inputs % 128 != 0 || p.outputs % 64 != 0)
           r.add(l.name, std::to_string(p.outputs) + " x " + std::to_string(p.inputs) + " (out x in)");
       });
     }},
    {"V7",
     engine::vllm,
     verdict::refused,
     "layers that are loaded as one are quantized alike",
     "give them the same rule",
     {},
     detail::check_siblings},
    {"V8", engine::vllm, verdict::refused, "no desc_act with groups",
     "quantize again in the group-aware order, which needs no g_idx", remedy::order_group_aware,
     detail::check_desc_act},
    {"V9", engine::vllm, verdict::refused,
     "only quantized layers have integer tensors, and all of them are found by name",
     "remove the tensor, complete the list; TeleChat2: quantize with the default layers, or write it as Llama",
     remedy::as_llama, detail::check_vllm_names},
    {"V10",
     engine::vllm,
     verdict::refused,
     "a quantized head is declared and not tied",
     "set \"lm_head\": true and name it in modules_in_block_to_quantize, or leave it in float",
     {},
     [](served_model const& m, rule_report& r) {
       served_linear const* const head = m.find("lm_head");
       if (!head || !head->quantized || detail::is_compressed(m)) return;
       if (!m.quantization.lm_head) r.add("lm_head", "is quantized, but \"lm_head\" is not true");
       if (m.flag("tie_word_embeddings")) r.add("lm_head", "is quantized, but tied to the embedding");
       auto const& lists = m.quantization.modules_in_block_to_quantize;
       bool named = lists.empty();
       for (auto const& list : lists)
         for (auto const& name : list) named = named || name == "lm_head";
       if (!named) r.add("lm_head", "is quantized, but not in modules_in_block_to_quantize");
     }},
    {"V12",
     engine::vllm,
     verdict::wrong,
     "the biases of the files are those that the architecture has",
     "write the missing bias as zeros, or set attention_bias and mlp_bias to what the files hold",
     {},
     [](served_model const& m, rule_report& r) {
       if (!detail::known_biases(m)) return;
       for (served_linear const& l : m.linears) {
         if (!in_block(l.name)) continue;
         bool const expected = detail::expects_bias(m, l.name);
         if (expected && l.bias == bias_content::none) r.add(l.name, "has no bias: the engine's stays uninitialised");
         if (!expected && l.bias == bias_content::other) r.add(l.name, "has a bias that the engine drops");
       }
     }},
}};

/// Of SGLang.
inline constexpr std::array<engine_rule, 6> sglang_rules = {{
    {"S1",
     engine::sglang,
     verdict::refused,
     "bits, group_size and desc_act are in the settings",
     "add the key to config.json and quantize_config.json",
     {},
     [](served_model const& m, rule_report& r) {
       detail::check_keys(m, r, {"bits", "group_size", "desc_act"});
     }},
    {"S2",
     engine::sglang,
     verdict::refused,
     "4 or 8 bits sym at group_size -1, 32, 64, 128 (Marlin), or a float16 model (plain kernel)",
     "quantize to 4 or 8 bits with symmetric grids in groups of 128, or convert the model to float16",
     {remedy::bits_4_or_8, remedy::symmetric, remedy::group_size_128, remedy::dtype_float16},
     [](served_model const& m, rule_report& r) {
       if (detail::is_compressed(m)) return;
       bool const half = m.text("torch_dtype") == "float16" || m.text("dtype") == "float16";
       detail::each_quantized(m, [&](served_linear const& l) {
         auto const& s = l.settings;
         bool const marlin = detail::one_of(s.bits, {4, 8}) && s.sym && detail::one_of(s.group_size, {-1, 32, 64, 128});
         if (!marlin && !half) r.add(l.name, detail::describe(s) + " in a model that is not float16");
       });
     }},
    {"S3",
     engine::sglang,
     verdict::refused,
     "for the plain kernel, inputs fill whole groups and words, outputs words",
     "choose another group size, or leave the layer in float",
     {remedy::group_size, remedy::keep_layer_float},
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         auto const& s = l.settings;
         bool const marlin = detail::one_of(s.bits, {4, 8}) && s.sym && detail::one_of(s.group_size, {-1, 32, 64, 128});
         if (marlin || detail::is_compressed(m)) return;
         auto const p = detail::partition_of(m, l);
         int const word = codes_of_whole_words(s.bits);
         if ((s.group_size != -1 && p.inputs % s.group_size != 0) || p.inputs % word != 0 || p.outputs % word != 0 ||
             !p.divided)
           r.add(l.name,
                 std::to_string(p.outputs) + " x " + std::to_string(p.inputs) + " (out x in), " + detail::describe(s));
         if (l.name.find(".experts.") != std::string::npos) r.add(l.name, "an expert: only Marlin serves those");
       });
     }},
    {"S4",
     engine::sglang,
     verdict::refused,
     "for Marlin, on each device inputs are a multiple of 128 and outputs of 64",
     "divide the layer among fewer devices, or leave it in float",
     {remedy::tensor_parallel, remedy::keep_layer_float},
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         auto const& s = l.settings;
         bool const marlin = detail::one_of(s.bits, {4, 8}) && s.sym && detail::one_of(s.group_size, {-1, 32, 64, 128});
         auto const p = detail::partition_of(m, l);
         if (marlin && (p.inputs % 128 != 0 || p.outputs % 64 != 0 || !p.divided))
           r.add(l.name, std::to_string(p.outputs) + " x " + std::to_string(p.inputs) + " (out x in)");
       });
     }},
    {"S5",
     engine::sglang,
     verdict::refused,
     "\"dynamic\" keeps float layers in float, by the fused name too",
     "add a rule \"-:\" that matches the layer and its fused name",
     {},
     [](served_model const& m, rule_report& r) {
       if (detail::is_compressed(m)) return;
       detail::each_float_in_block(m, [&](served_linear const& l) {
         std::string_view block;
         fused_layer const* const fused = fused_layer_of(l.name, &block);
         std::string const name = fused ? std::string(block) + std::string(fused->name) : l.name;
         if (m.quantization.settings_for(name)) r.add(l.name, "is float, but no rule \"-:\" matches " + name);
       });
     }},
    {"S6", engine::sglang, verdict::refused, "layers that are loaded as one are quantized alike, without desc_act",
     "give them the same rule; quantize in the group-aware order instead of desc_act", remedy::order_group_aware,
     [](served_model const& m, rule_report& r) {
       detail::check_siblings(m, r);
       detail::each_quantized(m, [&](served_linear const& l) {
         if (l.scattered && !l.settings.desc_act)
           r.add(verdict::wrong, l.name, "g_idx is scattered, but desc_act is false: the engine ignores g_idx");
       });
     }},
}};

}  // namespace v0
}  // namespace gptq
