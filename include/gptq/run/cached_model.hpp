/// A whole model at work on one text that grows: every token goes through the blocks once, its keys and values stay.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/model_backend.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/block.hpp>
#include <gptq/run/load_block.hpp>
#include <gptq/run/output_head.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

struct cached_model_options {
  packed_layers packed = packed_layers::keep;  ///< a backend that can't multiply with them gets matrices
  index_t chunk_tokens = 512;                  ///< tokens that go through a block together
};

/// All weights but the embedding, which is read from the folder row by row, and the keys and values of up to `capacity`
/// tokens are in the backend's memory. What the folder's weights show must stay valid.
///
/// Logits are those of the text as it is: where the positions of a longer text are scaled by another rule (rope_type), all
/// of it goes through the blocks again. Under `longrope` that happens once, past the original length; under `dynamic` and
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
        chunk_(std::clamp(options.chunk_tokens, index_t(1), (std::max)(capacity, index_t(1)))),
        head_(backend, weights, options.packed) {
    model_config const& c = weights.config();
    for (index_t i = 0; i < c.blocks; ++i) blocks_.push_back(load_block(backend, weights, i, {}, options.packed));
    matrix<std::int32_t> counting(1, (std::max)(capacity, chunk_));
    for (index_t p = 0; p < counting.cols(); ++p) counting(0, p) = static_cast<std::int32_t>(p);
    counting_ = backend.template adopt<std::int32_t>(std::move(counting));
    states_ = make(c.hidden);
    input_ = make(c.hidden);
    projections_ = make((std::max)(c.stage_outputs(attention_stage), c.stage_outputs(gate_up_stage)));
    output_ = make((std::max)(c.stage_inputs(context_stage), c.mlp));
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
      rows = std::min(chunk_, length - first);
      run(first, rows);
    }
    return head_.logits(const_view(states_).row_range(rows - 1, 1));
  }

  /// Back to an empty text.
  void clear() {
    ids_.clear();
    reach_ = 0;
  }

 private:
  matrix_of<B, activation> make(index_t cols) { return backend_->template make<activation>(chunk_, cols); }

  /// From now on the positions are those of a text of that length.
  void turn_for(index_t length) {
    reach_ = rope_reach(config().rope, length, capacity_);
    decoder_.emplace(*backend_, config(), std::vector<index_t>{reach_});
    caches_.resize(blocks_.size());
    for (key_cache<B>& c : caches_) {
      if (c.rows.rows() == 0) c = decoder_->make_cache(capacity_);
      c.used = 0;
    }
  }

  /// Tokens [first, first + rows), the cache holding those before. Leaves the states behind the last block.
  void run(index_t first, index_t rows) {
    model_config const& c = config();
    auto const part = [rows](matrix_of<B, activation>& m, index_t cols) -> view { return {view(m).data, rows, cols}; };
    view_of<B, std::int32_t const> const counting = std::as_const(counting_);
    auto const ids =
        std::span<std::int32_t const>(ids_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    auto const embedding = backend_->template adopt<activation>(weights_->embedding(ids));
    view const h = part(states_, c.hidden);
    backend_->embed(counting.col_range(0, rows), embedding, decoder_->embedding_scale(), h);

    index_t const position = decoder_->first_position(reach_) + first;
    token_range<B> const tokens{0, rows, {0, rows}, counting.col_range(position, rows)};
    view const x = part(input_, c.hidden);
    view const context = part(output_, c.stage_inputs(context_stage));
    view const product = part(output_, c.mlp);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      block_weights<B> const& w = blocks_[i];
      decoder_->attention_input(w, h, x);
      decoder_->attention(w, tokens, x, part(projections_, c.stage_outputs(attention_stage)), context, &caches_[i]);
      decoder_->add_context(w, context, x, h);
      decoder_->mlp_input(w, h, x);
      decoder_->mlp(w, x, part(projections_, c.stage_outputs(gate_up_stage)), product);
      decoder_->add_product(w, product, x, h);
    }
  }

  B* backend_;
  model_weights const* weights_;
  index_t capacity_;
  index_t chunk_;
  output_head<B> head_;
  std::vector<block_weights<B>> blocks_;
  std::vector<key_cache<B>> caches_;
  std::optional<decoder_block<B>> decoder_;
  index_t reach_ = 0;  ///< the longest text that the rotary tables in use are for
  std::vector<std::int32_t> ids_;
  matrix_of<B, std::int32_t> counting_;  ///< 0, 1, 2, …
  matrix_of<B, activation> states_;
  matrix_of<B, activation> input_;
  matrix_of<B, activation> projections_;
  matrix_of<B, activation> output_;
};

}  // namespace v0
}  // namespace gptq
