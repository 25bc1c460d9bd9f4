/// One run over one model: block by block and linear group by linear group, inputs are collected on the weights that
/// were quantized before, layers that share them are solved together, and what is finished is written.
#pragma once

#include <gptq/pack/histogram.hpp>
#include <gptq/quant/quantize.hpp>
#include <gptq/quantize/pipeline_output.hpp>
#include <gptq/quantize/pipeline_types.hpp>
#include <gptq/run/block_loader.hpp>
#include <gptq/run/stream.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>
#include <optional>
#include <string>
#include <type_traits>
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

/// One run over one model.
template <pipeline_backend B>
class model_quantizer {
  using stream_type = token_stream<B>;

 public:
  model_quantizer(B& b, model_weights const& weights, quantization_plan const& plan, checkpoint_writer& writer,
                  typename stream_type::samples const& samples, pipeline_options const& options)
      : b_(b),
        weights_(weights),
        plan_(plan),
        blocks_(b, weights),
        writer_(writer),
        options_(options),
        solve_options_(options.quantize),
        stream_(b, weights.config(), samples, b.template adopt<typename B::activation>(weights.embedding()),
                options.stream) {
    if (options.shift.any())
      float_stream_.emplace(b, weights.config(), samples, b.template adopt<typename B::activation>(weights.embedding()),
                            options.stream);
    constrain(options.format, solve_options_.grid);
    report_.samples = static_cast<index_t>(samples.size());
    report_.tokens = stream_.tokens();
    report_.kept_float = plan.kept_float();
    report_.warnings = plan.warnings();
    report_.linears.reserve(plan.quantized().size());  // the writing thread adds to records: they must stay
  }

  pipeline_report run() {
    index_t const blocks = weights_.config().blocks;
    for (index_t i = 0; i < blocks; ++i) {
      block_ = i;
      bool const advance = i + 1 < blocks || plan_.head();
      auto block = timed("load", [&] { return with_less([&] { return blocks_.take(i); }); });
      std::optional<block_weights<B>> original;
      if (float_stream_)
        original = timed("load", [&] { return with_less([&] { return load_block(b_, weights_, i); }); });
      block_weights<B> const* const beside = original ? &*original : nullptr;
      timed("write", [&] {
        if (written_.valid()) written_.get();
        written_ = writing_;
      });
      if (options_.true_sequential)
        for (int s = 0; s < stage_count; ++s) quantize_stage(block, s, collect(block, beside, s));
      else
        quantize_at_once(block, beside, advance);
      if (!advance) break;
      if (options_.true_sequential) timed("forward", [&] { stream_.advance(block); });
      if (float_stream_) timed("forward", [&] { float_stream_->advance(*original); });
    }
    if (plan_.head()) quantize_head();
    timed("write", [&] { finish_writing(); });
    report_.chunk_tokens = stream_.chunk_tokens();
    return std::move(report_);
  }

 private:
  template <class F>
  decltype(auto) timed(char const* name, F&& f) {
    activity const a(report_, name);
    return f();
  }

  /// f(), and where the backend's memory does not suffice, f() again with less of it in use elsewhere.
  template <class F>
  auto with_less(F&& f) {
    for (;;) {
      try {
        return f();
      } catch (device_memory_error const& e) {
        if (blocks_.drop() || finish_writing()) continue;
        index_t const before = stream_.chunk_tokens();
        if (!reduce_streams())
          throw device_memory_error(place() + ": " + e.what() + ", in chunks of " + std::to_string(before) + " tokens");
        if (stream_.chunk_tokens() < before)
          report_.warnings.emplace_back("device memory: from " + place() + " on chunks of up to " +
                                        std::to_string(stream_.chunk_tokens()) + " tokens, not " +
                                        std::to_string(before));
      }
    }
  }

  /// Where the run is, for messages.
  [[nodiscard]] std::string place() const {
    return block_ < weights_.config().blocks ? "block " + std::to_string(block_) : weights_.names().head_module();
  }

