/// What a job knows, for people and programs: layers and their settings, files and their sizes.
#pragma once

#include <gptq/io/json.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/recipe_json.hpp>
#include <gptq/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Layers that have the same settings in the same blocks.
struct layer_summary {
  std::vector<std::string> names;  ///< below the block: "self_attn.q_proj"; that of lm_head is whole
  std::vector<index_t> blocks;     ///< empty for lm_head
  std::optional<quant_spec> spec;  ///< nothing: in float
};

/// The layers of a job in groups, in the order of the first of each.
inline std::vector<layer_summary> summarize_layers(job const& j) {
  std::vector<layer_summary> by_name;
  for (planned_linear const& p : j.plan().linears()) {
    std::string name = p.info.name;
    if (p.block >= 0) name.erase(0, j.weights().names().block(p.block).size());
    auto const at = std::find_if(by_name.begin(), by_name.end(), [&](layer_summary const& s) {
      return s.names.front() == name && s.spec == p.spec && s.blocks.empty() == (p.block < 0);
    });
    layer_summary& s = at != by_name.end() ? *at : by_name.emplace_back(layer_summary{{name}, {}, p.spec});
    if (p.block >= 0) s.blocks.push_back(p.block);
  }
  std::vector<layer_summary> groups;
  for (layer_summary& s : by_name) {
    auto const at = std::find_if(groups.begin(), groups.end(), [&](layer_summary const& g) {
      return g.spec == s.spec && g.blocks == s.blocks && !s.blocks.empty();
    });
    if (at != groups.end())
      at->names.push_back(std::move(s.names.front()));
    else
      groups.push_back(std::move(s));
  }
  return groups;
}

/// "0-5, 7"
inline std::string ranges_of(std::vector<index_t> const& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i]);
    if (end - i > 1) text += "-" + std::to_string(numbers[end - 1]);
    i = end;
  }
  return text;
}

/// What makes a run the same run: build, recipe, and of each file of the source name, size and a hash of what its header
/// says. Contents of tensors are not read.
inline json fingerprint(job const& j) {
  json source = json::array();
  for (safetensors_file const& part : j.weights().reader().parts()) {
    std::uint64_t hash = detail::hash_start;
    for (tensor_view const& t : part.tensors())
      detail::add_to_hash(hash, t.name + " " + to_string(t.type) + " " + to_string(t.shape) + "\n");
    source.push_back(
        {{"file", part.file().filename().string()}, {"bytes", part.size()}, {"header", detail::hexadecimal(hash)}});
  }
  return {{"gptq", GPTQ_VERSION}, {"recipe", recipe_hash(j.asked())}, {"source", std::move(source)}};
}

/// Everything that a job knows, as JSON: recipe, fingerprint, layers, files, disk_bytes, tensor_bytes, unread, warnings.
inline json describe(job const& j) {
  json layers = json::array(), files = json::array();
  for (layer_summary const& s : summarize_layers(j)) {
    json settings;
    if (s.spec)
      settings = {{"bits", s.spec->bits},
                  {"group_size", s.spec->group_size},
                  {"sym", s.spec->sym},
                  {"desc_act", scattered_groups(*s.spec)}};
    layers.push_back({{"names", s.names}, {"blocks", s.blocks}, {"settings", std::move(settings)}});
  }
  for (planned_file const& f : j.files()) files.push_back({{"name", f.name}, {"bytes", f.bytes}});
  json warnings = json::array();
  for (advice const& w : j.warnings()) warnings.push_back(w.text);
  return {{"model", j.source().string()},
          {"recipe", to_json(j.asked())},
          {"fingerprint", fingerprint(j)},
          {"quantized", j.plan().quantized().size()},
          {"layers", std::move(layers)},
          {"files", std::move(files)},
          {"disk_bytes", j.disk_bytes()},
          {"tensor_bytes", {{"before", j.source_bytes()}, {"after", j.layout().total_size()}}},
          {"unread", j.unread()},
          {"warnings", std::move(warnings)}};
}

/// The same in lines for people.
inline std::string describe_text(job const& j) {
  std::size_t const quantized = j.plan().quantized().size();
  std::string text = "layers       " + std::to_string(quantized) + " quantized, " +
                     std::to_string(j.plan().linears().size() - quantized) + " kept in float\n";
  for (layer_summary const& s : summarize_layers(j)) {
    std::string names;
    for (std::string const& name : s.names) names += (names.empty() ? "" : ", ") + name;
    if (!s.blocks.empty()) names = "blocks " + ranges_of(s.blocks) + ": " + names;
    text += "  " + describe(s.spec) + "\n    " + names + "\n";
  }
  text += "files\n";
  for (planned_file const& f : j.files()) text += "  " + f.name + "  " + std::to_string(f.bytes) + " bytes\n";
  return text + "disk         " + std::to_string(j.disk_bytes()) + " bytes\n";
}

}  // namespace v0
}  // namespace gptq
