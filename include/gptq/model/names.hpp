/// The names and shapes of every tensor that a model is made of, from its family's description and its sizes.
#pragma once

#include <gptq/model/config.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// One linear layer of a stage: rows [first_row, first_row + rows) of the stage's stacked matrix.
struct linear_info {
  std::string name;  ///< of the module: "model.layers.0.self_attn.q_proj"; its tensors are name + ".weight", ".bias"
  index_t first_row = 0;
  index_t rows = 0;
  index_t inputs = 0;
  bool has_bias = false;
};

/// The names as a checkpoint spells them: some lack the root ("model.") that others have.
class model_names {
 public:
  model_names() = default;
  model_names(model_config config, std::string root) : config_(std::move(config)), root_(std::move(root)) {}

  [[nodiscard]] std::string embedding() const { return root_ + std::string(rule().embedding) + ".weight"; }
  /// Empty where tokens begin with their embedding as it is.
  [[nodiscard]] std::string embedding_norm() const {
    return config_.embedding_norm ? root_ + std::string(rule().embedding_norm) + ".weight" : std::string();
  }
  [[nodiscard]] std::string final_norm() const { return root_ + std::string(rule().final_norm) + ".weight"; }
  [[nodiscard]] std::string head_module() const { return std::string(rule().head); }
  [[nodiscard]] std::string head() const { return head_module() + ".weight"; }

  /// "model.layers.3."
  [[nodiscard]] std::string block(index_t i) const {
    return root_ + std::string(rule().blocks) + std::to_string(i) + ".";
  }
  /// Empty where the family has no such norm.
  [[nodiscard]] std::string norm(index_t i, block_norm which) const {
    std::string_view const name = rule().norms[static_cast<std::size_t>(which)];
    return name.empty() ? std::string() : block(i) + std::string(name) + ".weight";
  }

  /// The linear layers of one stage of block i, in the order of their outputs.
  [[nodiscard]] std::vector<linear_info> linears(index_t i, int stage) const {
    std::vector<linear_info> all;
    index_t row = 0;
    for (linear_rule const& l : rule().stages[static_cast<std::size_t>(stage)].linears) {
      if (l.name.empty()) continue;
      all.push_back({.name = block(i) + std::string(l.name),
                     .first_row = row,
                     .rows = config_.size_of(l.out),
                     .inputs = config_.stage_inputs(stage),
                     .has_bias = config_.has_bias(l.bias)});
      row += all.back().rows;
    }
    return all;
  }

  /// Tensors of old checkpoints that are no weights: tables and masks that the model computes.
  [[nodiscard]] static bool is_no_weight(std::string_view name) {
    for (std::string_view const end : {".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".masked_bias"})
      if (name.ends_with(end)) return true;
    return false;
  }

 private:
  [[nodiscard]] family_rule const& rule() const { return *config_.family; }

  model_config config_;
  std::string root_;
};

}  // namespace v0
}  // namespace gptq
