/// Rules of transformers with optimum, GPTQModel, ExLlamaV2, llama.cpp, ONNX Runtime GenAI and OpenVINO.
#pragma once

#include <gptq/engines/engine_rule.hpp>

#include <array>
#include <set>
#include <string>
#include <string_view>

namespace gptq {
inline namespace v0 {
namespace detail {

inline void refuse_compressed(served_model const& m, rule_report& r) {
  if (is_compressed(m)) r.add("config.json", "compressed-tensors is not read as GPTQ");
}

inline void check_float_rules(served_model const& m, rule_report& r) {
  bool const telechat = m.text("model_type") == "telechat";
  each_float_in_block(m, [&](served_linear const& l) {
    if (telechat && fused_layer_of(l.name) && l.name.find("self_attention.") != std::string::npos) return;
    if (m.quantization.settings_for(l.name)) r.add(l.name, "is float, but no rule \"-:\" of \"dynamic\" says so");
  });
  if (telechat)
    each_quantized(m, [&](served_linear const& l) {
      if (ends_with_name(l.name, "query") || ends_with_name(l.name, "key_value"))
        r.add(l.name, "its definition of TeleChat2 leaves the layer in float");
    });
}

inline void check_module_lists(served_model const& m, rule_report& r) {
  json const* const lists =
      m.settings.contains("modules_in_block_to_quantize") ? &m.settings.at("modules_in_block_to_quantize") : nullptr;
  if (lists && lists->is_array())
    for (json const& list : *lists)
      if (!list.is_array()) return r.add("config.json", "modules_in_block_to_quantize is not a list of lists");
  bool const listed = lists && !lists->is_null();
  for (served_linear const& l : m.linears) {
    if (!in_block(l.name)) continue;
    bool named = !listed;
    for (auto const& list : m.quantization.modules_in_block_to_quantize)
      for (std::string const& name : list) named = named || std::string_view(l.name).ends_with(name);
    if (named && !l.quantized)
      r.add(l.name, listed ? "is float, but in modules_in_block_to_quantize"
                           : "is float, and there is no modules_in_block_to_quantize");
    if (!named && l.quantized) r.add(verdict::wrong, l.name, "is quantized, but not in modules_in_block_to_quantize");
  }
}

/// Whether all quantized layers have the settings of the first.
inline void check_uniform(served_model const& m, rule_report& r, bool only_bits) {
  served_linear const* first = nullptr;
  each_quantized(m, [&](served_linear const& l) {
    if (!first) first = &l;
    auto const &a = first->settings, &b = l.settings;
    if (a.bits != b.bits || (!only_bits && (a.group_size != b.group_size || a.sym != b.sym)))
      r.add(l.name, describe(b) + ", but " + first->name + " is " + describe(a));
  });
}

inline bool made_by_gptqmodel(served_model const& m) {
  return m.quantization.meta.is_object() && m.quantization.meta.contains("quantizer") &&
         m.quantization.meta.at("quantizer").dump().find("gptqmodel") != std::string::npos;
}

}  // namespace detail

/// Of transformers with optimum.
inline constexpr std::array<engine_rule, 4> transformers_rules = {{
    {"T2", engine::transformers, verdict::refused, "group_size, damp_percent and dataset are values that it takes",
     "quantize in groups of 128, or remove the key", remedy::group_size_128,
     [](served_model const& m, rule_report& r) {
       if (detail::is_compressed(m)) return;
       detail::each_quantized(m, [&](served_linear const& l) {
         if (!detail::one_of(l.settings.group_size, {-1, 16, 32, 64, 128, 256, 512, 1024}))
           r.add(l.name, "group_size " + std::to_string(l.settings.group_size));
       });
       auto const damp = m.quantization.damp_percent;
       if (damp && !(*damp > 0 && *damp < 1)) r.add("config.json", "damp_percent " + std::to_string(*damp));
       if (!m.settings.contains("dataset")) return;
       json const& data = m.settings.at("dataset");
       if (data.is_string() && data != "wikitext2" && data != "c4" && data != "c4-new")
         r.add("config.json", "dataset " + detail::printable(data.dump(), 60));
     }},
    {"T3",
     engine::transformers,
     verdict::refused,
     "all layers of a block are quantized, or modules_in_block_to_quantize lists those that are",
     "list them, as a list of lists of names",
     {},
     [](served_model const& m, rule_report& r) {
       if (!detail::is_compressed(m)) detail::check_module_lists(m, r);
     }},
    {"T4", engine::transformers, verdict::refused, "one width, group size and symmetry for the whole model",
     "give all layers the same settings, without rules \"+:\"", remedy::uniform_bits,
     [](served_model const& m, rule_report& r) {
       if (!detail::is_compressed(m)) detail::check_uniform(m, r, false);
     }},
    {"T5", engine::transformers, verdict::refused, "lm_head is in float", "keep lm_head in float",
     remedy::keep_head_float,
     [](served_model const& m, rule_report& r) {
       served_linear const* const head = m.find("lm_head");
       if (head && head->quantized && !detail::is_compressed(m)) r.add("lm_head", "is quantized");
     }},
}};

/// Of GPTQModel.
inline constexpr std::array<engine_rule, 4> gptqmodel_rules = {{
    {"G1",
     engine::gptqmodel,
     verdict::refused,
     "group_size is -1, 16, 32, 64, 128, 256, 512 or 1024, in GPTQ's format",
     "quantize in groups of 128, in format gptq",
     {remedy::group_size_128, remedy::format_gptq},
     [](served_model const& m, rule_report& r) {
       detail::refuse_compressed(m, r);
       detail::each_quantized(m, [&](served_linear const& l) {
         if (!detail::one_of(l.settings.group_size, {-1, 16, 32, 64, 128, 256, 512, 1024}))
           r.add(l.name, "group_size " + std::to_string(l.settings.group_size));
       });
     }},
    {"G2", engine::gptqmodel, verdict::refused, "without symmetry, format gptq_v2", "write format gptq_v2",
     remedy::format_gptq_v2,
     [](served_model const& m, rule_report& r) {
       if (m.quantization.format != checkpoint_format::gptq || detail::made_by_gptqmodel(m)) return;
       detail::each_quantized(m, [&](served_linear const& l) {
         if (!l.settings.sym) r.add(l.name, "asym in format gptq");
       });
     }},
    {"G3",
     engine::gptqmodel,
     verdict::refused,
     "\"dynamic\" keeps float layers in float",
     "add a rule \"-:\" that matches the layer",
     {},
     [](served_model const& m, rule_report& r) {
       if (!detail::is_compressed(m)) detail::check_float_rules(m, r);
     }},
    {"G4",
     engine::gptqmodel,
     verdict::degraded,
     "inputs and outputs are multiples of 32",
     "nothing to change: the slow torch kernel takes the layer",
     {},
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         if (l.inputs % 32 != 0 || l.outputs % 32 != 0)
           r.add(l.name, std::to_string(l.outputs) + " x " + std::to_string(l.inputs) + " (out x in)");
       });
     }},
}};

