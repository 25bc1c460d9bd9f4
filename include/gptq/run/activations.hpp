/// The activations of all calibration tokens, carried through a model layer by layer and, inside a layer, linear group by
/// linear group.
#pragma once

#include <gptq/core/leaves.hpp>
#include <gptq/core/model_backend.hpp>
#include <gptq/run/layer.hpp>
#include <gptq/run/token_rows.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How much is worked on and kept at a time.
struct activation_options {
  index_t micro_batch = 2048;  ///< tokens: samples are worked on together up to so many; a longer one alone
  std::size_t keep_bytes = std::size_t(1) << 30;  ///< inputs of a group that a product makes are kept where they fit
  index_t leaves = 1;    ///< pieces of the samples, by number, whose borders no micro-batch crosses
  bool on_host = false;  ///< hidden states and attention outputs wait in host memory (a fetching_backend's)
};

/// A batch of token sequences on its way through a model. Nothing is padded. Quantization calls, for each layer,
///
///   for each group: collect(group, layer, sink);   // sink sees the inputs X of that group, by micro-batches
///   advance(layer);                                // the hidden states behind the layer
///
/// and may replace the weights of a group after it was collected: every later group then runs on the new ones. What is
/// kept between two groups is what attention went into and, as far as keep_bytes allows, what a product made; norms are
/// computed again where they are needed again. `run(layer)` does a whole layer and keeps nothing. Two models are two
/// objects: collect them micro-batch by micro-batch with input() where both inputs of a group are needed at once.
template <forward_backend B>
class activations {
 public:
  using activation = typename B::activation;
  using view = view_of<B, activation>;
  using const_view = view_of<B, activation const>;
  using samples = std::vector<std::vector<std::int32_t>>;

  /// The hidden states before the first layer: the rows of `embedding` [vocabulary × hidden] for the ids of `tokens`.
  /// The layers' graphs must outlive this. Throws shape_error naming sample and id for one outside the vocabulary, and
  /// where there is no token.
  activations(B& backend, model_config const& config, std::vector<block_graph> const& layers, samples const& tokens,
              const_view embedding, activation_options const& options = {})
      : backend_(&backend), options_(options), layers_(&layers), interpreter_(backend, config, lengths_of(tokens)) {
    for (auto const& sample : tokens) lengths_.push_back(static_cast<index_t>(sample.size()));
    load_ids(tokens);
    divide(0);
    hidden_ = {backend, ids().cols, config.hidden, options.on_host, most_rows()};
    for (token_range<B> const& t : micro_batches_) {
      backend.embed(ids().col_range(t.first, t.rows), embedding, interpreter_.embedding_scale(),
                    hidden_.write(span(t)));
      hidden_.store(span(t));
    }
    make_scratch();
  }

  [[nodiscard]] index_t tokens() const { return hidden_.rows(); }
  [[nodiscard]] model_config const& config() const { return interpreter_.config(); }

  /// The groups of samples that are worked on together, in order.
  [[nodiscard]] std::vector<token_range<B>> const& micro_batches() const { return micro_batches_; }

  /// Tokens that are worked on together at most: as asked for, or fewer after reduce(), or one longer sample.
  [[nodiscard]] index_t micro_batch() const { return options_.micro_batch; }

  /// [tokens × hidden], before the layer that comes next. Not where they are in host memory.
  [[nodiscard]] const_view hidden_states() const { return hidden_.all(); }
  /// Those of one micro-batch, as far as they are: what the next addition to them adds to. Valid until another one is
  /// worked on.
  [[nodiscard]] const_view hidden_states(token_range<B> const& t) { return hidden_.read(span(t), span(t)); }
  [[nodiscard]] view_of<B, std::int32_t const> ids() const { return ids_; }

  /// The group that the first micro-batch comes to next.
  [[nodiscard]] std::size_t next_group() const { return reached_.front(); }
  /// Whether all micro-batches come to the same group next.
  [[nodiscard]] bool uniform() const {
    return std::adjacent_find(reached_.begin(), reached_.end(), std::not_equal_to<>()) == reached_.end();
  }

  /// Makes do with less of the backend's memory: first without kept products, then with micro-batches half as large. To
  /// be called before the first micro-batch of a group. False where there is nothing left to give.
  bool reduce() {
    if (!uniform()) return false;
    if (std::any_of(layers_->begin(), layers_->end(), [&](block_graph const& g) { return keeps_products(g); })) {
      options_.keep_bytes = 0;
      if (!graph_) return true;
      plan_for(*graph_);
      release_kept();
      return true;
    }
    index_t const before = most_rows();
    index_t const asked = options_.micro_batch;
    options_.micro_batch = before / 2;
    divide(reached_.front());
    if (most_rows() == before) {
      options_.micro_batch = asked;
      divide(reached_.front());
      return false;
    }
    interpreter_.reserve(0, {});
    hidden_.resize(most_rows());
    for (token_rows<B>& k : kept_) k.resize(most_rows());
    make_scratch();
    return true;
  }

