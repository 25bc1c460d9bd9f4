/// What calibration sees: the calibration tokens on their way through the quantized model, and beside it, where the solve
/// asks for that, through the float model; Hessians and sums of asymmetric calibration of the groups that they reach.
#pragma once

#include <gptq/core/leaves.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/quant/quantize.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/quantize/sample_share.hpp>
#include <gptq/run/activations.hpp>
#include <gptq/run/load_layer.hpp>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Adds the time of a scope to one entry of a report.
class activity {
 public:
  activity(pipeline_report& report, char const* name) : total_(report.seconds[name]), begin_(clock::now()) {}
  activity(activity const&) = delete;
  activity& operator=(activity const&) = delete;
  ~activity() { total_ += std::chrono::duration<double>(clock::now() - begin_).count(); }

 private:
  using clock = std::chrono::steady_clock;
  double& total_;
  clock::time_point begin_;
};

template <class F>
decltype(auto) timed(pipeline_report& report, char const* name, F&& f) {
  activity const a(report, name);
  return f();
}

/// What was seen of the inputs of a group.
template <class B>
struct group_statistics {
  hessian<B> h;
  std::optional<asymmetric_sums<B>> moved;  ///< where the float model runs beside
};

/// The activations of one run, of one model or of two side by side. `again` in the calls below is given a function that
/// needs memory of the backend; it calls that, as often as it takes to make room. Each of several workers runs its share of
/// the samples, perhaps none, and all come to the same statistics.
template <class B, communicator C>
class calibration {
  using activation = typename B::activation;

 public:
  calibration(ready_backend<B> const& ready, C& c, job const& j, typename activations<B>::samples const& samples,
              run_options const& options, pipeline_report& report)
      : b_(ready.backend),
        c_(c),
        weights_(j.weights()),
        options_(options),
        report_(report),
        two_models_(j.asked().shift.any()),
        share_(share_samples(samples, c.rank(), c.size())) {
    if (share_.empty() && tokens() > 0) return;
    quantized_.emplace(start(share_.samples, ready.memory));
    if (two_models_) float_.emplace(start(share_.samples, ready.memory));
  }

  /// Of all workers.
  [[nodiscard]] index_t tokens() const { return share_.tokens(); }
  [[nodiscard]] index_t micro_batch() const { return quantized_ ? quantized_->micro_batch() : 0; }
  [[nodiscard]] bool runs_float_model() const { return float_.has_value(); }

  /// Makes do with less memory, in both models alike: their micro-batches go side by side. False where it can't.
  bool reduce() {
    if (!quantized_) return false;
    if (!float_) return quantized_->reduce();
    if (!quantized_->uniform() || !float_->uniform() || quantized_->next_group() != float_->next_group()) return false;
    bool const one = quantized_->reduce();
    return float_->reduce() || one;
  }

  /// Brings all tokens to a group and collects its inputs, if wanted. `original` is the layer in float where that model
  /// runs beside.
  template <class Again>
  std::optional<group_statistics<B>> collect(layer_weights<B> const& layer, layer_weights<B> const* original,
                                             std::size_t group, bool wanted, Again&& again) {
    block_graph const& graph = *layer.graph;
    bool const residual = graph.adds_to_hidden_states(group);
    std::optional<group_statistics<B>> seen = again([&] {
      std::optional<group_statistics<B>> empty;
      index_t const inputs = graph.groups[group].inputs();
      if (wanted) empty.emplace(start_statistics(inputs, residual ? graph.groups[group].outputs() : 0));
      if (quantized_) quantized_->prepare(group, graph);
      if (float_) float_->prepare(group, graph);
      return empty;
    });
    for (std::size_t m = 0; m < batches(); ++m) {
      // Before the first micro-batch memory may be short, and another one come first; later it can't be made.
      if (seen) timed(report_, "gram", [&] { again([&] { begin_leaf(*seen, m); }); });
      auto const x =
          timed(report_, "forward", [&] { return again([&] { return quantized_->input(group, layer, m); }); });
      auto const& tokens = quantized_->micro_batches()[m];
      try {
        if (seen) timed(report_, "gram", [&] { seen->h.add(x, static_cast<index_t>(tokens.bounds.size()) - 1); });
        if (float_) {
          auto const x_float = timed(report_, "forward", [&] { return float_->input(group, *original, m); });
          activity const a(report_, "gram");
          if (seen) seen->moved->add(x, x_float);
          if (seen && residual)
            seen->moved->add_residual(x, quantized_->hidden_states(tokens), float_->hidden_states(tokens));
        }
      } catch (numeric_error const& e) {
        throw numeric_error(graph.groups[group].linears.front().name + ": " + e.what());
      }
      tell_progress(layer, group, tokens);
    }
    if (seen) sum_over_workers(*seen);
    return seen;
  }

  /// Behind a layer whose groups were all collected.
  void advance(layer_weights<B> const& layer, layer_weights<B> const* original) {
    if (quantized_) timed(report_, "forward", [&] { quantized_->advance(layer); });
    if (float_) timed(report_, "forward", [&] { float_->advance(*original); });
  }

