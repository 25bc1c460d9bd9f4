/// The states of all calibration tokens, carried through a model block by block and, inside a block, stage by stage.
#pragma once

#include <gptq/core/model_backend.hpp>
#include <gptq/run/block.hpp>
#include <gptq/run/token_rows.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

struct stream_options {
  index_t chunk_tokens = 2048;  ///< samples are worked on together up to so many tokens; a longer one alone
  std::size_t keep_bytes = std::size_t(1) << 30;  ///< the inputs of `down` are kept where they fit, else computed twice
  bool states_on_host = false;  ///< states and attention's results wait in host memory (a fetching_backend's)
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
      : backend_(&backend), options_(options), decoder_(backend, config, lengths(tokens)) {
    index_t count = 0;
    for (auto const& sample : tokens) count += static_cast<index_t>(sample.size());
    matrix<std::int32_t> ids(1, count);
    matrix<std::int32_t> positions(1, count);
    count = 0;
    for (std::size_t s = 0; s < tokens.size(); ++s) {
      auto const length = static_cast<index_t>(tokens[s].size());
      auto position = static_cast<std::int32_t>(length ? decoder_.first_position(length) : 0);
      for (std::size_t p = 0; p < tokens[s].size(); ++p, ++count) {
        ids(0, count) = tokens[s][p];
        positions(0, count) = position++;
        if (tokens[s][p] < 0 || tokens[s][p] >= config.vocabulary)
          throw shape_error("sample " + std::to_string(s) + ": token id " + std::to_string(tokens[s][p]) +
                            " is outside the vocabulary of " + std::to_string(config.vocabulary));
      }
    }
    ids_ = backend.template adopt<std::int32_t>(std::move(ids));
    positions_ = backend.template adopt<std::int32_t>(std::move(positions));
    for (auto const& sample : tokens) lengths_.push_back(static_cast<index_t>(sample.size()));
    divide(0);
    states_ = {backend, count, config.hidden, options.states_on_host, most_rows()};
    for (token_range<B> const& t : chunks_) {
      backend.embed(this->ids().col_range(t.first, t.rows), embedding, decoder_.embedding_scale(),
                    states_.write(span(t)));
      states_.store(span(t));
    }
    make_scratch();
  }

  [[nodiscard]] index_t tokens() const { return states_.rows(); }
  [[nodiscard]] model_config const& config() const { return decoder_.config(); }

  /// The groups of samples that are worked on together, in order.
  [[nodiscard]] std::vector<token_range<B>> const& chunks() const { return chunks_; }

  /// Tokens that are worked on together at most: options.chunk_tokens, or fewer after reduce(), or one longer sample.
  [[nodiscard]] index_t chunk_tokens() const { return (std::max)(options_.chunk_tokens, most_rows()); }

  /// [tokens × hidden], before the block that comes next. Not where they are in host memory.
  [[nodiscard]] const_view states() const { return states_.all(); }
  /// Those of one chunk, as far as they are: what the next addition to the residual stream adds to. Valid until another
  /// chunk is worked on.
  [[nodiscard]] const_view states(token_range<B> const& chunk) { return states_.read(span(chunk), span(chunk)); }
  [[nodiscard]] view_of<B, std::int32_t const> ids() const { return ids_; }

  /// Whether all chunks come to the same stage next.
  [[nodiscard]] bool uniform() const {
    return std::adjacent_find(reached_.begin(), reached_.end(), std::not_equal_to<>()) == reached_.end();
  }

  /// Makes do with less of the backend's memory: first without the kept inputs of the last stage, then with chunks half
  /// as large. To be called before the first chunk of a stage. False where there is nothing left to give.
  bool reduce() {
    if (!uniform()) return false;
    if (keeps_product()) {
      options_.keep_bytes = 0;
      product_ = {};
      return true;
    }
    index_t const before = most_rows();
    options_.chunk_tokens = before / 2;
    divide(reached_.front());
    if (most_rows() == before) return false;
    input_scratch_ = {};
    projections_ = {};
    output_scratch_ = {};
    states_.resize(most_rows());
    context_.resize(most_rows());
    make_scratch();
    return true;
  }

  /// Calls sink(X, chunk) with the inputs of a stage [rows × stage_inputs] for every chunk. X is valid during the call.
  template <class Sink>
  void collect(int stage, block_weights<B> const& block, Sink&& sink) {
    for (std::size_t c = 0; c < chunks_.size(); ++c) sink(input(stage, block, c), chunks_[c]);
  }

  /// Makes what a stage keeps of all chunks, before the first of them; input() would.
  void prepare(int stage) {
    if (stage == context_stage && context_.rows() == 0)
      context_ = {*backend_, tokens(), config().stage_inputs(context_stage), options_.states_on_host, most_rows()};
    if (stage == down_stage && !options_.states_on_host &&  // (where that costs no copy back and forth)
        std::all_of(reached_.begin(), reached_.end(), [](int next) { return next >= down_stage; }))
      context_ = {};
    if (stage == down_stage && keeps_product() && product_.rows() == 0)
      product_ = backend_->template make<activation>(tokens(), config().mlp);
  }

  /// One chunk of collect(); the view is valid until the next call. For each chunk the stages come in order.
  const_view input(int stage, block_weights<B> const& block, std::size_t chunk) {
    if (reached_[chunk] != stage) out_of_order(stage, reached_[chunk]);
    prepare(stage);
    const_view const x = segment(stage, block, chunk);  // where memory is short, this throws before states change
    ++reached_[chunk];
    return x;
  }