  /// Calls sink(X, micro-batch) with the inputs of a group [rows × inputs] for every micro-batch. X is valid during the
  /// call.
  template <class Sink>
  void collect(std::size_t group, layer_weights<B> const& layer, Sink&& sink) {
    for (std::size_t m = 0; m < micro_batches_.size(); ++m) sink(input(group, layer, m), micro_batches_[m]);
  }

  /// Makes what a group keeps of all tokens, before the first of them; input() would.
  void prepare(std::size_t group, block_graph const& graph) {
    if (graph_ != &graph) plan_for(graph);
    if (uniform() && !options_.on_host) release_kept();  // (where that costs no copy back and forth)
    for (int const v : plan_.kept[group + 1])
      if (index_t const width = graph.values[static_cast<std::size_t>(v)].width;
          kept_[static_cast<std::size_t>(v)].rows() == 0 || kept_[static_cast<std::size_t>(v)].cols() != width)
        kept_[static_cast<std::size_t>(v)] = {*backend_, tokens(), width, options_.on_host && !is_product(v),
                                              most_rows()};
  }

  /// One micro-batch of collect(); the view is valid until the next call. For each micro-batch the groups come in order.
  const_view input(std::size_t group, layer_weights<B> const& layer, std::size_t micro_batch) {
    if (reached_[micro_batch] != group) out_of_order(group, reached_[micro_batch]);
    prepare(group, *layer.graph);
    auto const x = static_cast<std::size_t>(layer.graph->node_of(group).reads[0]);
    run(plan_.to_group[group], layer, micro_batch, plan_.kept[group], plan_.kept[group + 1]);
    ++reached_[micro_batch];  // where memory is short, the line above throws before anything changes
    return values_[x];
  }

  /// Ends a layer of which all groups were collected.
  void advance(layer_weights<B> const& layer) {
    for (std::size_t m = 0; m < micro_batches_.size(); ++m) {
      std::size_t const all = layer.graph->groups.size();
      if (reached_[m] != all) out_of_order(all, reached_[m]);
      run(plan_.to_end, layer, m, plan_.kept.back(), {});
      reached_[m] = 0;
    }
  }

  /// A whole layer, from the hidden states before it to those behind it. Keeps nothing between the groups.
  void run(layer_weights<B> const& layer) {
    kept_.clear();
    graph_ = nullptr;
    layer_program const program = whole_layer(*layer.graph);
    for (std::size_t m = 0; m < micro_batches_.size(); ++m) {
      if (reached_[m] != 0) out_of_order(0, reached_[m]);
      run(program, layer, m, {}, {});
    }
  }

  /// A copy of the hidden states between two layers, for a second way through the next one.
  [[nodiscard]] token_rows<B> save() const { return hidden_.copy(); }
  /// Back to what save() gave, whatever was collected since.
  void restore(token_rows<B>&& saved) {
    if (saved.rows() != hidden_.rows() || saved.cols() != hidden_.cols())
      throw shape_error("activations: the saved hidden states are of another batch");
    hidden_ = std::move(saved);
    std::fill(reached_.begin(), reached_.end(), std::size_t(0));
  }

 private:
  static std::vector<index_t> lengths_of(samples const& tokens) {
    std::vector<index_t> all;
    for (auto const& sample : tokens)
      if (!sample.empty()) all.push_back(static_cast<index_t>(sample.size()));
    if (all.empty()) throw shape_error("no tokens: every sample is empty");
    return all;
  }

  [[noreturn]] static void out_of_order(std::size_t asked, std::size_t reached) {
    throw shape_error("activations: group " + std::to_string(asked) + " asked for where group " +
                      std::to_string(reached) + " comes next");
  }

  void load_ids(samples const& tokens) {
    index_t count = 0;
    for (index_t const n : lengths_) count += n;
    matrix<std::int32_t> ids(1, count);
    matrix<std::int32_t> positions(1, count);
    count = 0;
    for (std::size_t s = 0; s < tokens.size(); ++s) {
      auto position = static_cast<std::int32_t>(lengths_[s] ? interpreter_.first_position(lengths_[s]) : 0);
      for (std::int32_t const id : tokens[s]) {
        if (id < 0 || id >= config().vocabulary)
          throw shape_error("sample " + std::to_string(s) + ": token id " + std::to_string(id) +
                            " is outside the vocabulary of " + std::to_string(config().vocabulary));
        ids(0, count) = id;
        positions(0, count++) = position++;
      }
    }
    ids_ = backend_->template adopt<std::int32_t>(std::move(ids));
    positions_ = backend_->template adopt<std::int32_t>(std::move(positions));
  }

