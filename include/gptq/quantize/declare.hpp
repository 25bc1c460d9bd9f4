/// The settings of a result in the words of every reader: rules for the layers that differ from the rest, in both
/// spellings (as stored, as fused by the engines), and the list of what is quantized where something is not.
#pragma once

#include <gptq/engines/fused_layers.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/quantize/plan.hpp>
#include <gptq/version.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Blocks that a pattern lists at most: readers refuse very long patterns.
inline constexpr std::size_t blocks_per_pattern = 64;

inline std::string escape_dots(std::string_view name) {
  std::string out;
  for (char const c : name) out += c == '.' ? std::string("\\.") : std::string(1, c);
  return out;
}

inline std::string alternatives(std::vector<std::string> const& names) {
  std::string out;
  for (std::string const& n : names) out += (out.empty() ? "" : "|") + n;
  return "(" + out + ")";
}

/// The beginnings of patterns for some blocks; several where the blocks are many. `block` is the name of one block,
/// "model.layers.0.".
inline std::vector<std::string> block_patterns(std::string_view block, std::vector<std::string> const& blocks,
                                               bool all_blocks) {
  std::string_view container = block.substr(0, block.rfind('.', block.size() - 2));  // "model.layers"
  std::size_t const dot = container.rfind('.');
  std::string const start =
      dot == std::string_view::npos ? ".*" + std::string(container) : ".*\\." + std::string(container.substr(dot + 1));
  if (all_blocks) return {start + "\\.\\d+"};
  std::vector<std::string> out;
  for (std::size_t first = 0; first < blocks.size(); first += blocks_per_pattern) {
    auto const begin = blocks.begin() + static_cast<std::ptrdiff_t>(first);
    auto const end =
        blocks.begin() + static_cast<std::ptrdiff_t>((std::min)(blocks.size(), first + blocks_per_pattern));
    out.push_back(start + "\\." + (end - begin == 1 ? *begin : alternatives(std::vector<std::string>(begin, end))));
  }
  return out;
}

/// The patterns for layers "self_attn.q_proj", … below what each of `starts` matches: one for each parent.
inline std::vector<std::string> layer_patterns(std::vector<std::string> const& starts,
                                               std::vector<std::string> const& layers) {
  std::vector<std::pair<std::string, std::vector<std::string>>> by_parent;
  for (std::string const& layer : layers) {
    std::size_t const split = layer.rfind('.');
    std::string const parent = split == std::string::npos ? "" : layer.substr(0, split + 1);
    auto at = std::find_if(by_parent.begin(), by_parent.end(), [&](auto const& p) { return p.first == parent; });
    if (at == by_parent.end()) at = by_parent.insert(by_parent.end(), {parent, {}});
    at->second.push_back(split == std::string::npos ? layer : layer.substr(split + 1));
  }
  std::vector<std::string> out;
  for (std::string const& start : starts)
    for (auto const& [parent, leaves] : by_parent)
      out.push_back(start + "\\." + escape_dots(parent) + (leaves.size() == 1 ? leaves.front() : alternatives(leaves)));
  return out;
}

/// Linears of one group that have the same settings in some blocks: one rule.
struct layer_group {
  std::size_t group = 0;
  std::string_view served_as;
  std::vector<std::string> parts;  ///< below the block
  std::optional<module_settings> settings;
  std::vector<std::string> blocks;  ///< their numbers
};

/// The groups that differ from `base`; a rule for each makes the settings right.
inline std::vector<layer_group> deviating_layers(quantization_plan const& plan, module_settings const& base) {
  std::vector<layer_group> groups;
  auto const& all = plan.linears();
  for (std::size_t i = 0; i < all.size();) {
    std::size_t end = i + 1;
    while (end < all.size() && all[end].block == all[i].block && all[end].group == all[i].group) ++end;
    planned_linear const& first = all[i];
    std::optional<module_settings> settings;
    if (first.spec) settings = settings_of(*first.spec);
    if (first.block >= 0 && settings != std::optional(base)) {
      std::string const number = std::to_string(first.block);
      std::size_t const prefix = plan.block_prefix().size() - 1 + number.size();  // block 0 has one digit
      std::vector<std::string> parts;
      for (std::size_t l = i; l < end; ++l) parts.push_back(all[l].info.name.substr(prefix));
      auto const same = [&](layer_group const& g) {
        return g.group == first.group && g.parts == parts && g.settings == settings;
      };
      auto at = std::find_if(groups.begin(), groups.end(), same);
      if (at == groups.end())
        at = groups.insert(groups.end(), {first.group, first.among->served_as, std::move(parts), settings, {}});
      at->blocks.push_back(number);
    }
    i = end;
  }
  return groups;
}

