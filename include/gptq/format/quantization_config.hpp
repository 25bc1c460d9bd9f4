/// The quantization settings of a model folder: config.json "quantization_config", quantize_config.json.
#pragma once

#include <gptq/format/compressed_config.hpp>
#include <gptq/format/quantization_settings.hpp>
#include <gptq/io/json.hpp>

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

inline checkpoint_format parse_format(json const& object, std::string const& where) {
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

}  // namespace detail

/// Parses the settings in every spelling met: GPTQModel, AutoGPTQ, optimum, compressed-tensors, and the synonyms w_bit, q_group_size,
/// zero_point, version. Defaults for absent keys: group_size 128, sym true, desc_act false, format gptq. Refused by
/// name: other methods and formats, other words than int32, widths other than 2, 3, 4, 8. Throws format_error naming
/// `where`.
inline quantization_config parse_quantization_config(json const& object, std::string const& where) {
  if (!object.is_object()) throw format_error(where + ": the quantization settings are not an object");
  if (value_or<std::string>(object, "quant_method", "gptq", where) == "compressed-tensors")
    return detail::parse_compressed_tensors(object, where);
  for (char const* const key : {"quant_method", "method"}) {
    std::string const method = value_or<std::string>(object, key, "gptq", where);
    if (method != "gptq")
      throw format_error(where + ": " + key + " \"" + detail::printable(method, 60) +
                         "\" is not supported (gptq and compressed-tensors are)");
  }
  if (value_or(object, "is_marlin_format", false, where))
    throw format_error(where + ": the marlin format is not supported");
  std::string const words = value_or<std::string>(object, "pack_dtype", "int32", where);
  if (words != "int32")
    throw format_error(where + ": pack_dtype \"" + detail::printable(words, 60) + "\" is not supported (int32 is)");

  quantization_config out;
  auto const synonym = [&](char const* key, char const* other) {
    bool const absent = !object.contains(key) || object.at(key).is_null();
    return absent && object.contains(other) ? other : key;
  };
  out.base.bits = value_of<int>(object, synonym("bits", "w_bit"), where);
  out.base.group_size = value_or(object, synonym("group_size", "q_group_size"), 128, where);
  detail::check_settings(out.base.bits, out.base.group_size, where);
  out.base.sym = value_or(object, "sym", !value_or(object, "zero_point", false, where), where);
  out.base.desc_act = value_or(object, "desc_act", false, where);
  out.lm_head = value_or(object, "lm_head", false, where);
  out.format = detail::parse_format(object, where);
  if (object.contains("meta") && object.at("meta").is_object()) out.meta = object.at("meta");
  auto const recorded = [&](char const* key) -> json const& { return object.contains(key) ? object : out.meta; };
  out.static_groups = value_or(recorded("static_groups"), "static_groups", false, where);
  out.true_sequential = value_or(recorded("true_sequential"), "true_sequential", false, where);
  double const damp = value_or(recorded("damp_percent"), "damp_percent", -1.0, where);
  if (damp >= 0) out.damp_percent = damp;
  if (object.contains("dynamic")) out.dynamic = parse_dynamic_rules(object.at("dynamic"), where);
  for (dynamic_rule const& rule : out.dynamic)
    detail::check_settings(rule.bits.value_or(out.base.bits), rule.group_size.value_or(out.base.group_size),
                           where + ": \"dynamic\" \"" + detail::printable(rule.key) + "\"");
  if (object.contains("modules_in_block_to_quantize"))
    out.modules_in_block_to_quantize = detail::parse_module_lists(object.at("modules_in_block_to_quantize"), where);
  return out;
}

/// The JSON form, in the order in which the tools write it.
inline json to_json(quantization_config const& c) {
  if (c.format == checkpoint_format::compressed_tensors) return detail::compressed_tensors_json(c);
  json out = {{"quant_method", "gptq"},
              {"bits", c.base.bits},
              {"group_size", c.base.group_size},
              {"desc_act", c.base.desc_act},
              {"sym", c.base.sym},
              {"lm_head", c.lm_head},
              {"checkpoint_format", to_string(c.format)},
              {"format", to_string(c.format)},
              {"pack_dtype", "int32"}};
  if (!c.dynamic.empty()) out["dynamic"] = to_json(c.dynamic);
  if (!c.modules_in_block_to_quantize.empty()) out["modules_in_block_to_quantize"] = c.modules_in_block_to_quantize;
  out["static_groups"] = c.static_groups;
  out["true_sequential"] = c.true_sequential;
  if (c.damp_percent) out["damp_percent"] = *c.damp_percent;
  out["meta"] = c.meta;
  return out;
}

/// The places where a folder may keep its settings.
inline constexpr std::array<char const*, 3> quantize_config_files = {"quantize_config.json", "quant_config.json",
                                                                     "quantization_config.json"};

/// The settings as a folder writes them: of config.json, else of the first file beside it; null if there are none.
inline json quantization_object(std::filesystem::path const& folder, json const& config) {
  if (config.is_object() && config.contains("quantization_config") && !config.at("quantization_config").is_null())
    return config.at("quantization_config");
  for (char const* const name : quantize_config_files) {
    std::error_code none;
    if (std::filesystem::exists(folder / name, none)) return read_json(folder / name);
  }
  return {};
}

/// The settings of a folder whose config.json is `config`, or nothing if it is not quantized. The block in config.json
/// and a file beside it must say the same. Throws format_error.
inline std::optional<quantization_config> read_quantization_config(std::filesystem::path const& folder,
                                                                   json const& config) {
  std::optional<quantization_config> found;
  std::string first;
  auto const take = [&](json const& object, std::string const& where) {
    quantization_config const c = parse_quantization_config(object, where);
    if (!found) {
      found = c;
      first = where;
    } else if (found->base != c.base || found->format != c.format || to_json(found->dynamic) != to_json(c.dynamic)) {
      throw format_error(where + ": bits, group_size, sym, desc_act, format or dynamic differ from " + first);
    }
  };
  if (config.is_object() && config.contains("quantization_config") && !config.at("quantization_config").is_null())
    take(config.at("quantization_config"), (folder / "config.json").string() + ": quantization_config");
  for (char const* const name : quantize_config_files) {
    std::error_code none;
    if (std::filesystem::exists(folder / name, none)) take(read_json(folder / name), (folder / name).string());
  }
  return found;
}

/// Writes `config` with the settings as its "quantization_config" to config.json, and the settings alone to
/// quantize_config.json: readers look into one or the other. Those of compressed-tensors know config.json only.
inline void write_quantization_config(std::filesystem::path const& folder, json config, quantization_config const& c) {
  config["quantization_config"] = to_json(c);
  write_json(folder / "config.json", config);
  if (c.format != checkpoint_format::compressed_tensors) write_json(folder / "quantize_config.json", to_json(c));
}

}  // namespace v0
}  // namespace gptq