/// Of ExLlamaV2.
inline constexpr std::array<engine_rule, 6> exllamav2_rules = {{
    {"E1", engine::exllamav2, verdict::wrong, "4 bits, in GPTQ's format", "quantize to 4 bits", remedy::bits_4,
     [](served_model const& m, rule_report& r) {
       detail::refuse_compressed(m, r);
       detail::each_quantized(m, [&](served_linear const& l) {
         if (l.settings.bits != 4) r.add(l.name, detail::times(l.settings.bits, "bits"));
       });
     }},
    {"E2", engine::exllamav2, verdict::wrong, "group_size is -1 or a power of two", "quantize in groups of 128",
     remedy::group_size_128,
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         int const g = l.settings.group_size;
         if (g != -1 && (g & (g - 1)) != 0) r.add(l.name, "group_size " + std::to_string(g));
       });
     }},
    {"E3", engine::exllamav2, verdict::refused, "inputs and outputs are multiples of 32", "leave the layer in float",
     remedy::keep_layer_float,
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         if (l.inputs % 32 != 0 || l.outputs % 32 != 0)
           r.add(l.name, std::to_string(l.outputs) + " x " + std::to_string(l.inputs) + " (out x in)");
       });
     }},
    {"E4",
     engine::exllamav2,
     verdict::refused,
     "attention is quantized as a whole, and gate with up",
     "quantize or skip q_proj, k_proj, v_proj and o_proj together",
     {},
     [](served_model const& m, rule_report& r) {
       for (served_linear const& l : m.linears) {
         auto const needs = [&](std::string_view has, std::string_view needed) {
           if (!l.quantized || !detail::ends_with_name(l.name, has)) return;
           std::string const other = l.name.substr(0, l.name.size() - has.size()) + std::string(needed);
           served_linear const* const o = m.find(other);
           if (o && !o->quantized) r.add(other, "is float, but " + l.name + " is quantized");
         };
         for (std::string_view const o : {"self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"})
           needs("self_attn.q_proj", o);
         needs("mlp.up_proj", "mlp.gate_proj");
       }
     }},
    {"E5", engine::exllamav2, verdict::refused,
     "biases only where the architecture has them, none all zero; no fused layers on disk; one device",
     "remove the bias, or serve with another engine and on one device", remedy::tensor_parallel,
     [](served_model const& m, rule_report& r) {
       if (m.tensor_parallel > 1) r.add("config.json", "GPTQ with tensor parallelism");
       std::string const type = m.text("model_type");
       detail::each_quantized(m, [&](served_linear const& l) {
         bool const qwen = type == "qwen2" && l.name.find(".self_attn.") != std::string::npos &&
                           !detail::ends_with_name(l.name, "o_proj");
         bool const expected = qwen || m.flag("attention_bias") || m.flag("mlp_bias") || type == "telechat";
         if (l.bias == bias_content::zero && expected)
           r.add(l.name, "its bias is all zero, so it is dropped and missed");
         if (l.bias == bias_content::other && !expected && (type == "llama" || type == "mistral" || type == "qwen3"))
           r.add(l.name, "has a bias that the architecture does not have");
         if (detail::ends_with_name(l.name, "qkv_proj") || detail::ends_with_name(l.name, "gate_up_proj"))
           r.add(l.name, "is quantized as one layer");
       });
     }},
    {"E6",
     engine::exllamav2,
     verdict::wrong,
     "no zero point is 0",
     "quantize with symmetric grids, or in format gptq, whose search avoids zero points of 0",
     {remedy::symmetric, remedy::format_gptq},
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         if (l.zero_points_of_0) r.add(l.name, "has zero points of 0, or may get them");
       });
     }},
}};

