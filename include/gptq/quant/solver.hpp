/// One solve, step by step: rounding to nearest for comparison, the column pass, refinement, what was lost, the report.
#pragma once

#include <gptq/quant/losses.hpp>
#include <gptq/quant/quantized_stack.hpp>
#include <gptq/quant/refine.hpp>
#include <gptq/quant/solve_problem.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Throws scale_error for one that is not finite.
template <class Scalar>
void check_scales(std::span<Scalar const> scales, index_t outputs) {
  std::size_t bad = 0;  // counted without a branch: there are many, and a device waits
  for (Scalar const s : scales) bad += !(std::abs(s) <= std::numeric_limits<Scalar>::max());
  if (bad == 0) return;
  auto const first = std::find_if_not(scales.begin(), scales.end(), [](Scalar s) { return std::isfinite(s); });
  auto const i = static_cast<index_t>(first - scales.begin());
  throw scale_error(i % outputs, i / outputs);
}

/// What only a refining backend has.
template <class B>
struct refining_parts {};
template <refining_backend B>
struct refining_parts<B> {
  std::optional<refiner<B>> again;               ///< where the codes are gone over again
  std::optional<float_losses<B>> against_float;  ///< where the loss against the float model is measured
};

/// Solves a problem that has a factor. Serves once.
template <quantize_backend B, class W>
class solver {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;
  using view = view_of<B, scalar>;
  static_assert(refines_as_promised<B>, "gptq: the backend says that it refines and lacks one of the verbs");
  static_assert(fuses_as_promised<B>, "gptq: the backend says that it fuses and lacks fit_and_quantize_block");

 public:
  /// Throws shape_error where the problem lacks what the settings need, numeric_error for NaN or Inf in the weights.
  solver(B& b, column_kernels<B> const& kernels, solve_problem<B, W> const& problem, solver_settings const& settings)
      : b_(b),
        problem_(problem),
        f_(*problem.factor),
        settings_(settings),
        in_(f_.in_features()),
        out_(problem.weight.rows),
        groups_(group_count(in_, settings.spec.group_size)),
        measures_(settings.options.measure && f_.factored()),
        refines_(f_.factored() && (settings.options.reestimations > 0 || settings.options.descent_passes > 0)),
        g_idx_(group_index(settings.spec, f_.host_order)),
        pass_(b, kernels, f_, settings.spec, settings.options.grid, g_idx_),
        sums_(b, out_) {
    check();
    stored_order_ = upload_row(b, counting(in_));
    stored_groups_ = upload_row(b, g_idx_);
    // The reference takes the range of a whole row before it clears the weights of dead inputs.
    if (settings.options.reference_dead && settings.spec.group_size == -1)
      all_live_ = upload_row(b, in_, std::uint8_t(1));
    codes_ = b.template make<std::uint8_t>(in_, out_);
    zeros_ = b.template make<std::uint8_t>(groups_, out_);
    scales_ = b.template make<scalar>(groups_, out_);
    if constexpr (refining_backend<B>) {
      if (refines_) parts_.again.emplace(b, kernels, *problem.hessian, f_, settings, g_idx_);
      if (measures_ && problem.asymmetric && problem.asymmetric->samples().cols > 0)
        parts_.against_float.emplace(b, *problem.asymmetric, out_);
    }
  }

  /// Output tile by output tile. Throws scale_error.
  quantized_stack<B> solve() {
    b_.for_each_tile(out_, [&](index_t first, index_t count) {
      auto weights = b_.template make<scalar>(in_, count);
      auto stored = b_.template make<scalar>(grids_up_front(settings_.spec) ? in_ : 0, count);
      tile const t{first, count, weights, stored, found(first, count)};
      if (measures_) baseline(t);
      pass(t);
      refine(t);
      measure(t);
    });
    quantized_stack<B> result;
    result.linear.spec = settings_.spec.format();
    result.linear.report = f_.report;
    finish_scales(result.linear);
    result.linear.g_idx = std::move(g_idx_);
    result.linear.codes = std::move(codes_);
    result.linear.zeros = std::move(zeros_);
    if (f_.factored()) report(result);
    return result;
  }

 private:
  /// Some outputs, and the memory to solve them in.
  struct tile {
    index_t first, count;
    view weights;  ///< [in × count], processing order
    view stored;   ///< the same in stored order; empty unless grids are found up front
    tile_result<B> result;
  };

  void check() const {
    if (problem_.weight.cols != in_)
      throw shape_error("quantize: weights have " + std::to_string(problem_.weight.cols) + " inputs, the Hessian " +
                        std::to_string(in_));
    if (!b_.all_finite(problem_.weight)) throw numeric_error("quantize: NaN or Inf in the weights");
    if (refines_ && !refining_backend<B>) throw shape_error("quantize: this backend does not refine");
    if (refines_ && !problem_.hessian) throw shape_error("quantize: refinement needs the Hessian beside the factor");
    if (problem_.target.data && (problem_.target.rows != out_ || problem_.target.cols != in_))
      throw shape_error("quantize: the target is not of the size of the weights");
  }

  [[nodiscard]] tile_result<B> found(index_t first, index_t count) {
    return {view_of<B, std::uint8_t>(codes_).col_range(first, count), view(scales_).col_range(first, count),
            view_of<B, std::uint8_t>(zeros_).col_range(first, count), sums_.part(sums_.pass, first, count)};
  }
  [[nodiscard]] view_of<B, std::uint8_t const> stored_live() const {
    return all_live_.rows() ? view_of<B, std::uint8_t const>(all_live_) : view_of<B, std::uint8_t const>(f_.live);
  }

