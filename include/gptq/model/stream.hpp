/// The states of all calibration tokens, carried through a model block by block and, inside a block, stage by stage.
#pragma once

#include <gptq/core/forward.hpp>
#include <gptq/model/block.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

struct stream_options {
  index_t chunk_tokens = 2048;  ///< samples are worked on together up to so many tokens; a longer one alone
  std::size_t keep_bytes = std::size_t(1) << 30;  ///< the inputs of `down` are kept where they fit, else computed twice
};

/// A batch of token sequences on its way through a model. Nothing is padded. Quantization calls, for each block,
///
///   for each stage: collect(stage, block, sink);   // sink sees the inputs X of that stage, all tokens, chunk by chunk
///   advance(block);                                // the states behind the block
///
/// and may replace the weights of a stage after it was collected: every later stage then runs on the new ones. Each
/// token goes through each operation once. What is kept between two stages is attention's result and, as far as
/// keep_bytes allows, the inputs of the last stage. `run(block)` does a whole block and keeps nothing. Two streams are
/// two objects: collect them chunk by chunk with input() where both inputs of a stage are needed at once.
template <forward_backend B>
class token_stream {
 public:
  using activation = typename B::activation;
  using view = view_of<B, activation>;
  using const_view = view_of<B, activation const>;
  using samples = std::vector<std::vector<std::int32_t>>;

  /// The states before the first block: the rows of `embedding` [vocabulary × hidden] for the ids of `tokens`. Throws
  /// shape_error naming sample and id for one outside the vocabulary, and where there is no token.
  token_stream(B& backend, model_config const& config, samples const& tokens, const_view embedding,
               stream_options const& options = {})
      : backend_(&backend), options_(options), decoder_(backend, config, longest(tokens)) {
    index_t count = 0;
    for (auto const& sample : tokens) count += static_cast<index_t>(sample.size());
    matrix<std::int32_t> ids(1, count);
    matrix<std::int32_t> positions(1, count);
    count = 0;
    for (std::size_t s = 0; s < tokens.size(); ++s)
      for (std::size_t p = 0; p < tokens[s].size(); ++p, ++count) {
        ids(0, count) = tokens[s][p];
        positions(0, count) = static_cast<std::int32_t>(p);
        if (tokens[s][p] < 0 || tokens[s][p] >= config.vocabulary)
          throw shape_error("sample " + std::to_string(s) + ": token id " + std::to_string(tokens[s][p]) +
                            " is outside the vocabulary of " + std::to_string(config.vocabulary));
      }
    ids_ = backend.template adopt<std::int32_t>(std::move(ids));
    positions_ = backend.template adopt<std::int32_t>(std::move(positions));
    states_ = backend.template make<activation>(count, config.hidden);
    backend.embed(ids_, embedding, 1.0f, states_);
    divide(tokens);
    make_scratch();
  }

  [[nodiscard]] index_t tokens() const { return states_.rows(); }
  [[nodiscard]] model_config const& config() const { return decoder_.config(); }

  /// The groups of samples that are worked on together, in order.
  [[nodiscard]] std::vector<token_range<B>> const& chunks() const { return chunks_; }

  /// [tokens × hidden], before the block that comes next.
  [[nodiscard]] const_view states() const { return states_; }
  /// Those of one chunk, as far as they are: what the next addition to the residual stream adds to.
  [[nodiscard]] const_view states(token_range<B> const& chunk) const {
    return states().row_range(chunk.first, chunk.rows);
  }
  [[nodiscard]] view_of<B, std::int32_t const> ids() const { return ids_; }

  /// Calls sink(X, chunk) with the inputs of a stage [rows × stage_inputs] for every chunk. X is valid during the call.
  template <class Sink>
  void collect(int stage, block_weights<B> const& block, Sink&& sink) {
    for (std::size_t c = 0; c < chunks_.size(); ++c) sink(input(stage, block, c), chunks_[c]);
  }

  /// One chunk of collect(); the view is valid until the next call. For each chunk the stages come in order.
  const_view input(int stage, block_weights<B> const& block, std::size_t chunk) {
    token_range<B> const& t = chunks_[chunk];
    if (reached_[chunk] != stage) out_of_order(stage, reached_[chunk]);
    ++reached_[chunk];
    if (stage == context_stage && context_.rows() == 0)
      context_ = backend_->template make<activation>(tokens(), config().stage_inputs(context_stage));
    if (stage == down_stage && keeps_product() && product_.rows() == 0)
      product_ = backend_->template make<activation>(tokens(), config().mlp);
    return segment(stage, block, t);
  }

  /// Ends a block of which all stages were collected.
  void advance(block_weights<B> const& block) {
    for (std::size_t c = 0; c < chunks_.size(); ++c) {
      if (reached_[c] != stage_count) out_of_order(stage_count, reached_[c]);
      token_range<B> const& t = chunks_[c];
      if (!keeps_product()) segment(down_stage, block, t);
      decoder_.add_product(block, product(t), rows_of(states_, t));
      reached_[c] = 0;
    }
  }