  /// Both streams alike: their chunks go side by side.
  bool reduce_streams() {
    if (!float_stream_) return stream_.reduce();
    if (!stream_.uniform() || !float_stream_->uniform()) return false;
    bool const one = stream_.reduce();
    return float_stream_->reduce() || one;
  }

  /// What was seen of the inputs of layers that share them.
  struct seen {
    hessian<B> h;
    std::optional<drift<B>> moved;  ///< where the float model runs beside
  };

  /// Collects a stage's inputs, nothing where it stays in float; the streams go on to that stage. `original` is the block
  /// in float, if its stream runs.
  std::optional<seen> collect(block_weights<B> const& block, block_weights<B> const* original, int stage) {
    auto const& config = weights_.config();
    bool const residual = weights_.config().adds_to_states(stage);
    std::optional<seen> s = with_less([&] {
      std::optional<seen> empty;
      if (plan_.stage(block.number, stage)) {
        empty.emplace(seen{hessian<B>(b_, config.stage_inputs(stage)), {}});
        if (original)
          empty->moved.emplace(b_, config.stage_inputs(stage), residual ? config.hidden : 0, stream_.tokens());
      }
      stream_.prepare(stage);
      if (original) float_stream_->prepare(stage);
      return empty;
    });
    for (std::size_t c = 0; c < stream_.chunks().size(); ++c) {
      auto const x = timed("forward", [&] { return with_less([&] { return stream_.input(stage, block, c); }); });
      auto const& chunk = stream_.chunks()[c];
      try {
        if (s) timed("gram", [&] { s->h.add(x, static_cast<index_t>(chunk.bounds.size()) - 1); });
        if (original) {
          auto const x_float = timed("forward", [&] { return float_stream_->input(stage, *original, c); });
          activity const a(report_, "gram");
          if (s) s->moved->add(x, x_float);
          if (s && residual) s->moved->add_residual(x, stream_.states(chunk), float_stream_->states(chunk));
        }
      } catch (numeric_error const& e) {
        throw numeric_error(weights_.names().linears(block.number, stage).front().name + ": " + e.what());
      }
      if (options_.progress)
        options_.progress({block.number, config.blocks, stage, chunk.first + chunk.rows, stream_.tokens()});
    }
    return s;
  }

  /// All Hessians on the float weights, then all layers, then the states once more through the quantized block.
  void quantize_at_once(block_weights<B>& block, block_weights<B> const* original, bool advance) {
    auto before = stream_.save();
    std::vector<std::optional<seen>> stages;
    for (int s = 0; s < stage_count; ++s) stages.push_back(collect(block, original, s));
    for (int s = 0; s < stage_count; ++s) quantize_stage(block, s, std::move(stages[static_cast<std::size_t>(s)]));
    if (!advance) return;
    stream_.restore(std::move(before));
    timed("forward", [&] { stream_.run(block); });
  }

  void quantize_stage(block_weights<B>& block, int stage, std::optional<seen> const s) {
    auto& weights = block.stages[static_cast<std::size_t>(stage)];
    if (s) quantize_linears(weights.linears, weights.weight, *s, *plan_.stage(block.number, stage));
  }

