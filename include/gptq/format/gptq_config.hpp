/// The settings of GPTQ checkpoints as JSON, read in every spelling met: GPTQModel, AutoGPTQ, optimum, and the synonyms
/// w_bit, q_group_size, zero_point, version.
#pragma once

#include <gptq/format/quantization_settings.hpp>
#include <gptq/io/json.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Whether settings are those of GPTQ: method "gptq", or none named.
inline bool gptq_method(json const& object, std::string const& where) {
  return value_or<std::string>(object, "quant_method", "gptq", where) == "gptq" &&
         value_or<std::string>(object, "method", "gptq", where) == "gptq";
}

/// Version 1 where nothing is said. Throws format_error for other formats, and where two keys disagree.
inline checkpoint_format gptq_version(json const& object, std::string const& where) {
  std::optional<checkpoint_format> format;
  for (char const* const key : {"checkpoint_format", "format", "version"}) {
    std::string const name = value_or<std::string>(object, key, "", where);
    if (name.empty() || (format && std::string_view(key) == "version")) continue;
    if (name != "gptq" && name != "gptq_v2")
      throw format_error(where + ": " + key + " \"" + printable(name, 60) + "\" is not supported (gptq, gptq_v2 are)");
    checkpoint_format const this_one = name == "gptq" ? checkpoint_format::gptq : checkpoint_format::gptq_v2;
    if (format && *format != this_one) throw format_error(where + ": checkpoint_format and format disagree");
    format = this_one;
  }
  return format.value_or(checkpoint_format::gptq);
}

inline std::vector<std::vector<std::string>> parse_module_lists(json const& value, std::string const& where) {
  std::vector<std::vector<std::string>> lists;
  if (value.is_null()) return lists;
  auto const fail = [&] {
    throw format_error(where + ": \"modules_in_block_to_quantize\" is not a list of lists of names");
  };
  if (!value.is_array()) fail();
  for (json const& item : value) {
    if (item.is_string()) {  // some tools write one flat list
      if (lists.empty()) lists.emplace_back();
      lists.front().push_back(item.get<std::string>());
      continue;
    }
    if (!item.is_array()) fail();
    lists.emplace_back();
    for (json const& name : item) {
      if (!name.is_string()) fail();
      lists.back().push_back(name.get<std::string>());
    }
  }
  return lists;
}

/// Defaults for absent keys: group_size 128, sym true, desc_act false. Refused by name: the marlin layout, other words
/// than int32, widths other than 2, 3, 4, 8.
inline quantization_config parse_gptq_settings(json const& object, checkpoint_format format, std::string const& where) {
  if (value_or(object, "is_marlin_format", false, where))
    throw format_error(where + ": the marlin format is not supported");
  std::string const words = value_or<std::string>(object, "pack_dtype", "int32", where);
  if (words != "int32")
    throw format_error(where + ": pack_dtype \"" + printable(words, 60) + "\" is not supported (int32 is)");

  quantization_config out;
  auto const synonym = [&](char const* key, char const* other) {
    bool const absent = !object.contains(key) || object.at(key).is_null();
    return absent && object.contains(other) ? other : key;
  };
  out.format = format;
  out.base.bits = value_of<int>(object, synonym("bits", "w_bit"), where);
  out.base.group_size = value_or(object, synonym("group_size", "q_group_size"), 128, where);
  check_settings(out.base, where);
  out.base.sym = value_or(object, "sym", !value_or(object, "zero_point", false, where), where);
  out.base.desc_act = value_or(object, "desc_act", false, where);
  out.lm_head = value_or(object, "lm_head", false, where);
  if (object.contains("meta") && object.at("meta").is_object()) out.meta = object.at("meta");
  auto const recorded = [&](char const* key) -> json const& { return object.contains(key) ? object : out.meta; };
  out.static_groups = value_or(recorded("static_groups"), "static_groups", false, where);
  out.true_sequential = value_or(recorded("true_sequential"), "true_sequential", false, where);
  double const damp = value_or(recorded("damp_percent"), "damp_percent", -1.0, where);
  if (damp >= 0) out.damp_percent = damp;
  if (object.contains("dynamic")) out.dynamic = parse_dynamic_rules(object.at("dynamic"), where);
  for (dynamic_rule const& rule : out.dynamic)
    check_settings(applied(out.base, rule), where + ": \"dynamic\" \"" + printable(rule.key) + "\"");
  if (object.contains("modules_in_block_to_quantize"))
    out.modules_in_block_to_quantize = parse_module_lists(object.at("modules_in_block_to_quantize"), where);
  return out;
}

/// In the order in which the tools write it.
inline json gptq_settings(quantization_config const& c, std::string const& format) {
  json out = {{"quant_method", "gptq"},      {"bits", c.base.bits}, {"group_size", c.base.group_size},
              {"desc_act", c.base.desc_act}, {"sym", c.base.sym},   {"lm_head", c.lm_head},
              {"checkpoint_format", format}, {"format", format},    {"pack_dtype", "int32"}};
  if (!c.dynamic.empty()) out["dynamic"] = to_json(c.dynamic);
  if (!c.modules_in_block_to_quantize.empty()) out["modules_in_block_to_quantize"] = c.modules_in_block_to_quantize;
  out["static_groups"] = c.static_groups;
  out["true_sequential"] = c.true_sequential;
  if (c.damp_percent) out["damp_percent"] = *c.damp_percent;
  out["meta"] = c.meta;
  return out;
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