  /// Micro-batches that all come to `group` next.
  void divide(std::size_t group) {
    index_t row = 0;
    micro_batches_.clear();
    auto const count = static_cast<index_t>(lengths_.size());
    for (index_t s = 0; s < count; ++s) {
      index_t const length = lengths_[static_cast<std::size_t>(s)], leaf = leaf_of(s, count, options_.leaves);
      if (length == 0) continue;
      if (micro_batches_.empty() || micro_batches_.back().leaf != leaf ||
          micro_batches_.back().rows + length > options_.micro_batch)
        micro_batches_.push_back({.first = row, .rows = 0, .bounds = {0}, .positions = {}, .leaf = leaf});
      micro_batches_.back().rows += length;
      micro_batches_.back().bounds.push_back(micro_batches_.back().rows);
      row += length;
    }
    view_of<B, std::int32_t const> const positions = std::as_const(positions_);
    for (token_range<B>& t : micro_batches_) t.positions = positions.col_range(t.first, t.rows);
    reached_.assign(micro_batches_.size(), group);
  }

  [[nodiscard]] index_t most_rows() const {
    index_t most = 0;
    for (token_range<B> const& t : micro_batches_) most = std::max(most, t.rows);
    return most;
  }

  /// Room for every program of every layer, whatever is kept.
  void make_scratch() { interpreter_.reserve(most_rows(), scratch_widths(*layers_)); }

  void plan_for(block_graph const& graph) {
    graph_ = &graph;
    plan_ = plan_layer(graph, keeps_products(graph));
    kept_.resize(graph.values.size());
    values_.assign(graph.values.size(), {});
  }

  /// Whether products of all tokens have room at once.
  [[nodiscard]] bool keeps_products(block_graph const& graph) const {
    return static_cast<std::size_t>(tokens()) <=
           options_.keep_bytes / (sizeof(activation) * static_cast<std::size_t>(product_width(graph)));
  }
  [[nodiscard]] bool is_product(int value) const {
    return detail::cost_of(*graph_, plan_.to_end.hidden, value) == detail::recomputing::linear;
  }

  /// Gives back what neither the group that comes next nor any later one reads.
  void release_kept() {
    std::size_t const next = reached_.front();
    for (std::size_t v = 0; v < kept_.size(); ++v) {
      bool needed = false;
      for (std::size_t g = next; g < plan_.kept.size(); ++g)
        needed = needed || std::count(plan_.kept[g].begin(), plan_.kept[g].end(), static_cast<int>(v)) > 0;
      if (!needed) kept_[v] = {};
    }
  }

  static row_span span(token_range<B> const& t) { return {t.first, t.rows}; }
  /// What is worked on after that micro-batch.
  [[nodiscard]] row_span span_behind(std::size_t m) const {
    return span(micro_batches_[(m + 1) % micro_batches_.size()]);
  }

  /// Runs a program on one micro-batch; `reads` are at hand in the memory of all tokens, of `writes` those that are not
  /// are written there.
  void run(layer_program const& program, layer_weights<B> const& layer, std::size_t m, std::vector<int> const& reads,
           std::vector<int> const& writes) {
    token_range<B> const& t = micro_batches_[m];
    values_.resize(layer.graph->values.size());
    std::vector<token_rows<B>*> written;
    for (int const v : reads)
      values_[static_cast<std::size_t>(v)] = kept_[static_cast<std::size_t>(v)].read(span(t), span_behind(m));
    for (int const v : writes) {
      if (std::count(reads.begin(), reads.end(), v) > 0) continue;
      token_rows<B>& rows = kept_[static_cast<std::size_t>(v)];
      values_[static_cast<std::size_t>(v)] = rows.write(span(t));
      written.push_back(&rows);
    }
    interpreter_.run(program, layer, t, hidden_.read(span(t), span_behind(m)), values_);
    for (token_rows<B>* const rows : written) rows->store(span(t));
    if (changes_hidden_states(program, *layer.graph)) hidden_.store(span(t));
  }

  static bool changes_hidden_states(layer_program const& program, block_graph const& g) {
    return std::any_of(program.steps.begin(), program.steps.end(), [&](int const n) {
      return program.hidden[static_cast<std::size_t>(g.nodes[static_cast<std::size_t>(n)].writes)] != 0;
    });
  }

  B* backend_;
  activation_options options_;
  std::vector<block_graph> const* layers_;
  interpreter<B> interpreter_;
  std::vector<index_t> lengths_;  ///< of the samples
  std::vector<token_range<B>> micro_batches_;
  std::vector<std::size_t> reached_;  ///< the group that each micro-batch comes to next
  matrix_of<B, std::int32_t> ids_;
  matrix_of<B, std::int32_t> positions_;
  token_rows<B> hidden_;
  block_graph const* graph_ = nullptr;  ///< of the layer in work, collected group by group
  layer_plan plan_;                     ///< of that layer
  std::vector<token_rows<B>> kept_;     ///< [values] of all tokens, or empty
  std::vector<view> values_;            ///< [values] of the micro-batch in work
};

}  // namespace v0
}  // namespace gptq
