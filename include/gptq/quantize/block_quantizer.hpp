/// One run over one model: layer by layer and group by group, inputs are collected on the weights that were quantized
/// before, linears that share them are solved together, and what is finished is written.
#pragma once

#include <gptq/pack/histogram.hpp>
#include <gptq/quant/quantize.hpp>
#include <gptq/quantize/calibrate.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/quantize/write_output.hpp>
#include <gptq/run/layer_loader.hpp>

#include <algorithm>
#include <future>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

inline packed_linear finished(packed_linear&& p) { return std::move(p); }
template <class Packing>
requires requires(Packing& p) { p.get(); }
packed_linear finished(Packing&& p) { return p.get(); }

}  // namespace detail

/// What quantize_model asks of a backend: to quantize, to run a decoder, and
///   b.pack(linear, format, first, count, weight)   outputs [first, first + count) of a solved stack as the tensors of a
///                                                  file; weight [count × in] becomes what a reader computes with them.
///                                                  Or, for another thread to wait for, an object whose get() gives them
template <class B>
concept pipeline_backend = refining_backend<B> && forward_backend<B> &&
    requires(B& b, quantized_linear_of<B> const& linear, view_of<B, typename B::activation> weight) {
  {
    detail::finished(b.pack(linear, checkpoint_format::gptq, index_t(), index_t(), weight))
    } -> std::same_as<packed_linear>;
};

namespace detail {

/// One worker's part of a run over one model.
template <pipeline_backend B, communicator C>
class block_quantizer {
 public:
  /// `writer` is null for workers that do not write.
  block_quantizer(ready_backend<B> const& ready, C& c, job const& j, checkpoint_writer* writer,
                  typename activations<B>::samples const& samples, run_options const& options)
      : b_(ready.backend),
        c_(c),
        weights_(j.weights()),
        plan_(j.plan()),
        layers_(ready.backend, j.weights()),
        writer_(writer),
        recipe_(j.asked()),
        options_(options),
        solve_options_(j.asked().quantize),
        calibration_(ready, c, j, samples, options, report_) {
    constrain(recipe_.format, solve_options_.grid);
    report_.samples = static_cast<index_t>(samples.size());
    report_.tokens = calibration_.tokens();
    report_.kept_float = plan_.kept_float();
    report_.unread = j.unread();
    report_.warnings = j.warnings();
    if (recipe_.micro_batch > 0 && calibration_.tokens() > 0 && ready.memory.micro_batch < recipe_.micro_batch)
      report_.warnings.emplace_back("device memory: micro-batches of up to " +
                                    std::to_string(ready.memory.micro_batch) + " tokens, not the " +
                                    std::to_string(recipe_.micro_batch) + " asked for");
    report_.linears.reserve(plan_.quantized().size());  // the writing thread adds to records: they must stay
  }

  pipeline_report run() {
    index_t const blocks = weights_.config().blocks;
    for (index_t i = 0; i < blocks; ++i) {
      place_ = "block " + std::to_string(i);
      auto layer = timed(report_, "load", [&] { return with_less([&] { return layers_.take(i); }); });
      std::optional<layer_weights<B>> original;
      if (calibration_.runs_float_model())
        original = timed(report_, "load", [&] { return with_less([&] { return load_layer(b_, weights_, i); }); });
      weights_.reader().release();
      timed(report_, "write", [&] {
        if (written_.valid()) written_.get();
        written_ = writing_;
      });
      quantize_layer(layer, original ? &*original : nullptr, i + 1 < blocks || plan_.head());
    }
    if (plan_.head()) quantize_head();
    timed(report_, "write", [&] { finish_writing(); });
    report_.micro_batch = calibration_.micro_batch();
    return std::move(report_);
  }

 private:
  /// f(), and where the backend's memory does not suffice, f() again with less of it in use elsewhere.
  template <class F>
  auto with_less(F&& f) {
    for (;;) {
      try {
        return f();
      } catch (device_memory_error const& e) {
        if (layers_.drop() || finish_writing()) continue;
        index_t const before = calibration_.micro_batch();
        if (!calibration_.reduce())
          throw device_memory_error(place_ + ": " + e.what() + ", in micro-batches of " + std::to_string(before) +
                                    " tokens");
        if (calibration_.micro_batch() < before)
          report_.warnings.emplace_back("device memory: from " + place_ + " on micro-batches of up to " +
                                        std::to_string(calibration_.micro_batch()) + " tokens, not " +
                                        std::to_string(before));
      }
    }
  }