/// Of llama.cpp.
inline constexpr std::array<engine_rule, 3> llama_cpp_rules = {{
    {"L1", engine::llama_cpp, verdict::refused, "2, 4 or 8 bits, the same everywhere", "quantize to 4 bits",
     remedy::bits_4,
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         if (l.settings.bits == 3) r.add(l.name, "3 bits");
       });
       detail::check_uniform(m, r, true);
     }},
    {"L2",
     engine::llama_cpp,
     verdict::refused,
     "g_idx is there, inputs and outputs fill whole words",
     "repack the folder, which adds g_idx",
     {},
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         int const word = codes_of_whole_words(l.settings.bits);
         if (!l.has_g_idx && !detail::is_compressed(m)) r.add(l.name, "has no g_idx");
         if (l.inputs % word != 0 || l.outputs % word != 0)
           r.add(l.name, std::to_string(l.outputs) + " x " + std::to_string(l.inputs) + " (out x in)");
       });
     }},
    {"L3", engine::llama_cpp, verdict::wrong, "in format gptq no zero point is 0", "write format gptq_v2",
     remedy::format_gptq_v2,
     [](served_model const& m, rule_report& r) {
       if (m.quantization.format != checkpoint_format::gptq) return;
       detail::each_quantized(m, [&](served_linear const& l) {
         if (l.zero_points_of_0) r.add(l.name, "has zero points of 0");
       });
     }},
}};