  /// Ends a block of which all stages were collected.
  void advance(block_weights<B> const& block) {
    for (std::size_t c = 0; c < chunks_.size(); ++c) {
      if (reached_[c] != stage_count) out_of_order(stage_count, reached_[c]);
      if (!keeps_product()) segment(down_stage, block, c);
      finish(block, c);
      reached_[c] = 0;
    }
  }

  /// A whole block, from the states before it to those behind it. Keeps nothing between the stages.
  void run(block_weights<B> const& block) {
    context_ = {};
    product_ = {};
    for (std::size_t c = 0; c < chunks_.size(); ++c) {
      if (reached_[c] != 0) out_of_order(0, reached_[c]);
      for (int stage = 0; stage < stage_count; ++stage) segment(stage, block, c);
      finish(block, c);
    }
  }

  /// A copy of the states between two blocks, for a second way through the next one.
  [[nodiscard]] token_rows<B> save() const { return states_.copy(); }
  /// Back to what save() gave, whatever was collected since.
  void restore(token_rows<B>&& saved) {
    if (saved.rows() != states_.rows() || saved.cols() != states_.cols())
      throw shape_error("token_stream: the saved states are of another stream");
    states_ = std::move(saved);
    std::fill(reached_.begin(), reached_.end(), 0);
  }

 private:
  static std::vector<index_t> lengths(samples const& tokens) {
    std::vector<index_t> all;
    for (auto const& sample : tokens)
      if (!sample.empty()) all.push_back(static_cast<index_t>(sample.size()));
    if (all.empty()) throw shape_error("no tokens: every sample is empty");
    return all;
  }

  [[noreturn]] static void out_of_order(int asked, int reached) {
    throw shape_error("token_stream: stage " + std::to_string(asked) + " asked for where stage " +
                      std::to_string(reached) + " comes next");
  }

  /// Chunks that all come to `stage` next.
  void divide(int stage) {
    index_t row = 0;
    chunks_.clear();
    for (index_t const length : lengths_) {
      if (length == 0) continue;
      if (chunks_.empty() || chunks_.back().rows + length > options_.chunk_tokens)
        chunks_.push_back({.first = row, .rows = 0, .bounds = {0}, .positions = {}});
      chunks_.back().rows += length;
      chunks_.back().bounds.push_back(chunks_.back().rows);
      row += length;
    }
    view_of<B, std::int32_t const> const positions = std::as_const(positions_);
    for (token_range<B>& t : chunks_) t.positions = positions.col_range(t.first, t.rows);
    reached_.assign(chunks_.size(), stage);
  }

  [[nodiscard]] index_t most_rows() const {
    index_t most = 0;
    for (token_range<B> const& t : chunks_) most = std::max(most, t.rows);
    return most;
  }

  void make_scratch() {
    model_config const& c = config();
    index_t const most = most_rows();
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
  static row_span span(token_range<B> const& t) { return {t.first, t.rows}; }
  /// What is worked on after that chunk.
  [[nodiscard]] row_span span_behind(std::size_t chunk) const { return span(chunks_[(chunk + 1) % chunks_.size()]); }

  view product(token_range<B> const& t) {
    return product_.rows() ? view(product_).row_range(t.first, t.rows) : scratch(output_scratch_, t.rows, config().mlp);
  }

  /// The end of a block, its product having been computed.
  void finish(block_weights<B> const& block, std::size_t chunk) {
    token_range<B> const& t = chunks_[chunk];
    decoder_.add_product(block, product(t), scratch(input_scratch_, t.rows, config().hidden),
                         states_.read(span(t), span_behind(chunk)));
    states_.store(span(t));
  }

  const_view segment(int stage, block_weights<B> const& block, std::size_t chunk) {
    token_range<B> const& t = chunks_[chunk];
    view const h = states_.read(span(t), span_behind(chunk));
    bool const keeps_context = context_.rows() > 0;
    view const passing = scratch(output_scratch_, t.rows, config().stage_inputs(context_stage));
    view const x = scratch(input_scratch_, t.rows, config().hidden);
    view const projections =
        scratch(projections_, t.rows, config().stage_outputs(stage == context_stage ? attention_stage : gate_up_stage));
    switch (stage) {
      case attention_stage: decoder_.attention_input(block, h, x); return x;
      case context_stage: {
        decoder_.attention_input(block, h, x);
        view const context = keeps_context ? context_.write(span(t)) : passing;
        decoder_.attention(block, t, x, projections, context);
        if (keeps_context) context_.store(span(t));
        return context;
      }
      case gate_up_stage:
        decoder_.add_context(block, keeps_context ? context_.read(span(t), span_behind(chunk)) : passing, x, h);
        states_.store(span(t));
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
  std::vector<index_t> lengths_;  ///< of the samples
  std::vector<token_range<B>> chunks_;
  std::vector<int> reached_;  ///< the stage that each chunk comes to next
  matrix_of<B, std::int32_t> ids_;
  matrix_of<B, std::int32_t> positions_;
  token_rows<B> states_;
  token_rows<B> context_;
  matrix_of<B, activation> product_;
  matrix_of<B, activation> input_scratch_;
  matrix_of<B, activation> projections_;
  matrix_of<B, activation> output_scratch_;
};

}  // namespace v0
}  // namespace gptq