  /// A whole block, from the states before it to those behind it. Keeps nothing between the stages.
  void run(block_weights<B> const& block) {
    context_ = {};
    product_ = {};
    for (std::size_t c = 0; c < chunks_.size(); ++c) {
      token_range<B> const& t = chunks_[c];
      if (reached_[c] != 0) out_of_order(0, reached_[c]);
      for (int stage = 0; stage < stage_count; ++stage) segment(stage, block, t);
      decoder_.add_product(block, product(t), rows_of(states_, t));
    }
  }

  /// A copy of the states between two blocks, for a second way through the next one.
  [[nodiscard]] matrix_of<B, activation> save() const {
    auto saved = backend_->template make<activation>(states_.rows(), states_.cols());
    backend_->copy(states(), view(saved));
    return saved;
  }
  /// Back to what save() gave, whatever was collected since.
  void restore(matrix_of<B, activation>&& saved) {
    if (saved.rows() != states_.rows() || saved.cols() != states_.cols())
      throw shape_error("token_stream: the saved states are of another stream");
    states_ = std::move(saved);
    std::fill(reached_.begin(), reached_.end(), 0);
  }

 private:
  static index_t longest(samples const& tokens) {
    std::size_t most = 0;
    for (auto const& sample : tokens) most = std::max(most, sample.size());
    if (most == 0) throw shape_error("no tokens: every sample is empty");
    return static_cast<index_t>(most);
  }

  [[noreturn]] static void out_of_order(int asked, int reached) {
    throw shape_error("token_stream: stage " + std::to_string(asked) + " asked for where stage " +
                      std::to_string(reached) + " comes next");
  }

  void divide(samples const& tokens) {
    index_t row = 0;
    for (auto const& sample : tokens) {
      auto const length = static_cast<index_t>(sample.size());
      if (length == 0) continue;
      if (chunks_.empty() || chunks_.back().rows + length > options_.chunk_tokens)
        chunks_.push_back({.first = row, .rows = 0, .bounds = {0}, .positions = {}});
      chunks_.back().rows += length;
      chunks_.back().bounds.push_back(chunks_.back().rows);
      row += length;
    }
    view_of<B, std::int32_t const> const positions = std::as_const(positions_);
    for (token_range<B>& t : chunks_) t.positions = positions.col_range(t.first, t.rows);
    reached_.assign(chunks_.size(), 0);
  }

  void make_scratch() {
    model_config const& c = config();
    index_t most = 0;
    for (token_range<B> const& t : chunks_) most = std::max(most, t.rows);
    input_scratch_ = backend_->template make<activation>(most, c.hidden);
    projections_ = backend_->template make<activation>(
        most, std::max(c.stage_outputs(attention_stage), c.stage_outputs(gate_up_stage)));
    output_scratch_ = backend_->template make<activation>(most, std::max(c.stage_inputs(context_stage), c.mlp));
  }

  [[nodiscard]] bool keeps_product() const {
    return static_cast<std::size_t>(tokens()) <=
           options_.keep_bytes / (sizeof(activation) * static_cast<std::size_t>(config().mlp));
  }

  /// The first columns of a scratch matrix as a contiguous matrix.
  static view scratch(matrix_of<B, activation>& m, index_t rows, index_t cols) { return {view(m).data, rows, cols}; }
  static view rows_of(matrix_of<B, activation>& m, token_range<B> const& t) {
    return view(m).row_range(t.first, t.rows);
  }
  view context(token_range<B> const& t) {
    return context_.rows() ? rows_of(context_, t)
                           : scratch(output_scratch_, t.rows, config().stage_inputs(context_stage));
  }
  view product(token_range<B> const& t) {
    return product_.rows() ? rows_of(product_, t) : scratch(output_scratch_, t.rows, config().mlp);
  }

  const_view segment(int stage, block_weights<B> const& block, token_range<B> const& t) {
    view const h = rows_of(states_, t);
    view const x = scratch(input_scratch_, t.rows, config().hidden);
    view const projections =
        scratch(projections_, t.rows, config().stage_outputs(stage == context_stage ? attention_stage : gate_up_stage));
    switch (stage) {
      case attention_stage: decoder_.attention_input(block, h, x); return x;
      case context_stage:
        decoder_.attention_input(block, h, x);
        decoder_.attention(block, t, x, projections, context(t));
        return context(t);
      case gate_up_stage:
        decoder_.add_context(block, context(t), h);
        decoder_.mlp_input(block, h, x);
        return x;
      default:
        decoder_.mlp_input(block, h, x);
        decoder_.mlp(block, x, projections, product(t));
        return product(t);
    }
  }

  B* backend_;
  stream_options options_;
  decoder_block<B> decoder_;
  std::vector<token_range<B>> chunks_;
  std::vector<int> reached_;  ///< the stage that each chunk comes to next
  matrix_of<B, std::int32_t> ids_;
  matrix_of<B, std::int32_t> positions_;
  matrix_of<B, activation> states_;
  matrix_of<B, activation> context_;
  matrix_of<B, activation> product_;
  matrix_of<B, activation> input_scratch_;
  matrix_of<B, activation> projections_;
  matrix_of<B, activation> output_scratch_;
};

}  // namespace v0
}  // namespace gptq
