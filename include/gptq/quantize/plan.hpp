/// What becomes of every linear layer of a run: the rules applied to the model, before any work.
#pragma once

#include <gptq/engines/fused_layers.hpp>
#include <gptq/format/dynamic_rules.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/model/block_graph.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/quantize/recipe.hpp>

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A spec as the settings of a folder say it.
inline module_settings settings_of(quant_spec const& s) { return {s.format(), scattered_groups(s)}; }

/// "4 bits, group_size 128, sym", or "float"
inline std::string describe(std::optional<quant_spec> const& s) {
  if (!s) return "float";
  return std::to_string(s->bits) + " bits, group_size " + std::to_string(s->group_size) +
         (s->sym ? ", sym" : ", asym") + (scattered_groups(*s) ? ", desc_act" : "");
}

/// The base spec with the overrides of a rule, or nothing if it keeps the layer in float. desc_act false takes a base of
/// that order to the natural one. Throws shape_error naming the rule.
inline std::optional<quant_spec> apply_rule(quant_spec base, dynamic_rule const& rule) {
  if (rule.keep_float) return std::nullopt;
  base.bits = rule.bits.value_or(base.bits);
  base.group_size = rule.group_size.value_or(base.group_size);
  base.sym = rule.sym.value_or(base.sym);
  if (rule.desc_act && *rule.desc_act) base.order = column_order::desc_act;
  if (rule.desc_act && !*rule.desc_act && base.order == column_order::desc_act) base.order = column_order::natural;
  try {
    check_spec(base);
  } catch (shape_error const& e) {
    throw shape_error("rule \"" + detail::printable(rule.key) + "\": " + e.what());
  }
  return base;
}

/// One linear layer, and what it is quantized to; nothing if it stays in float.
struct planned_linear {
  linear_info info;
  std::optional<quant_spec> spec;
  index_t block = -1;                   ///< -1: the lm_head
  std::size_t group = 0;                ///< of the block's graph
  linear_group const* among = nullptr;  ///< that group; null for the lm_head
};

/// A linear to be quantized, as formats are asked about it.
inline layer_outline outline_of(planned_linear const& p) {
  return {.name = p.info.name,
          .in_features = p.info.inputs,
          .out_features = p.info.rows,
          .spec = p.spec->format(),
          .scattered = scattered_groups(*p.spec)};
}

/// The linears of all blocks, and the lm_head if that was asked for. The linears of a group agree: they share a solve
/// here and are one layer in vLLM and SGLang. The model's weights must outlive the plan.
class quantization_plan {
 public:
  /// Throws shape_error for a rule that gives an impossible spec, for siblings that disagree and for a tied head, naming
  /// the layers.
  quantization_plan(model_weights const& weights, recipe const& asked)
      : base_(asked.spec), family_(weights.config().family) {
    check_spec(asked.spec);
    std::vector<std::size_t> matched(asked.dynamic.size());
    auto const add = [&](linear_info info, index_t block, std::size_t group, linear_group const* among) {
      planned_linear p{.info = std::move(info), .spec = asked.spec, .block = block, .group = group, .among = among};
      if (dynamic_rule const* const rule = matching_rule(asked.dynamic, p.info.name)) {
        p.spec = apply_rule(asked.spec, *rule);
        ++matched[static_cast<std::size_t>(rule - asked.dynamic.data())];
      } else if (among && !asked.all_layers && !among->stays_float.empty()) {
        p.spec = std::nullopt;
      }
      all_.push_back(std::move(p));
    };
    std::string const folder = weights.reader().folder().string();
    for (index_t i = 0; i < weights.config().blocks; ++i) {
      auto const& groups = weights.layer(i).groups;
      first_.emplace_back();
      for (std::size_t g = 0; g < groups.size(); ++g) {
        first_.back().push_back(all_.size());
        for (linear_info const& l : groups[g].linears) add(l, i, g, &groups[g]);
        check_siblings(folder);
      }
    }
    if (asked.lm_head) {
      model_config const& c = weights.config();
      if (weights.tied())
        throw shape_error(folder + ": lm_head can't be quantized: it is tied to the embedding, which stays in float",
                          remedy::keep_head_float);
      has_head_ = true;
      add({weights.names().head_module(), 0, c.vocabulary, c.hidden, false}, -1, 0, nullptr);
    }
    for (std::size_t r = 0; r < matched.size(); ++r)
      if (matched[r] == 0)
        warnings_.emplace_back("rule \"" + detail::printable(asked.dynamic[r].key) +
                               "\" decides about no layer of the model");
    block_prefix_ = weights.names().block(0);
    explain_float();
  }