  /// `original` is the layer in float, where the float model runs beside; `advance`: somebody reads what comes behind.
  void quantize_layer(layer_weights<B>& layer, layer_weights<B> const* original, bool advance) {
    auto const again = [this](auto&& f) { return this->with_less(f); };
    std::size_t const groups = layer.groups.size();
    if (recipe_.true_sequential) {
      for (std::size_t g = 0; g < groups; ++g)
        quantize_group(layer, g, calibration_.collect(layer, original, g, wanted(layer, g), again));
      if (advance) calibration_.advance(layer, original);
      return;
    }
    // All Hessians on the float weights, then all linears, then the hidden states once more through the quantized layer.
    auto before = calibration_.save();
    std::vector<std::optional<group_statistics<B>>> seen;
    for (std::size_t g = 0; g < groups; ++g)
      seen.push_back(calibration_.collect(layer, original, g, wanted(layer, g), again));
    for (std::size_t g = 0; g < groups; ++g) quantize_group(layer, g, std::move(seen[g]));
    if (advance) calibration_.run_again(std::move(before), layer, original);
  }

  [[nodiscard]] bool wanted(layer_weights<B> const& layer, std::size_t group) const {
    return plan_.group(layer.number, group).has_value();
  }

  void quantize_group(layer_weights<B>& layer, std::size_t group, std::optional<group_statistics<B>> const seen) {
    if (seen)
      quantize_linears(layer.groups[group].linears, layer.groups[group].weight, *seen,
                       *plan_.group(layer.number, group));
  }

  /// The lm_head, on the normed hidden states behind the last layer.
  void quantize_head() {
    place_ = weights_.names().head_module();
    auto const again = [this](auto&& f) { return this->with_less(f); };
    group_statistics<B> const seen = calibration_.collect_head(again);
    auto weight = timed(report_, "load", [&] {
      return with_less([&] { return b_.template adopt<typename B::activation>(weights_.head()); });
    });
    quantize_linears({plan_.head()->info}, weight, seen, *plan_.head()->spec);
  }

  /// Solves linears that share an input, stacked. Throws numeric_error naming the linear.
  quantized_stack<B> solve(std::vector<linear_info> const& linears, view_of<B, typename B::activation> stacked,
                           group_statistics<B> const& seen, quant_spec const& spec) {
    try {
      return with_less([&] {
        solve_problem<B, typename B::activation> const problem{
            .weight = stacked, .hessian = &seen.h, .asymmetric = seen.moved ? &*seen.moved : nullptr};
        return quantize_stack(b_, c_, problem, {spec, solve_options_, recipe_.shift});
      });
    } catch (scale_error const& e) {
      auto const l = std::find_if(linears.begin(), linears.end(),
                                  [&](linear_info const& i) { return e.output < i.first_row + i.rows; });
      throw numeric_error(l->name + ": " + scale_error(e.output - l->first_row, e.group).what());
    } catch (numeric_error const& e) {
      throw numeric_error(linears.front().name + ": " + e.what());
    }
  }

  /// `stacked` becomes what a reader of the result computes with.
  void quantize_linears(std::vector<linear_info> const& linears, view_of<B, typename B::activation> stacked,
                        group_statistics<B> const& seen, quant_spec const& spec) {
    std::string group;
    for (linear_info const& l : linears)
      if (std::size_t const dot = l.name.rfind('.'); dot != std::string::npos)
        group += (group.empty() ? "" : ", ") + l.name.substr(dot + 1);
    auto const solved = timed(report_, "solve", [&] { return solve(linears, stacked, seen, spec); });
    for (linear_info const& l : linears) {
      linear_record& record = report_.linears.emplace_back(
          linear_record{l.name, group, l.rows, l.inputs, spec, solved.report(l.first_row, l.rows), {}});
      auto packed = timed(report_, "pack", [&] {
        try {
          return with_less([&] {
            return b_.pack(solved.linear, recipe_.format, l.first_row, l.rows, stacked.row_range(l.first_row, l.rows));
          });
        } catch (numeric_error const& e) {
          throw numeric_error(l.name + ": " + e.what(), e.change());
        }
      });
      write(record, std::move(packed));
    }
  }

  /// In order, by another thread, at most two layers behind.
  template <class Packing>
  void write(linear_record& record, Packing&& packed) {
    writing_ = std::async(std::launch::async, [this, &record, before = writing_, p = std::move(packed)]() mutable {
                 packed_linear const linear = finished(std::move(p));
                 if (options_.count_codes) record.codes = gptq::count_codes(view(linear));
                 if (before.valid()) before.get();
                 if (writer_) write_linear(*writer_, weights_.reader(), record.name, linear);
               }).share();
  }

  /// False where there was nothing to wait for.
  bool finish_writing() {
    if (!writing_.valid()) return false;
    written_ = {};
    std::exchange(writing_, {}).get();
    return true;
  }

  B& b_;
  C& c_;
  model_weights const& weights_;
  quantization_plan const& plan_;
  layer_loader<B> layers_;
  std::string place_;  ///< for messages
  checkpoint_writer* writer_;
  recipe const& recipe_;
  run_options const& options_;
  quantize_options solve_options_;
  pipeline_report report_;
  calibration<B, C> calibration_;
  std::shared_future<void> written_;  ///< up to the layer before the last
  std::shared_future<void> writing_;  ///< waits for its thread when it goes, so it goes first
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
