/// Weights and a Hessian in, codes out.
#pragma once

#include <gptq/core/quantized_linear.hpp>
#include <gptq/quant/solve.hpp>

#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Squared output errors of one output, as tr(·) terms: sums of them over outputs are the layer's losses.
struct output_loss {
  double damped = 0;  ///< of the codes, with the damped Hessian
  double error = 0;   ///< of the codes, undamped
  double energy = 0;  ///< of the weights themselves
  double rtn = 0;     ///< of rounding to nearest
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
    output_loss sum;
    for (index_t n = first; n < first + count; ++n) {
      auto const& x = losses[static_cast<std::size_t>(n)];
      sum.damped += x.damped;
      sum.error += x.error;
      sum.energy += x.energy;
      sum.rtn += x.rtn;
    }
    r.damped_loss = sum.damped;
    if (r.rel_loss >= 0) {
      r.rel_loss = sum.energy > 0 ? sum.error / sum.energy : 0;
      r.rel_loss_rtn = sum.energy > 0 ? sum.rtn / sum.energy : 0;
    }
    return r;
  }
};

namespace detail {

/// Solves strip by strip.
template <class Width, quantize_backend B, class W>
quantized_stack<B> solve_all(Width width, B& b, view_of<B, W const> weight, factor<B> const& f, quant_spec const& spec,
                             quantize_options const& options) {
  using scalar = typename B::scalar;
  index_t const in = f.in_features();
  index_t const out = weight.rows;
  index_t const groups = group_count(in, spec.group_size);
  bool const measure = options.measure && f.factored();

  quantized_stack<B> result;
  auto& linear = result.linear;
  linear.spec = spec;
  linear.report = f.report;
  linear.g_idx = group_index(spec, f.host_order);
  linear.codes = b.template make<std::uint8_t>(in, out);
  linear.zeros = b.template make<std::uint8_t>(groups, out);
  auto scales = b.template make<scalar>(groups, out);
  auto losses = b.template make<double>(6, out);  // pairs of rows: codes, weights, rounding to nearest
  b.fill(view_of<B, double>(losses), 0.0);

  std::vector<std::int32_t> by_position(static_cast<std::size_t>(in));
  std::vector<std::int32_t> identity(static_cast<std::size_t>(in));
  for (std::size_t j = 0; j < by_position.size(); ++j) {
    by_position[j] = linear.g_idx[static_cast<std::size_t>(f.host_order[j])];
    identity[j] = static_cast<std::int32_t>(j);
  }
  auto const position_groups = upload_row(b, by_position);
  auto const stored_order = upload_row(b, identity);
  // The reference takes the range of a whole row before it clears the weights of dead inputs.
  bool const untouched = options.reference_dead && spec.group_size == -1;
  auto const stored_live =
      untouched ? upload_row(b, std::vector<std::uint8_t>(identity.size(), 1)) : matrix_of<B, std::uint8_t>();
  view_of<B, std::uint8_t const> const live = f.live;

  b.for_each_strip(out, [&](index_t first, index_t count) {
    auto const strip = weight.row_range(first, count);
    auto weights = b.template make<scalar>(in, count);
    auto stored = b.template make<scalar>(grids_up_front(spec) ? in : 0, count);
    b.gather_weights(strip, f.order, live, weights);
    if (grids_up_front(spec))
      b.gather_weights(strip, stored_order, untouched ? view_of<B, std::uint8_t const>(stored_live) : live, stored);
    auto const loss_rows = [&](index_t r) { return view_of<B, double>(losses).block(r, first, 2, count); };

    if (measure) {
      add_energy(b, f, view_of<B, scalar const>(weights), loss_rows(2));
      auto rounded = b.template make<scalar>(in, count);
      auto codes = b.template make<std::uint8_t>(in, count);
      auto grid_scales = b.template make<scalar>(groups, count);
      auto grid_zeros = b.template make<std::uint8_t>(groups, count);
      auto ignored = b.template make<double>(2, count);
      b.fill(view_of<B, double>(ignored), 0.0);
      b.copy(view_of<B, scalar const>(weights), rounded);
      solve_strip<Width, B>(width, b, f, by_position, spec, options.grid, false, stored, rounded,
                            {codes, grid_scales, grid_zeros, ignored, position_groups});
      add_energy(b, f, view_of<B, scalar const>(rounded), loss_rows(4));
    }
    solve_strip<Width, B>(
        width, b, f, by_position, spec, options.grid, f.factored(), stored, weights,
        {view_of<B, std::uint8_t>(linear.codes).col_range(first, count),
         view_of<B, scalar>(scales).col_range(first, count),
         view_of<B, std::uint8_t>(linear.zeros).col_range(first, count), loss_rows(0), position_groups});
  });

  matrix<scalar> host_scales(groups, out);
  b.download(view_of<B, scalar const>(scales), host_scales.view());
  for (index_t i = 0; i < host_scales.size(); ++i) {
    scalar const s = host_scales.data()[i];
    if (!std::isfinite(s))
      throw numeric_error("quantize: the scale of output " + std::to_string(i % out) + ", group " +
                          std::to_string(i / out) + " is not finite: the weights are too large for float16 scales");
    if (options.grid.round_scales && s <= scalar(smallest_float16)) ++linear.report.scale_underflows;
  }
  if constexpr (std::is_same_v<scalar, float>) {
    linear.scales = std::move(scales);
  } else {
    matrix<float> narrow(groups, out);
    for (index_t i = 0; i < narrow.size(); ++i) narrow.data()[i] = static_cast<float>(host_scales.data()[i]);
    linear.scales = b.template make<float>(groups, out);
    b.upload(matrix_view<float const>(narrow), linear.scales);
  }

  if (f.factored()) {
    matrix<double> sums(6, out);
    b.download(view_of<B, double const>(losses), sums.view());
    result.losses.resize(static_cast<std::size_t>(out));
    for (index_t n = 0; n < out; ++n)
      result.losses[static_cast<std::size_t>(n)] = {sums(0, n), sums(0, n) - sums(1, n), sums(2, n) - sums(3, n),
                                                    sums(4, n) - sums(5, n)};
    if (measure) linear.report.rel_loss = linear.report.rel_loss_rtn = 0;
    linear.report = result.report(0, out);
  }
  return result;
}

}  // namespace detail

