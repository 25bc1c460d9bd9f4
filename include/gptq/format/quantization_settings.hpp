/// What a quantized folder says of its layers, whatever its words.
#pragma once

#include <gptq/core/spec.hpp>
#include <gptq/format/dynamic_rules.hpp>
#include <gptq/io/json.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What a folder declares of one module.
struct module_settings : layer_format {
  bool desc_act = false;  ///< readers need g_idx

  friend bool operator==(module_settings const&, module_settings const&) = default;
};

/// The settings of a module that a rule decides about and does not keep in float.
inline module_settings applied(module_settings const& base, dynamic_rule const& rule) {
  return {{.bits = rule.bits.value_or(base.bits),
           .group_size = rule.group_size.value_or(base.group_size),
           .sym = rule.sym.value_or(base.sym)},
          rule.desc_act.value_or(base.desc_act)};
}

/// What a folder says of its quantization, in whichever format's words.
struct quantization_config {
  module_settings base;
  bool lm_head = false;
  checkpoint_format format = checkpoint_format::gptq;
  bool static_groups = false;
  bool true_sequential = false;
  std::optional<double> damp_percent;
  json meta = json::object();  ///< records of the tool that wrote the file
  std::vector<dynamic_rule> dynamic;
  std::vector<std::vector<std::string>> modules_in_block_to_quantize;
  std::set<std::string, std::less<>> ignore;  ///< compressed-tensors: names of modules in float

  /// The settings of a module, or nothing if a rule keeps it in float.
  [[nodiscard]] std::optional<module_settings> settings_for(std::string_view module) const {
    if (ignore.count(module)) return std::nullopt;
    dynamic_rule const* const rule = matching_rule(dynamic, module);
    if (!rule) return base;
    if (rule->keep_float) return std::nullopt;
    return applied(base, *rule);
  }
};

namespace detail {

inline void check_settings(layer_format const& f, std::string const& where) {
  if (!valid_bits(f.bits))
    throw format_error(where + ": bits = " + std::to_string(f.bits) + " is not supported (2, 3, 4, 8 are)");
  if (f.group_size != -1 && f.group_size < 1)
    throw format_error(where + ": group_size = " + std::to_string(f.group_size) + " is neither -1 nor positive");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
