/// The settings of compressed-tensors ("pack-quantized") as JSON: groups of layers, and a list of those in float.
#pragma once

#include <gptq/format/dynamic_rules.hpp>
#include <gptq/format/quantization_settings.hpp>
#include <gptq/io/json.hpp>

#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// The settings of one group of compressed-tensors.
inline module_settings parse_compressed_group(json const& group, std::string const& where) {
  if (!group.is_object() || !group.contains("weights") || !group.at("weights").is_object())
    throw format_error(where + ": \"weights\" is missing or not an object");
  for (char const* const key : {"input_activations", "output_activations"})
    if (group.contains(key) && !group.at(key).is_null())
      throw format_error(where + ": " + key + " are quantized, which is not supported");
  json const& w = group.at("weights");
  std::string const type = value_or<std::string>(w, "type", "int", where);
  std::string const strategy = value_or<std::string>(w, "strategy", "group", where);
  std::string const order = value_or<std::string>(w, "actorder", "", where);
  if (type != "int") throw format_error(where + ": weights of type \"" + printable(type, 60) + "\" are not supported");
  if (strategy != "group" && strategy != "channel")
    throw format_error(where + ": strategy \"" + printable(strategy, 60) + "\" is not supported (group, channel are)");
  module_settings s;
  s.bits = value_of<int>(w, "num_bits", where);
  s.group_size = strategy == "channel" ? -1 : value_of<int>(w, "group_size", where);
  s.sym = value_or(w, "symmetric", true, where);
  s.desc_act = order == "group" || order == "dynamic";
  check_settings(s, where);
  return s;
}

/// "config_groups" and "ignore" as settings and rules: the group for "Linear" is the base, others are positive rules.
inline quantization_config parse_compressed_settings(json const& object, std::string const& where) {
  quantization_config out;
  out.format = checkpoint_format::compressed_tensors;
  std::string const packing = value_of<std::string>(object, "format", where);
  if (packing != "pack-quantized")
    throw format_error(where + ": format \"" + printable(packing, 60) + "\" is not supported (pack-quantized is)");
  if (!object.contains("config_groups") || !object.at("config_groups").is_object() ||
      object.at("config_groups").empty())
    throw format_error(where + ": \"config_groups\" is missing or empty");
  json rules = json::object();
  bool base = false;
  for (bool const linear : {true, false})
    for (auto const& [name, group] : object.at("config_groups").items()) {
      std::string const place = where + ": config_groups " + printable(name);
      module_settings const s = parse_compressed_group(group, place);
      if (!group.contains("targets") || !group.at("targets").is_array())
        throw format_error(place + ": \"targets\" is not a list");
      for (json const& target : group.at("targets")) {
        if (!target.is_string()) throw format_error(place + ": a target is not a string");
        std::string const& text = target.get_ref<std::string const&>();
        if (text == "Linear" && linear) {
          out.base = s;
          base = true;
        } else if (text != "Linear" && !linear) {
          if (!base) out.base = s;
          base = true;
          rules["+:" + (text.starts_with("re:") ? text.substr(3) : escape_pattern(text) + "$")] = {
              {"bits", s.bits}, {"group_size", s.group_size}, {"sym", s.sym}, {"desc_act", s.desc_act}};
        }
      }
    }
  if (object.contains("ignore") && !object.at("ignore").is_null()) {
    if (!object.at("ignore").is_array()) throw format_error(where + ": \"ignore\" is not a list");
    for (json const& name : object.at("ignore")) {
      if (!name.is_string()) throw format_error(where + ": a name in \"ignore\" is not a string");
      std::string const& text = name.get_ref<std::string const&>();
      if (text.starts_with("re:"))
        rules["-:" + text.substr(3)] = json::object();
      else
        out.ignore.insert(text);
    }
  }
  out.dynamic = parse_dynamic_rules(rules, where);
  return out;
}

inline json compressed_group(std::vector<std::string> targets, layer_format const& s) {
  json weights = {{"num_bits", s.bits},
                  {"type", "int"},
                  {"symmetric", s.sym},
                  {"strategy", s.group_size == -1 ? "channel" : "group"},
                  {"group_size", s.group_size == -1 ? json() : json(s.group_size)},
                  {"actorder", nullptr},
                  {"dynamic", false}};
  return {{"targets", std::move(targets)},
          {"weights", std::move(weights)},
          {"input_activations", nullptr},
          {"output_activations", nullptr}};
}

/// Positive rules become groups of their own: readers look at them before the class "Linear".
inline json compressed_settings(quantization_config const& c) {
  json groups = {{"group_0", compressed_group({"Linear"}, c.base)}};
  json ignore = c.ignore;
  for (dynamic_rule const& rule : c.dynamic) {
    std::string const target = "re:" + std::string(pattern_of(rule));
    if (rule.keep_float) {
      ignore.push_back(target);
      continue;
    }
    groups["group_" + std::to_string(groups.size())] = compressed_group({target}, applied(c.base, rule));
  }
  return {{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"},  {"quantization_status", "compressed"},
          {"config_groups", std::move(groups)},   {"ignore", std::move(ignore)}, {"kv_cache_scheme", nullptr}};
}

}  // namespace detail

}  // namespace v0
}  // namespace gptq
