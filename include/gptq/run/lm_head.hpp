/// From the hidden states behind the last layer to logits.
#pragma once

#include <gptq/core/model_backend.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/load_layer.hpp>

#include <utility>

namespace gptq {
inline namespace v0 {

/// The final norm and the lm_head.
template <forward_backend B>
class lm_head {
 public:
  using activation = typename B::activation;
  using view = view_of<B, activation>;
  using const_view = view_of<B, activation const>;

  lm_head(B& backend, model_weights const& weights, packed_layers packed = packed_layers::dequantize)
      : backend_(&backend),
        config_(weights.config()),
        norm_(backend.template adopt<activation>(weights.final_norm())),
        head_(load_head(backend, weights, packed)) {}

  [[nodiscard]] index_t vocabulary() const { return config_.vocabulary; }

  /// logits [tokens × vocabulary] of hidden states [tokens × hidden] behind the last layer; valid until the next call.
  const_view logits(const_view hidden_states) {
    if (normed_.rows() < hidden_states.rows) {
      normed_ = backend_->template make<activation>(hidden_states.rows, config_.hidden);
      logits_ = backend_->template make<activation>(hidden_states.rows, config_.vocabulary);
    }
    view const x = view(normed_).row_range(0, hidden_states.rows);
    view const y = view(logits_).row_range(0, hidden_states.rows);
    backend_->rms_norm(hidden_states, norm_, config_.norm_eps, config_.family->norm_offset, x);
    multiply<false>(*backend_, head_, x, y);
    if (config_.logit_softcap > 0) backend_->softcap(config_.logit_softcap, y);
    return y;
  }

 private:
  static group_weights<B> load_head(B& b, model_weights const& weights, packed_layers packed) {
    group_weights<B> head;
    if (!weights.tied()) head.linears = {weights.head_layer()};
    if (packed == packed_layers::keep && detail::any_packed<B>(weights, head.linears))
      head.parts.push_back(detail::load_part(b, weights, head.linears.front()));
    else
      head.weight = b.template adopt<activation>(weights.head());
    return head;
  }

  B* backend_;
  model_config config_;
  matrix_of<B, activation> norm_;
  group_weights<B> head_;
  matrix_of<B, activation> normed_;
  matrix_of<B, activation> logits_;
};

}  // namespace v0
}  // namespace gptq
