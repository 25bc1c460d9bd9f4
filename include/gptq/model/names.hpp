/// The names of the tensors around the blocks, from the family's description.
#pragma once

#include <gptq/model/config.hpp>

#include <string>
#include <string_view>
#include <utility>

namespace gptq {
inline namespace v0 {

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