  [[nodiscard]] quant_spec const& base() const { return base_; }
  [[nodiscard]] family_rule const& family() const { return *family_; }
  [[nodiscard]] std::vector<planned_linear> const& linears() const { return all_; }

  /// What the linears of a group are quantized to.
  [[nodiscard]] std::optional<quant_spec> const& group(index_t block, std::size_t g) const {
    return all_[first_[static_cast<std::size_t>(block)][g]].spec;
  }

  /// lm_head, if it is to be quantized.
  [[nodiscard]] planned_linear const* head() const { return has_head_ && all_.back().spec ? &all_.back() : nullptr; }

  /// The layers that will be quantized.
  [[nodiscard]] std::vector<planned_linear> quantized() const {
    std::vector<planned_linear> out;
    for (planned_linear const& p : all_)
      if (p.spec) out.push_back(p);
    return out;
  }

  /// Names of the layers that a rule keeps in float.
  [[nodiscard]] std::vector<std::string> kept_float() const {
    std::vector<std::string> out;
    for (planned_linear const& p : all_)
      if (!p.spec) out.push_back(p.info.name);
    return out;
  }

  [[nodiscard]] std::vector<advice> const& warnings() const { return warnings_; }

  /// "model.layers.0."
  [[nodiscard]] std::string const& block_prefix() const { return block_prefix_; }

 private:
  /// Which linears the family keeps in float and why, or what it costs to quantize them all the same: once for each reason.
  void explain_float() {
    std::map<std::string_view, std::pair<std::string, std::string_view>> seen;  // reason → names, engines
    std::set<std::string_view> kept, quantized;
    for (planned_linear const& p : all_) {
      if (!p.among || p.among->stays_float.empty()) continue;
      (p.spec ? quantized : kept).insert(p.among->stays_float);
      if (p.block > 0) continue;
      auto& [names, engines] = seen[p.among->stays_float];
      names += (names.empty() ? "" : " and ") + p.info.name.substr(block_prefix_.size());
      engines = p.among->engines;
    }
    for (auto const& [reason, layers] : seen) {
      auto const& [names, engines] = layers;
      if (kept.count(reason))
        warnings_.emplace_back(names + " stay in float: " + std::string(reason) +
                                   "; written as Llama, all layers are quantized and vLLM loads them; they can be "
                                   "quantized here too",
                               remedies{remedy::as_llama, remedy::all_layers});
      if (quantized.count(reason))
        warnings_.emplace_back(names + " are quantized, so " + std::string(engines) + " will not load the result: " +
                                   std::string(reason) + "; written as Llama, they will do",
                               remedy::as_llama);
    }
  }

  void check_siblings(std::string const& folder) const {
    planned_linear const& a = all_[first_.back().back()];
    for (std::size_t i = first_.back().back() + 1; i < all_.size(); ++i) {
      planned_linear const& b = all_[i];
      if (a.spec == b.spec) continue;
      fused_layer const* const fused = fused_layer_of(a.info.name);
      throw shape_error(folder + ": " + a.info.name + " (" + describe(a.spec) + ") and " + b.info.name + " (" +
                        describe(b.spec) + ") must agree: vLLM and SGLang load them as one layer" +
                        (fused ? ", " + std::string(fused->name) : std::string()));
    }
  }

  quant_spec base_;
  family_rule const* family_;
  std::vector<planned_linear> all_;
  std::vector<std::vector<std::size_t>> first_;  ///< [blocks][groups] the first linear of each group
  bool has_head_ = false;
  std::vector<advice> warnings_;
  std::string block_prefix_;
};

}  // namespace v0
}  // namespace gptq
