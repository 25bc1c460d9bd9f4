/// Weights and a Hessian in, codes out.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/quantized_linear.hpp>
#include <gptq/quant/losses.hpp>
#include <gptq/quant/refine.hpp>
#include <gptq/quant/solve.hpp>
#include <gptq/quant/target.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A scale that float16 can't hold, because the weights are too large.
class scale_error : public numeric_error {
 public:
  scale_error(index_t row, index_t column_group)
      : numeric_error("quantize: the scale of output " + std::to_string(row) + ", group " +
                      std::to_string(column_group) + " is not finite: the weights are too large for float16 scales"),
        output(row),
        group(column_group) {}
  index_t output;  ///< in the stack
  index_t group;
};

/// A solved stack of linear layers that share their input, and the losses of each output.
template <quantize_backend B>
struct quantized_stack {
  quantized_linear_of<B> linear;
  std::vector<output_loss> losses;  ///< empty where nothing was measured

  /// The report of outputs [first, first + count).
  [[nodiscard]] linear_report report(index_t first, index_t count) const {
    linear_report r = linear.report;
    if (losses.empty()) return r;
    auto const sum = [&](double output_loss::*part) {
      double total = 0;
      for (index_t n = first; n < first + count; ++n) total += losses[static_cast<std::size_t>(n)].*part;
      return total;
    };
    auto const set = [&](double& loss, double output_loss::*part, double output_loss::*whole) {
      double const below = sum(whole);
      if (loss >= 0) loss = below > 0 ? sum(part) / below : 0;
    };
    r.damped_loss = sum(&output_loss::damped);
    set(r.rel_loss, &output_loss::error, &output_loss::energy);
    set(r.rel_loss_rtn, &output_loss::rtn, &output_loss::energy);
    set(r.pass_loss, &output_loss::pass, &output_loss::energy);
    set(r.refined_loss, &output_loss::refined, &output_loss::energy);
    set(r.float_loss, &output_loss::float_error, &output_loss::float_energy);
    return r;
  }
};