/// The patterns of a group, in the names of the checkpoint and in those of the engines.
inline std::vector<std::string> group_patterns(quantization_plan const& plan, layer_group const& g, bool all_blocks) {
  std::string_view const served_blocks = plan.family().served_blocks;
  if (served_blocks.empty()) {  // the fused layer differs in its last word only
    std::vector<std::string> layers = g.parts;
    if (fused_layer const* const fused = fused_layer_of(layers.front()); fused && layers.size() > 1)
      layers.emplace_back(fused->name);
    return layer_patterns(block_patterns(plan.block_prefix(), g.blocks, all_blocks), layers);
  }
  std::vector<std::string> const any = {".*"};
  std::string const served(g.served_as);
  auto out =
      layer_patterns(all_blocks ? any : block_patterns(std::string(served_blocks) + "0.", g.blocks, false), {served});
  for (auto& p : layer_patterns(all_blocks ? any : block_patterns(plan.block_prefix(), g.blocks, false), g.parts))
    if (std::find(out.begin(), out.end(), p) == out.end()) out.push_back(std::move(p));
  return out;
}

/// The linears that are quantized where some are not: full names; for a family whose names engines change, the list as
/// vLLM understands it: names below the block, group by group, or full names and those of its own.
inline std::vector<std::vector<std::string>> quantized_lists(quantization_plan const& plan, index_t blocks) {
  struct group_list {
    std::vector<std::string> names;  ///< below the block, and the engine's where that is another
    std::string served;
    bool renamed = false;
    std::set<index_t> blocks;  ///< where it is quantized
  };
  std::vector<group_list> groups;  // of a block
  std::vector<std::string> names;
  for (planned_linear const& p : plan.linears()) {
    if (p.spec) names.push_back(p.info.name);
    if (!p.among) continue;
    if (groups.size() <= p.group) groups.resize(p.group + 1);
    if (p.block == 0) groups[p.group].names.push_back(p.info.name.substr(plan.block_prefix().size()));
    groups[p.group].served = p.among->served_as;
    if (p.spec) groups[p.group].blocks.insert(p.block);
  }
  std::string_view const served_blocks = plan.family().served_blocks;
  if (served_blocks.empty()) return {names};
  bool all_blocks = !plan.head();
  for (group_list& g : groups) {
    all_blocks = all_blocks && (g.blocks.empty() || static_cast<index_t>(g.blocks.size()) == blocks);
    g.renamed = g.names.size() == 1 && g.names.front() != g.served;
    if (g.renamed) g.names.push_back(g.served);
  }
  std::vector<std::vector<std::string>> lists;
  for (group_list const& g : groups) {
    if (all_blocks && !g.blocks.empty()) lists.push_back(g.names);
    if (!all_blocks && g.renamed)
      for (index_t const block : g.blocks)
        names.push_back(std::string(served_blocks) + std::to_string(block) + "." + g.served);
  }
  return all_blocks ? lists : std::vector<std::vector<std::string>>{names};
}

inline dynamic_rule make_rule(std::string const& pattern, std::optional<module_settings> const& settings,
                              module_settings const& base) {
  dynamic_rule rule;
  rule.keep_float = !settings;
  // A reader matches patterns against the names of tensors too: "….down_proj.qweight".
  rule.key = (settings ? "+:" : "-:") + pattern + (settings ? "(\\.|$)" : "$");
  if (!settings) return rule;
  if (settings->bits != base.bits) rule.bits = settings->bits;
  if (settings->group_size != base.group_size) rule.group_size = settings->group_size;
  if (settings->sym != base.sym) rule.sym = settings->sym;
  if (settings->desc_act != base.desc_act) rule.desc_act = settings->desc_act;
  return rule;
}

/// Fills `dynamic` and `modules_in_block_to_quantize`.
inline void declare_layers(quantization_config& c, quantization_plan const& plan, std::string const& head) {
  index_t blocks = 0;
  for (planned_linear const& p : plan.linears()) blocks = (std::max)(blocks, p.block + 1);
  float_layers floats;
  for (layer_group const& g : deviating_layers(plan, c.base)) {
    bool const all = static_cast<index_t>(g.blocks.size()) == blocks;
    for (std::string const& pattern : group_patterns(plan, g, all))
      (g.settings ? c.dynamic : floats.rules).push_back(make_rule(pattern, g.settings, c.base));
  }
  c.lm_head = plan.head() != nullptr;
  if (c.lm_head && settings_of(*plan.head()->spec) != c.base)
    c.dynamic.push_back(make_rule(escape_dots(plan.head()->info.name), settings_of(*plan.head()->spec), c.base));
  if (!plan.kept_float().empty()) floats.quantized = quantized_lists(plan, blocks);
  floats.names = plan.kept_float();
  if (!plan.head()) floats.names.push_back(head);
  with_format(c.format, [&](auto f) { f.declare_float(c, floats); });
}

/// `head` is the name of lm_head, which compressed-tensors must be told to leave alone.
inline quantization_config quantization_settings(quantization_plan const& plan, recipe const& r,
                                                 std::string const& head) {
  quant_spec const& s = r.spec;
  quantization_config c;
  c.base = settings_of(s);
  c.format = r.format;
  c.static_groups = s.static_groups;
  c.true_sequential = r.true_sequential;
  c.damp_percent = r.quantize.damp_percent;
  c.meta = {{"quantizer", {"gptq:" GPTQ_VERSION}},
            {"order", to_string(s.order)},
            {"mse", std::round(1e6 * static_cast<double>(r.quantize.grid.mse)) / 1e6},
            {"damp_percent", c.damp_percent.value()}};
  for (auto const& [key, value] : r.meta) c.meta[key] = value;
  declare_layers(c, plan, head);
  return c;
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