/// Of ONNX Runtime GenAI.
inline constexpr std::array<engine_rule, 3> ort_genai_rules = {{
    {"O1", engine::ort_genai, verdict::wrong, "format gptq", "write format gptq", remedy::format_gptq,
     [](served_model const& m, rule_report& r) {
       detail::refuse_compressed(m, r);
       if (m.quantization.format == checkpoint_format::gptq_v2)
         r.add("config.json", "format gptq_v2: 1 is added to every zero point");
     }},
    {"O2",
     engine::ort_genai,
     verdict::refused,
     "2, 4 or 8 bits, whole groups, g_idx, and all seven layers of every block quantized",
     "quantize all layers to 2, 4 or 8 bits, in groups that divide all inputs",
     {remedy::quantize_layer, remedy::bits_2_4_or_8, remedy::group_size},
     [](served_model const& m, rule_report& r) {
       detail::each_float_in_block(m, [&](served_linear const& l) { r.add(l.name, "is float"); });
       detail::each_quantized(m, [&](served_linear const& l) {
         auto const& s = l.settings;
         if (s.bits == 3) r.add(l.name, "3 bits");
         if (!l.has_g_idx) r.add(l.name, "has no g_idx");
         if (s.group_size != -1 && l.inputs % s.group_size != 0)
           r.add(l.name,
                 detail::times(l.inputs, "inputs are no multiple of group_size ") + std::to_string(s.group_size));
       });
     }},
    {"O3",
     engine::ort_genai,
     verdict::refused,
     "names as Llama's, and a positive rule of \"dynamic\" that matches tensor names where settings differ",
     "end the pattern in (\\.|$) instead of $",
     {},
     [](served_model const& m, rule_report& r) {
       detail::each_quantized(m, [&](served_linear const& l) {
         bool const llama = l.name == "lm_head" ||
                            (l.name.starts_with("model.layers.") && (l.name.find(".self_attn.") != std::string::npos ||
                                                                     l.name.find(".mlp.") != std::string::npos));
         if (!llama) return r.add(l.name, "is not named model.layers.N.self_attn.… or model.layers.N.mlp.…");
         auto const seen = m.quantization.settings_for(l.name + ".qweight");
         if (seen && (seen->bits != l.settings.bits || seen->group_size != l.settings.group_size))
           r.add(l.name, "is " + detail::describe(l.settings) + ", but no rule matches " + l.name + ".qweight");
       });
     }},
}};

/// Of OpenVINO.
inline constexpr std::array<engine_rule, 1> openvino_rules = {{
    {"P1",
     engine::openvino,
     verdict::refused,
     "4 bits, format gptq, whole groups, no desc_act",
     "quantize to 4 bits, in format gptq and in the group-aware order",
     {remedy::bits_4, remedy::format_gptq, remedy::order_group_aware},
     [](served_model const& m, rule_report& r) {
       detail::refuse_compressed(m, r);
       if (m.quantization.format == checkpoint_format::gptq_v2)
         r.add(verdict::wrong, "config.json", "format gptq_v2: 1 is added to every zero point");
       detail::each_quantized(m, [&](served_linear const& l) {
         auto const& s = l.settings;
         if (s.bits != 4) r.add(l.name, detail::times(s.bits, "bits"));
         if (s.group_size != -1 && l.inputs % s.group_size != 0)
           r.add(l.name,
                 detail::times(l.inputs, "inputs are no multiple of group_size ") + std::to_string(s.group_size));
         if (l.outputs % 8 != 0) r.add(l.name, detail::times(l.outputs, "outputs do not fill whole words"));
         if (l.scattered || s.desc_act) r.add(verdict::wrong, l.name, "desc_act: g_idx is not used");
         if (l.zero_points_of_0) r.add(verdict::wrong, l.name, "has zero points of 0, or may get them");
       });
     }},
}};

}  // namespace v0
}  // namespace gptq