namespace detail {

/// What a solve works on: the weights, what to quantize in their place, and what was seen. Only the weights and the
/// factor are always there.
template <class B, class W>
struct solve_input {
  view_of<B, W const> weight;  ///< [out × in]
  factor<B> const& f;
  hessian<B> const* h = nullptr;                     ///< for refinement
  drift<B> const* moved = nullptr;                   ///< for the loss against the float model
  view_of<B, typename B::scalar const> target = {};  ///< [out × in], empty: the weights
};

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

/// Solves strip by strip.
template <class Width, quantize_backend B, class W>
requires(refines_as_promised<B>&& fuses_as_promised<B>) quantized_stack<B> solve_all(Width width, B& b,
                                                                                     solve_input<B, W> const& input,
                                                                                     quant_spec const& spec,
                                                                                     quantize_options const& options) {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;
  factor<B> const& f = input.f;
  index_t const in = f.in_features();
  index_t const out = input.weight.rows;
  index_t const groups = group_count(in, spec.group_size);
  bool const measure = options.measure && f.factored();
  bool const shifted = input.target.data != nullptr;
  bool const refine = f.factored() && (options.refit > 0 || options.sweeps > 0);
  if (refine && !refining_backend<B>) throw shape_error("quantize: this backend has no refit and no sweeps");
  if (refine && !input.h) throw shape_error("quantize: refit and sweeps need the Hessian beside the factor");

  quantized_stack<B> result;
  auto& linear = result.linear;
  linear.spec = spec.format();
  linear.report = f.report;
  linear.g_idx = group_index(spec, f.host_order);
  linear.codes = b.template make<std::uint8_t>(in, out);
  linear.zeros = b.template make<std::uint8_t>(groups, out);
  auto scales = b.template make<scalar>(groups, out);
  loss_sums<B> sums(b, out);

  std::vector<std::int32_t> by_position(static_cast<std::size_t>(in));
  for (std::size_t j = 0; j < by_position.size(); ++j)
    by_position[j] = linear.g_idx[static_cast<std::size_t>(f.host_order[j])];
  auto const position_groups = upload_row(b, by_position);
  auto const stored_groups = upload_row(b, linear.g_idx);
  auto const stored_order = upload_row(b, counting(in));
  // The reference takes the range of a whole row before it clears the weights of dead inputs.
  bool const untouched = options.reference_dead && spec.group_size == -1;
  auto const stored_live = untouched ? upload_row(b, std::vector<std::uint8_t>(static_cast<std::size_t>(in), 1))
                                     : matrix_of<B, std::uint8_t>();
  view_of<B, std::uint8_t const> const live = f.live;
  auto const gather = [&](view_of<B, std::int32_t const> order, view_of<B, std::uint8_t const> kept, index_t first,
                          view_of<B, scalar> to) {
    if (shifted)
      b.gather_weights(input.target.row_range(first, to.cols), order, kept, to);
    else
      b.gather_weights(input.weight.row_range(first, to.cols), order, kept, to);
  };

  auto const more = [&] {
    if constexpr (refining_backend<B>) {
      std::pair<std::optional<refiner<B>>, std::optional<float_losses<B>>> parts;
      if (refine) parts.first.emplace(b, *input.h, f, spec, linear.g_idx);
      if (measure && input.moved && input.moved->samples().cols > 0) parts.second.emplace(b, *input.moved, out);
      return parts;
    } else {
      return 0;
    }
  };
  auto extra = more();

  b.for_each_tile(out, [&](index_t first, index_t count) {
    auto const weight = input.weight.row_range(first, count);
    auto weights = b.template make<scalar>(in, count);
    auto stored = b.template make<scalar>(grids_up_front(spec) ? in : 0, count);
    solve_target<B> const found{view_of<B, std::uint8_t>(linear.codes).col_range(first, count),
                                view_of<B, scalar>(scales).col_range(first, count),
                                view_of<B, std::uint8_t>(linear.zeros).col_range(first, count),
                                sums.part(sums.pass, first, count), position_groups};
    view_of<B, std::uint8_t const> const stored_kept = untouched ? view_of<B, std::uint8_t const>(stored_live) : live;

    if (measure) {
      auto rounded = b.template make<scalar>(in, count);
      auto codes = b.template make<std::uint8_t>(in, count);
      auto grid_scales = b.template make<scalar>(groups, count);
      auto grid_zeros = b.template make<std::uint8_t>(groups, count);
      auto ignored = b.template make<double>(2, count);
      b.fill(view_of<B, double>(ignored), 0.0);
      b.gather_weights(weight, f.order, live, rounded);
      add_energy(b, f, const_view(rounded), sums.part(sums.energy, first, count));
      if (grids_up_front(spec)) b.gather_weights(weight, stored_order, stored_kept, stored);
      solve_strip<Width, B>(width, b, f, by_position, spec, options.grid, false, stored, rounded,
                            {codes, grid_scales, grid_zeros, ignored, position_groups});
      add_energy(b, f, const_view(rounded), sums.part(sums.rtn, first, count));
    }

    gather(f.order, live, first, weights);
    if (grids_up_front(spec)) gather(stored_order, stored_kept, first, stored);
    solve_strip<Width, B>(width, b, f, by_position, spec, options.grid, f.factored(), stored, weights, found);

    if constexpr (refining_backend<B>) {
      auto const measure_codes = [&](int pair) {  // of what `weights` holds now, against the codes
        b.add_dequantized(scalar(-1), found.codes, found.zeros, found.scales, position_groups, f.order, weights);
        add_energy(b, f, const_view(weights), sums.part(pair, first, count));
      };
      if (refine) {
        gather(extra.first->order(), live, first, weights);
        extra.first->refine(width, spec, options, weights, found);
        if (measure) {
          gather(f.order, live, first, weights);
          measure_codes(sums.refined);
        }
      }
      if (measure && shifted) {
        b.gather_weights(weight, f.order, live, weights);
        measure_codes(sums.error);
      }
      if (extra.second)
        extra.second->template add<W>(weight, first, found.codes, found.zeros, found.scales, stored_groups);
    }
  });

  matrix<scalar> host_scales(groups, out);
  b.download(const_view(scales), host_scales.view());
  check_scales(std::span<scalar const>(host_scales.data(), static_cast<std::size_t>(host_scales.size())), out);
  if (options.grid.round_scales)
    linear.report.scale_underflows += std::count_if(host_scales.data(), host_scales.data() + host_scales.size(),
                                                    [](scalar s) { return s <= scalar(smallest_float16); });
  if constexpr (std::is_same_v<scalar, float>) {
    linear.scales = std::move(scales);
  } else {
    matrix<float> narrow(groups, out);
    for (index_t i = 0; i < narrow.size(); ++i) narrow.data()[i] = static_cast<float>(host_scales.data()[i]);
    linear.scales = b.template make<float>(groups, out);
    b.upload(matrix_view<float const>(narrow), linear.scales);
  }

  if (f.factored()) {
    matrix<double> host(10, out);
    b.download(view_of<B, double const>(sums.all), host.view());
    result.losses.resize(static_cast<std::size_t>(out));
    for (index_t n = 0; n < out; ++n) {
      auto const undamped = [&](int pair) { return host(2 * pair, n) - host(2 * pair + 1, n); };
      auto& loss = result.losses[static_cast<std::size_t>(n)];
      loss.damped = host(2 * sums.pass, n);
      loss.pass = undamped(sums.pass);
      loss.energy = undamped(sums.energy);
      loss.rtn = undamped(sums.rtn);
      loss.refined = refine ? undamped(sums.refined) : loss.pass;
      loss.error = shifted ? undamped(sums.error) : loss.refined;
    }
    if (measure) {
      linear.report.rel_loss = linear.report.rel_loss_rtn = 0;
      if (refine || shifted) linear.report.pass_loss = linear.report.refined_loss = 0;
      if constexpr (refining_backend<B>)
        if (extra.second) {
          extra.second->finish(result.losses);
          linear.report.float_loss = 0;
        }
    }
    linear.report = result.report(0, out);
  }
  return result;
}

template <class Width, quantize_backend B, class W>
quantized_stack<B> solve_checked(Width width, B& b, solve_input<B, W> const& input, quant_spec const& spec,
                                 quantize_options const& options) {
  if (input.weight.cols != input.f.in_features())
    throw shape_error("quantize: weights have " + std::to_string(input.weight.cols) + " inputs, the Hessian " +
                      std::to_string(input.f.in_features()));
  if (!b.all_finite(input.weight)) throw numeric_error("quantize: NaN or Inf in the weights");
  return solve_all(width, b, input, spec, options);
}

/// `moved` may be null.
template <class Width, quantize_backend B, class W>
quantized_stack<B> factor_and_solve(Width width, B& b, view_of<B, W> weight, hessian<B> const& h,
                                    std::type_identity_t<drift<B> const*> moved, shift_options const& shift,
                                    quant_spec const& spec, quantize_options const& options,
                                    std::span<std::int32_t const> order) {
  using element = std::remove_const_t<W>;
  for (precision p : {precision::native, precision::fp64}) {
    auto const f = factorize(b, h, spec, options, p, order);
    matrix_of<B, typename B::scalar> target;
    solve_input<B, element> input{.weight = weight, .f = f, .h = &h, .moved = moved};
    if constexpr (refining_backend<B>)
      if (moved && shift.any()) {
        target = shifted_target(b, weight, f, *moved, shift);
        input.target = target;
      }
    auto result = solve_checked(width, b, input, spec, options);
    double sum = 0;
    for (auto const& x : result.losses) sum += x.damped + x.error;
    if (std::isfinite(sum)) return result;
  }
  throw numeric_error("quantize: the solve gives NaN or Inf even with a factor in fp64");
}

}  // namespace detail

