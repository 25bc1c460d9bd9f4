/// What is in a model folder, module by module, and whether it is well-formed. Needs no knowledge of model families.
#pragma once

#include <gptq/format/quantization_config.hpp>
#include <gptq/format/quantized_model.hpp>
#include <gptq/io/json.hpp>
#include <gptq/io/reader.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// One module: a quantized linear, or the tensors that share a name up to the last dot.
struct module_facts {
  std::string name;
  bool quantized = false;
  std::string type;                 ///< of the weight, or of the scales
  std::vector<std::int64_t> shape;  ///< of the weight; [out, in] for quantized ones
  bool bias = false;
  std::uint64_t bytes = 0;
  layer_format spec;  ///< from here on: quantized modules that can be read
  index_t groups = 0;
  bool has_g_idx = false;
  bool scattered = false;
  int lowest_zero = 0;
  int highest_zero = 0;
};

/// All that was found in a folder.
struct inspection {
  std::filesystem::path folder;
  std::string model_type;  ///< as config.json says
  std::optional<quantization_config> quantization;
  std::vector<std::string> files;
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;
  std::vector<module_facts> modules;
  std::vector<problem> problems;
  std::vector<advice> notes;  ///< nothing wrong, but worth knowing
};

namespace detail {

inline std::string_view parent_name(std::string_view tensor) {
  std::size_t const dot = tensor.rfind('.');
  return dot == std::string_view::npos ? tensor : tensor.substr(0, dot);
}

/// Reads every place that holds settings; each may be wrong by itself, and they must be identical.
inline void inspect_config(checkpoint_reader const& reader, inspection& out) {
  std::vector<std::pair<std::string, json>> places;
  if (reader.config().contains("quantization_config"))
    places.emplace_back("config.json", reader.config().at("quantization_config"));
  for (char const* const name : quantize_config_files) {
    std::error_code none;
    if (std::filesystem::exists(reader.folder() / name, none))
      places.emplace_back(name, read_json(reader.folder() / name));
  }
  std::optional<nlohmann::json> first;  // whose objects compare without regard to the order of keys
  for (auto const& [name, object] : places) {
    if (object.is_null()) continue;
    try {
      auto config = parse_quantization_config(object, (reader.folder() / name).string());
      if (!out.quantization) out.quantization = std::move(config);
    } catch (format_error const& e) {
      out.problems.push_back({"C4", name, e.what(), false});
    }
    nlohmann::json const same = nlohmann::json::parse(object.dump());
    if (first && *first != same) out.problems.push_back({"C4", name, "differs from " + places.front().first, false});
    if (!first) first = same;
  }
  bool const in_config = !places.empty() && places.front().first == "config.json";
  bool const only_config =
      out.quantization && with_format(out.quantization->format, [](auto f) { return f.settings_file.empty(); });
  if (!places.empty() && (!in_config || (places.size() == 1 && !only_config)))
    out.problems.push_back({"C4", in_config ? "quantize_config.json" : "config.json",
                            "does not have the quantization settings that " + places.front().first + " has", false});
}

inline void add_quantized(checkpoint_reader const& reader, quantization_config const& config, module_facts& facts,
                          std::vector<problem>& problems) {
  auto const module = read_module(reader, config, facts.name, problems);
  if (!module) return;
  packed_view const& t = module->tensors;
  facts.spec = t.spec;
  facts.type = to_string(module->scales);
  facts.shape = {t.out_features, t.in_features};
  facts.groups = t.groups;
  facts.has_g_idx = module->has_g_idx;
  facts.scattered = module->scattered;
  facts.lowest_zero = facts.highest_zero = zero_at(t, 0, 0);
  for (index_t g = 0; g < t.groups; ++g)
    for (index_t n = 0; n < t.out_features; ++n) {
      int const zero = zero_at(t, g, n);
      facts.lowest_zero = (std::min)(facts.lowest_zero, zero);
      facts.highest_zero = (std::max)(facts.highest_zero, zero);
    }
}

}  // namespace detail