  /// The output head, on the normed states behind the last block.
  void quantize_head() {
    using T = typename B::activation;
    model_config const& c = weights_.config();
    block_ = c.blocks;
    auto const norm = b_.template adopt<T>(weights_.final_norm());
    matrix_of<B, T> x, x_float;
    seen s = with_less([&] {
      seen empty{hessian<B>(b_, c.hidden), {}};
      if (float_stream_) empty.moved.emplace(b_, c.hidden, 0, stream_.tokens());
      index_t most = 0;
      for (auto const& chunk : stream_.chunks()) most = (std::max)(most, chunk.rows);
      x = b_.template make<T>(most, c.hidden);
      if (float_stream_) x_float = b_.template make<T>(most, c.hidden);
      return empty;
    });
    auto const normed = [&](stream_type& stream, auto const& chunk, matrix_of<B, T>& to) {
      auto const rows = view_of<B, T>(to).row_range(0, chunk.rows);
      timed("forward", [&] { b_.rms_norm(stream.states(chunk), norm, c.norm_eps, c.family->norm_offset, rows); });
      return view_of<B, T const>(rows);
    };
    for (auto const& chunk : stream_.chunks()) {
      auto const inputs = normed(stream_, chunk, x);
      try {
        timed("gram", [&] { s.h.add(inputs, static_cast<index_t>(chunk.bounds.size()) - 1); });
        if (!float_stream_) continue;
        auto const float_inputs = normed(*float_stream_, chunk, x_float);
        timed("gram", [&] { s.moved->add(inputs, float_inputs); });
      } catch (numeric_error const& e) {
        throw numeric_error(weights_.names().head_module() + ": " + e.what());
      }
    }
    x = {};
    x_float = {};
    auto weight = timed("load", [&] { return with_less([&] { return b_.template adopt<T>(weights_.head()); }); });
    quantize_linears({plan_.head()->info}, weight, s, *plan_.head()->spec);
  }

  /// Layers that share an input, stacked; `stacked` becomes what a reader of the result computes with.
  void quantize_linears(std::vector<linear_info> const& linears, view_of<B, typename B::activation> stacked,
                        seen const& s, quant_spec const& spec) {
    auto const solved = timed("solve", [&] {
      try {
        return with_less([&] {
          return s.moved ? quantize_stack(b_, stacked, s.h, *s.moved, options_.shift, spec, solve_options_)
                         : quantize_stack(b_, stacked, s.h, spec, solve_options_);
        });
      } catch (scale_error const& e) {
        auto const l = std::find_if(linears.begin(), linears.end(),
                                    [&](linear_info const& i) { return e.output < i.first_row + i.rows; });
        throw numeric_error(l->name + ": " + scale_error(e.output - l->first_row, e.group).what());
      } catch (numeric_error const& e) {
        throw numeric_error(linears.front().name + ": " + e.what());
      }
    });
    for (linear_info const& l : linears) {
      linear_record& record = report_.linears.emplace_back(
          linear_record{l.name, l.rows, l.inputs, spec, solved.report(l.first_row, l.rows), {}});
      auto packed = timed("pack", [&] {
        try {
          return with_less([&] {
            return b_.pack(solved.linear, options_.format, l.first_row, l.rows, stacked.row_range(l.first_row, l.rows));
          });
        } catch (numeric_error const& e) {
          throw numeric_error(l.name + ": " + e.what(), e.change());
        }
      });
      // Written in order by another thread, at most two blocks behind.
      writing_ = std::async(std::launch::async, [this, &record, before = writing_, p = std::move(packed)]() mutable {
                   packed_linear const linear = finished(std::move(p));
                   if (options_.count_codes) record.codes = gptq::count_codes(view(linear));
                   if (before.valid()) before.get();
                   write_linear(writer_, weights_.reader(), record.name, linear);
                 }).share();
    }
  }

  /// False where there was nothing to wait for.
  bool finish_writing() {
    if (!writing_.valid()) return false;
    written_ = {};
    std::exchange(writing_, {}).get();
    return true;
  }

  B& b_;
  model_weights const& weights_;
  quantization_plan const& plan_;
  block_loader<B> blocks_;
  index_t block_ = 0;
  checkpoint_writer& writer_;
  pipeline_options const& options_;
  quantize_options solve_options_;
  stream_type stream_;
  std::optional<stream_type> float_stream_;  ///< the same tokens through the float model
  pipeline_report report_;
  std::shared_future<void> written_;  ///< up to the block before the last
  std::shared_future<void> writing_;  ///< waits for its thread when it goes, so it goes first
};

}  // namespace detail

}  // namespace v0
}  // namespace gptq