namespace detail {

template <class Width, quantize_backend B, class W>
quantized_stack<B> solve_checked(Width width, B& b, matrix_view<W, B::space> weight, factor<B> const& f,
                                 quant_spec const& spec, quantize_options const& options) {
  if (weight.cols != f.in_features())
    throw shape_error("quantize: weights have " + std::to_string(weight.cols) + " inputs, the Hessian " +
                      std::to_string(f.in_features()));
  using element = std::remove_const_t<W>;
  view_of<B, element const> const w = weight;
  if (!b.all_finite(w)) throw numeric_error("quantize: NaN or Inf in the weights");
  return solve_all<Width, B, element>(width, b, w, f, spec, options);
}

template <class Width, quantize_backend B, class W>
quantized_stack<B> factor_and_solve(Width width, B& b, matrix_view<W, B::space> weight, hessian<B> const& h,
                                    quant_spec const& spec, quantize_options const& options,
                                    std::span<std::int32_t const> order) {
  for (precision p : {precision::native, precision::fp64}) {
    auto result = solve_checked(width, b, weight, factorize(b, h, spec, options, p, order), spec, options);
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
quantized_stack<B> quantize_stack(B& b, matrix_view<W, B::space> weight, factor<B> const& f, quant_spec const& spec,
                                  quantize_options const& options = {}) {
  check_spec(spec);
  return detail::solve_checked(detail::any_spec{}, b, weight, f, spec, options);
}

/// The whole of it: factor, solve, and once more with an fp64 factor if the result is not finite. `order`, if given,
/// replaces the order that the Hessian suggests.
template <quantize_backend B, class W>
quantized_stack<B> quantize_stack(B& b, matrix_view<W, B::space> weight, hessian<B> const& h, quant_spec const& spec,
                                  quantize_options const& options = {}, std::span<std::int32_t const> order = {}) {
  check_spec(spec);
  return detail::factor_and_solve(detail::any_spec{}, b, weight, h, spec, options, order);
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
  return detail::factor_and_solve(detail::one_spec<Spec>{}, b, view, h, spec, options, {}).linear;
}

}  // namespace v0
}  // namespace gptq