/// Quantizes weights [out × in] (float or a 16-bit type, in the backend's memory) with a factor that was made for the
/// same order and grouping. Layers that read the same input are stacked along `out`: rows are independent given the factor.
/// Cost out·in² multiply-adds, three times that with `measure`. Throws shape_error, numeric_error.
template <quantize_backend B, class W>
quantized_stack<B> quantize_stack(B& b, view_of<B, W> weight, factor<B> const& f, quant_spec const& spec,
                                  quantize_options const& options = {}) {
  check_spec(spec);
  detail::solve_input<B, std::remove_const_t<W>> const input{.weight = weight, .f = f};
  return detail::solve_checked(detail::any_spec{}, b, input, spec, options);
}

/// The whole of it: factor, solve, and once more with an fp64 factor if the result is not finite. `order`, if given,
/// replaces the order that the Hessian suggests.
template <quantize_backend B, class W>
quantized_stack<B> quantize_stack(B& b, view_of<B, W> weight, hessian<B> const& h, quant_spec const& spec,
                                  quantize_options const& options = {}, std::span<std::int32_t const> order = {}) {
  check_spec(spec);
  return detail::factor_and_solve(detail::any_spec{}, b, weight, h, nullptr, {}, spec, options, order);
}

/// The same with the inputs of the float model beside those of the quantized one: aims at `shifted_target`.
template <refining_backend B, class W>
quantized_stack<B> quantize_stack(B& b, view_of<B, W> weight, hessian<B> const& h, drift<B> const& moved,
                                  shift_options const& shift, quant_spec const& spec,
                                  quantize_options const& options = {}) {
  check_spec(spec);
  return detail::factor_and_solve(detail::any_spec{}, b, weight, h, &moved, shift, spec, options, {});
}

/// One linear layer with a spec that is checked at compile time.
///   weight  anything with a view [out × in], or such a view; float, float16 or bfloat16
template <quant_spec Spec, quantize_backend B, class Weight>
quantized_linear_of<B> quantize(B& b, Weight const& weight, hessian<B> const& h, quantize_options const& options = {}) {
  constexpr quant_spec spec = checked_spec<Spec>::value;
  auto const view = [&] {
    if constexpr (requires { weight.view(); })
      return weight.view();
    else
      return weight;
  }();
  return detail::factor_and_solve(detail::one_spec<Spec>{}, b, view, h, nullptr, {}, spec, options, {}).linear;
}

}  // namespace v0
}  // namespace gptq