  [[nodiscard]] token_rows<B> save() const { return quantized_ ? quantized_->save() : token_rows<B>(); }
  /// The whole layer once more, from the hidden states that were saved before it.
  void run_again(token_rows<B>&& saved, layer_weights<B> const& layer, layer_weights<B> const* original) {
    if (!quantized_) return;
    quantized_->restore(std::move(saved));
    timed(report_, "forward", [&] { quantized_->run(layer); });
    if (float_) timed(report_, "forward", [&] { float_->advance(*original); });
  }

  /// What reaches the lm_head: the normed hidden states behind the last layer.
  template <class Again>
  group_statistics<B> collect_head(Again&& again) {
    model_config const& c = weights_.config();
    auto const norm = b_.template adopt<activation>(weights_.final_norm());
    matrix_of<B, activation> x, x_float;
    group_statistics<B> seen = again([&] {
      group_statistics<B> empty = start_statistics(c.hidden, 0);
      index_t most = 0;
      for (std::size_t m = 0; m < batches(); ++m) most = (std::max)(most, quantized_->micro_batches()[m].rows);
      x = b_.template make<activation>(most, c.hidden);
      if (float_) x_float = b_.template make<activation>(most, c.hidden);
      return empty;
    });
    auto const normed = [&](activations<B>& model, auto const& tokens, matrix_of<B, activation>& to) {
      auto const rows = view_of<B, activation>(to).row_range(0, tokens.rows);
      timed(report_, "forward",
            [&] { b_.rms_norm(model.hidden_states(tokens), norm, c.norm_eps, c.family->norm_offset, rows); });
      return view_of<B, activation const>(rows);
    };
    for (std::size_t m = 0; m < batches(); ++m) {
      timed(report_, "gram", [&] {
        if (m == 0)
          again([&] { begin_leaf(seen, m); });
        else
          begin_leaf(seen, m);  // micro-batches stay what they are from the first on
      });
      auto const& tokens = quantized_->micro_batches()[m];
      auto const inputs = normed(*quantized_, tokens, x);
      try {
        timed(report_, "gram", [&] { seen.h.add(inputs, static_cast<index_t>(tokens.bounds.size()) - 1); });
        if (!float_) continue;
        auto const float_inputs = normed(*float_, tokens, x_float);
        timed(report_, "gram", [&] { seen.moved->add(inputs, float_inputs); });
      } catch (numeric_error const& e) {
        throw numeric_error(weights_.names().head_module() + ": " + e.what());
      }
    }
    sum_over_workers(seen);
    return seen;
  }

 private:
  /// What is added to the sums from now on is of the leaf of micro-batch m.
  void begin_leaf(group_statistics<B>& seen, std::size_t m) {
    index_t const leaf = quantized_->micro_batches()[m].leaf;
    seen.h.begin_leaf(leaf);
    if (seen.moved) seen.moved->begin_leaf(leaf);
  }

  /// Micro-batches of this worker.
  [[nodiscard]] std::size_t batches() const { return quantized_ ? quantized_->micro_batches().size() : 0; }

  group_statistics<B> start_statistics(index_t inputs, index_t residual) {
    group_statistics<B> empty{hessian<B>(b_, inputs), {}};
    if (!two_models_) return empty;
    empty.moved.emplace(b_, inputs, residual, tokens());
    empty.moved->skip(share_.first_token());
    return empty;
  }

  void sum_over_workers(group_statistics<B>& seen) {
    activity const a(report_, "gram");
    seen.h.sum_over(c_, share_.tokens(), share_.sequences);
    if (seen.moved) seen.moved->sum_over(c_, share_.token_bounds);
  }

  activations<B> start(typename activations<B>::samples const& samples, activation_options memory) {
    memory.leaves = most_leaves;
    return {b_,    weights_.config(), weights_.layers(), samples, b_.template adopt<activation>(weights_.embedding()),
            memory};
  }

  void tell_progress(layer_weights<B> const& layer, std::size_t group, token_range<B> const& tokens) const {
    if (!options_.progress || c_.rank() != 0) return;
    std::string_view const name = layer.graph->groups[group].linears.front().name;
    options_.progress({.block = layer.number,
                       .blocks = weights_.config().blocks,
                       .group = static_cast<index_t>(group),
                       .groups = static_cast<index_t>(layer.groups.size()),
                       .name = name.substr(name.rfind('.') + 1),
                       .tokens = tokens.first + tokens.rows,
                       .of_tokens = quantized_->tokens()});
  }

  B& b_;
  C& c_;
  model_weights const& weights_;
  run_options const& options_;
  pipeline_report& report_;
  bool two_models_;
  sample_share share_;
  std::optional<activations<B>> quantized_;  ///< empty where this worker has no samples
  std::optional<activations<B>> float_;      ///< the same tokens through the float model
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