  /// The weights of a tile, or what is quantized in their place, transposed and in an order.
  void gather_weights(tile const& t, view_of<B, std::int32_t const> order, view_of<B, std::uint8_t const> live,
                      view to) const {
    b_.gather_weights(problem_.weight.row_range(t.first, t.count), order, live, to);
  }
  void gather_target(tile const& t, view_of<B, std::int32_t const> order, view_of<B, std::uint8_t const> live,
                     view to) const {
    if (problem_.target.data)
      b_.gather_weights(problem_.target.row_range(t.first, t.count), order, live, to);
    else
      gather_weights(t, order, live, to);
  }

  /// The energy of the weights, and what rounding them to nearest loses.
  void baseline(tile const& t) {
    auto rounded = b_.template make<scalar>(in_, t.count);
    auto codes = b_.template make<std::uint8_t>(in_, t.count);
    auto scales = b_.template make<scalar>(groups_, t.count);
    auto zeros = b_.template make<std::uint8_t>(groups_, t.count);
    auto ignored = b_.template make<double>(2, t.count);
    b_.fill(view_of<B, double>(ignored), 0.0);
    gather_weights(t, f_.order, f_.live, rounded);
    add_energy(b_, f_, const_view(rounded), sums_.part(sums_.energy, t.first, t.count));
    if (t.stored.rows) gather_weights(t, stored_order_, stored_live(), t.stored);
    pass_.run(false, t.stored, rounded, {codes, scales, zeros, ignored});
    add_energy(b_, f_, const_view(rounded), sums_.part(sums_.rtn, t.first, t.count));
  }

  void pass(tile const& t) {
    gather_target(t, f_.order, f_.live, t.weights);
    if (t.stored.rows) gather_target(t, stored_order_, stored_live(), t.stored);
    pass_.run(f_.factored(), t.stored, t.weights, t.result);
  }

  void refine([[maybe_unused]] tile const& t) {
    if constexpr (refining_backend<B>) {
      if (!refines_) return;
      gather_target(t, parts_.again->order(), f_.live, t.weights);
      parts_.again->refine(t.weights, t.result);
    }
  }

  /// What the codes lose against the target and the weights, beyond what the pass has summed up by itself.
  void measure([[maybe_unused]] tile const& t) {
    if constexpr (refining_backend<B>) {
      if (!measures_) return;
      auto const measure_codes = [&](int pair) {  // of what the tile's weights hold, against the codes
        b_.add_dequantized(scalar(-1), t.result.codes, t.result.zeros, t.result.scales, pass_.groups(), f_.order,
                           t.weights);
        add_energy(b_, f_, const_view(t.weights), sums_.part(pair, t.first, t.count));
      };
      if (refines_) {
        gather_target(t, f_.order, f_.live, t.weights);
        measure_codes(sums_.refined);
      }
      if (problem_.target.data) {
        gather_weights(t, f_.order, f_.live, t.weights);
        measure_codes(sums_.error);
      }
      if (parts_.against_float)
        parts_.against_float->template add<W>(problem_.weight.row_range(t.first, t.count), t.first, t.result,
                                              stored_groups_);
    }
  }

  /// Checks and counts the scales, and brings them to float.
  void finish_scales(quantized_linear_of<B>& linear) {
    matrix<scalar> host(groups_, out_);
    b_.download(const_view(scales_), host.view());
    std::span<scalar const> const all(host.data(), static_cast<std::size_t>(host.size()));
    check_scales(all, out_);
    if (settings_.options.grid.round_scales)
      linear.report.scale_underflows +=
          std::count_if(all.begin(), all.end(), [](scalar s) { return s <= scalar(smallest_float16); });
    if constexpr (std::is_same_v<scalar, float>) {
      linear.scales = std::move(scales_);
    } else {
      matrix<float> narrow(groups_, out_);
      std::transform(all.begin(), all.end(), narrow.data(), [](scalar s) { return static_cast<float>(s); });
      linear.scales = b_.template make<float>(groups_, out_);
      b_.upload(matrix_view<float const>(narrow), linear.scales);
    }
  }

  /// The losses of each output, and of the layer.
  void report(quantized_stack<B>& result) const {
    bool const target = problem_.target.data != nullptr;
    auto& whole = result.linear.report;
    result.losses = sums_.on_host(b_, refines_, target);
    if (measures_) {
      whole.rel_loss = whole.rel_loss_rtn = 0;
      if (refines_ || target) whole.pass_loss = whole.refined_loss = 0;
      if constexpr (refining_backend<B>)
        if (parts_.against_float) {
          parts_.against_float->finish(result.losses);
          whole.float_loss = 0;
        }
    }
    whole = result.report(0, out_);
  }

  B& b_;
  solve_problem<B, W> problem_;
  factor<B> const& f_;
  solver_settings settings_;
  index_t in_, out_, groups_;
  bool measures_, refines_;
  std::vector<std::int32_t> g_idx_;
  column_pass<B> pass_;
  loss_sums<B> sums_;
  refining_parts<B> parts_;
  matrix_of<B, std::int32_t> stored_order_;
  matrix_of<B, std::int32_t> stored_groups_;
  matrix_of<B, std::uint8_t> all_live_;
  matrix_of<B, std::uint8_t> codes_;
  matrix_of<B, scalar> scales_;
  matrix_of<B, std::uint8_t> zeros_;
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