/// Opens a folder and looks at all of it. Throws format_error if it can't be opened; everything else is in `problems`.
inline inspection inspect(checkpoint_reader const& reader) {
  inspection out;
  out.folder = reader.folder();
  if (reader.config().contains("model_type") && reader.config().at("model_type").is_string())
    out.model_type = reader.config().at("model_type").get<std::string>();
  detail::inspect_config(reader, out);
  for (safetensors_file const& part : reader.parts()) out.files.push_back(part.file().filename().string());

  std::vector<std::string> const names = quantized_names(reader);
  std::set<std::string_view> const quantized(names.begin(), names.end());
  if (!names.empty() && !out.quantization)
    out.problems.push_back({"C4", "config.json", "quantized tensors, but no usable quantization settings", true});
  if (names.empty() && out.quantization)
    out.problems.push_back({"C6", "config.json", "quantization settings, but no quantized tensor", false});
  if (!names.empty() && out.quantization && out.quantization->lm_head &&
      std::none_of(names.begin(), names.end(), [](auto const& name) { return name.ends_with("lm_head"); }))
    out.problems.push_back({"C6", "lm_head", "is not quantized, but \"lm_head\" is true", false});

  std::map<std::string_view, std::size_t> seen;
  for (std::string const& tensor : reader.names()) {
    tensor_view const& t = reader.at(tensor);
    auto const [at, fresh] = seen.emplace(detail::parent_name(tensor), out.modules.size());
    if (fresh) {
      module_facts facts;
      facts.name = at->first;
      facts.quantized = quantized.count(at->first) > 0;
      out.modules.push_back(std::move(facts));
    }
    module_facts& facts = out.modules[at->second];
    facts.bytes += t.bytes.size();
    bool const is_bias = std::string_view(tensor).ends_with(".bias");
    facts.bias = facts.bias || is_bias;
    if (!facts.quantized && (facts.type.empty() || !is_bias)) {
      facts.type = to_string(t.type);
      facts.shape = t.shape;
    }
    ++out.tensors;
    out.bytes += t.bytes.size();
  }
  if (out.quantization)
    for (module_facts& facts : out.modules)
      if (facts.quantized) detail::add_quantized(reader, *out.quantization, facts, out.problems);
  auto const scattered =
      std::find_if(out.modules.begin(), out.modules.end(), [](auto const& m) { return m.scattered; });
  if (scattered != out.modules.end())
    out.notes.emplace_back(detail::printable(scattered->name) +
                               ": g_idx is scattered (desc_act), which current vLLM refuses: quantize again in the "
                               "group-aware order, which keeps g_idx trivial",
                           remedy::order_group_aware);
  return out;
}

inline inspection inspect(std::filesystem::path const& folder) { return inspect(checkpoint_reader(folder)); }

/// One object; the settings in the words of their format.
inline json to_json(inspection const& in) {
  json modules = json::array();
  for (module_facts const& m : in.modules) {
    json entry = {{"name", m.name},  {"kind", m.quantized ? "quantized" : "float"},
                  {"dtype", m.type}, {"shape", m.shape},
                  {"bias", m.bias},  {"bytes", m.bytes}};
    if (m.quantized && m.groups > 0)
      entry.update({{"bits", m.spec.bits},
                    {"group_size", m.spec.group_size},
                    {"sym", m.spec.sym},
                    {"in_features", m.shape[1]},
                    {"out_features", m.shape[0]},
                    {"groups", m.groups},
                    {"g_idx", m.scattered ? "scattered" : "trivial"},
                    {"zeros", {m.lowest_zero, m.highest_zero}}});
    modules.push_back(std::move(entry));
  }
  json problems = json::array();
  for (problem const& p : in.problems)
    problems.push_back({{"rule", p.rule}, {"where", p.where}, {"what", p.what}, {"fatal", p.fatal}});
  json notes = json::array();
  for (advice const& note : in.notes) notes.push_back(note.text);
  return {{"folder", in.folder.string()},
          {"model_type", in.model_type},
          {"quantization", in.quantization ? to_json(*in.quantization) : json()},
          {"files", in.files},
          {"tensors", in.tensors},
          {"bytes", in.bytes},
          {"modules", std::move(modules)},
          {"problems", std::move(problems)},
          {"notes", std::move(notes)},
          {"well_formed", in.problems.empty()}};
}

/// A table for people, one module a line, then the problems.
inline std::string to_text(inspection const& in) {
  std::size_t width = 6;
  for (module_facts const& m : in.modules) width = (std::max)(width, detail::printable(m.name).size());
  auto const pad = [](std::string text, std::size_t n) {
    return text.append(text.size() < n ? n - text.size() : 0, ' ');
  };
  std::string out = in.folder.string() + ": " +
                    (in.model_type.empty() ? "unknown model type" : detail::printable(in.model_type)) + ", " +
                    (in.quantization ? "quantized (" + to_string(in.quantization->format) + ")" : "float") + ", " +
                    std::to_string(in.tensors) + " tensors, " + std::to_string(in.bytes) + " bytes in " +
                    std::to_string(in.files.size()) + (in.files.size() == 1 ? " file\n" : " files\n");
  for (module_facts const& m : in.modules) {
    out += pad(detail::printable(m.name), width) + "  ";
    if (m.quantized && m.groups > 0) {
      out += pad(
          std::to_string(m.spec.bits) + " bit g" + std::to_string(m.spec.group_size) + (m.spec.sym ? " sym" : " asym"),
          16);
      out += pad(to_string(m.shape), 16) + pad(std::to_string(m.bytes), 12);
      out +=
          std::string("g_idx ") + (m.scattered ? "scattered" : "trivial") + ", zeros " + std::to_string(m.lowest_zero);
      if (m.highest_zero != m.lowest_zero) out += " to " + std::to_string(m.highest_zero);
    } else {
      out +=
          pad(m.quantized ? "quantized" : m.type, 16) + pad(to_string(m.shape), 16) + pad(std::to_string(m.bytes), 12);
    }
    if (m.bias) out += m.quantized ? ", bias" : "bias";
    while (out.back() == ' ') out.pop_back();
    out += '\n';
  }
  for (problem const& p : in.problems) out += "problem: " + to_string(p) + "\n";
  for (advice const& note : in.notes) out += "note: " + note.text + "\n";
  return out + (in.problems.empty() ? "well-formed\n" : std::to_string(in.problems.size()) + " problems\n");
}

}  // namespace v0
}  // namespace gptq
