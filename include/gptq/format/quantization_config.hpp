/// The quantization settings of a model folder: config.json "quantization_config", quantize_config.json.
#pragma once

#include <gptq/format/formats.hpp>
#include <gptq/format/quantization_settings.hpp>
#include <gptq/io/json.hpp>
#include <gptq/io/output_file.hpp>

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

/// Parses the settings of whichever format they are. Throws format_error naming `where`, also for methods that no format
/// has.
inline quantization_config parse_quantization_config(json const& object, std::string const& where) {
  if (!object.is_object()) throw format_error(where + ": the quantization settings are not an object");
  std::optional<quantization_config> found;
  for_each_format([&](auto f) {
    if (!found && f.declares(object, where)) found = f.parse(object, where);
  });
  if (found) return *std::move(found);
  for (char const* const key : {"quant_method", "method"}) {
    std::string const method = value_or<std::string>(object, key, "gptq", where);
    if (method != "gptq")
      throw format_error(where + ": " + key + " \"" + detail::printable(method, 60) +
                         "\" is not supported (gptq and compressed-tensors are)");
  }
  throw format_error(where + ": no format has these settings");
}

/// The JSON form, in the words of its format.
inline json to_json(quantization_config const& c) {
  return with_format(c.format, [&](auto f) { return f.settings(c); });
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

/// A file of settings as it is written.
struct settings_file {
  std::string name;
  std::string text;
};

/// `config` with the settings as its "quantization_config" as config.json, and the settings alone as the file that readers
/// of the format also look into, if there is one.
inline std::vector<settings_file> quantization_files(json config, quantization_config const& c) {
  config["quantization_config"] = to_json(c);
  std::vector<settings_file> files = {{"config.json", to_text(config)}};
  std::string_view const beside = with_format(c.format, [](auto f) { return f.settings_file; });
  if (!beside.empty()) files.push_back({std::string(beside), to_text(config.at("quantization_config"))});
  return files;
}

/// Writes such files into a folder. Throws format_error naming file and reason.
inline void write_settings(std::filesystem::path const& folder, std::vector<settings_file> const& files) {
  for (settings_file const& f : files) {
    output_file out(folder / f.name);
    out.write(f.text);
    out.close();
  }
}

}  // namespace v0
}  // namespace gptq
