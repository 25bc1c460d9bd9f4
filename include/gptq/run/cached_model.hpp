/// A whole model at work on one text that grows: every token goes through the layers once, its keys and values stay.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/model_backend.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/layer.hpp>
#include <gptq/run/lm_head.hpp>
#include <gptq/run/load_layer.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What a cached_model is opened with.
struct cached_model_options {
  packed_layers packed = packed_layers::keep;  ///< a backend that can't multiply with them gets matrices
  index_t micro_batch = 512;                   ///< tokens that go through a layer together
};

/// All weights but the embedding, which is read from the folder row by row, and the keys and values of up to `capacity`
/// tokens are in the backend's memory. What the folder's weights show must stay valid.
///
/// Logits are those of the text as it is: where the positions of a longer text are scaled by another rule (rope_type), all
/// of it goes through the layers again. Under `longrope` that happens once, past the original length; under `dynamic` and
/// `telechat` with every token beyond the lengths trained on.
template <forward_backend B>
class cached_model {
 public:
  using activation = typename B::activation;
  using view = view_of<B, activation>;
  using const_view = view_of<B, activation const>;

  cached_model(B& backend, model_weights const& weights, index_t capacity, cached_model_options const& options = {})
      : backend_(&backend),
        weights_(&weights),
        capacity_(capacity),
        micro_batch_(std::clamp(options.micro_batch, index_t(1), (std::max)(capacity, index_t(1)))),
        head_(backend, weights, options.packed) {
    model_config const& c = weights.config();
    for (index_t i = 0; i < c.blocks; ++i) {
      layers_.push_back(load_layer(backend, weights, i, {}, options.packed));
      programs_.push_back(whole_layer(weights.layer(i)));
    }
    matrix<std::int32_t> counting(1, (std::max)(capacity, micro_batch_));
    for (index_t p = 0; p < counting.cols(); ++p) counting(0, p) = static_cast<std::int32_t>(p);
    counting_ = backend.template adopt<std::int32_t>(std::move(counting));
    hidden_ = backend.template make<activation>(micro_batch_, c.hidden);
  }

  [[nodiscard]] index_t tokens() const { return static_cast<index_t>(ids_.size()); }
  [[nodiscard]] index_t capacity() const { return capacity_; }
  [[nodiscard]] model_config const& config() const { return weights_->config(); }

  /// The text goes on with these tokens, at least one. Returns the logits of the last one [1 × vocabulary], valid until
  /// the next call. Throws shape_error for more tokens than there is room for and for ids outside the vocabulary; the text
  /// then is what it was.
  const_view append(std::span<std::int32_t const> ids) {
    auto const length = tokens() + static_cast<index_t>(ids.size());
    if (ids.empty()) throw shape_error("cached_model: no tokens to go on with");
    if (length > capacity_)
      throw shape_error("cached_model: " + std::to_string(length) + " tokens, more than the " +
                        std::to_string(capacity_) + " that there is room for");
    for (std::int32_t const id : ids)
      if (id < 0 || id >= config().vocabulary)
        throw shape_error("token id " + std::to_string(id) + " is outside the vocabulary of " +
                          std::to_string(config().vocabulary));
    index_t first = tokens();
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    if (length > reach_) {
      turn_for(length);
      first = 0;
    }
    index_t rows = 0;
    for (; first < length; first += rows) {
      rows = std::min(micro_batch_, length - first);
      run(first, rows);
    }
    return head_.logits(const_view(hidden_).row_range(rows - 1, 1));
  }

  /// Back to an empty text.
  void clear() {
    ids_.clear();
    reach_ = 0;
  }

 private:
  /// From now on the positions are those of a text of that length.
  void turn_for(index_t length) {
    reach_ = rope_reach(config().rope, length, capacity_);
    interpreter_.reset();
    interpreter_.emplace(*backend_, config(), std::vector<index_t>{reach_});
    interpreter_->reserve(micro_batch_, scratch_widths(weights_->layers()));
    caches_.resize(layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (caches_[i].rows.rows() == 0) caches_[i] = interpreter_->make_cache(layers_[i].graph->attention, capacity_);
      caches_[i].used = 0;
    }
  }

  /// Tokens [first, first + rows), the cache holding those before. Leaves the hidden states behind the last layer.
  void run(index_t first, index_t rows) {
    view_of<B, std::int32_t const> const counting = std::as_const(counting_);
    auto const ids =
        std::span<std::int32_t const>(ids_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    auto const embedding = backend_->template adopt<activation>(weights_->embedding(ids));
    view const h = view(hidden_).row_range(0, rows);
    backend_->embed(counting.col_range(0, rows), embedding, interpreter_->embedding_scale(), h);

    index_t const position = interpreter_->first_position(reach_) + first;
    token_range<B> const tokens{0, rows, {0, rows}, counting.col_range(position, rows)};
    std::vector<view> values;
    for (std::size_t i = 0; i < layers_.size(); ++i)
      interpreter_->run(programs_[i], layers_[i], tokens, h, values, &caches_[i]);
  }

  B* backend_;
  model_weights const* weights_;
  index_t capacity_;
  index_t micro_batch_;
  lm_head<B> head_;
  std::vector<layer_weights<B>> layers_;
  std::vector<layer_program> programs_;
  std::vector<key_cache<B>> caches_;
  std::optional<interpreter<B>> interpreter_;
  index_t reach_ = 0;  ///< the longest text that the rotary tables in use are for
  std::vector<std::int32_t> ids_;
  matrix_of<B, std::int32_t> counting_;  ///< 0, 1, 2, …
  matrix_of<B, activation> hidden_;
};

}  // namespace v0
}  // namespace gptq
