/// Weights and a Hessian in, codes out.
///
///     gptq::hessian hessian{backend, in_features};
///     hessian.add(inputs);                                                         // [tokens × in_features]
///     auto const linear = gptq::quantize<gptq::w4g128>(backend, weight, hessian);  // [out × in_features]
#pragma once

#include <gptq/comm/solo.hpp>
#include <gptq/core/error.hpp>
#include <gptq/quant/asymmetric.hpp>
#include <gptq/quant/shared_solve.hpp>

#include <cmath>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// A problem without a factor is factored, and once more in fp64 if the result is not finite. Every worker makes the
/// factor, from sums that are the same for all.
template <quantize_backend B, class W, communicator C>
quantized_stack<B> solve(B& b, C& c, column_kernels<B> const& kernels, solve_problem<B, W> problem,
                         solver_settings const& settings) {
  if (problem.factor) return solve_share(b, c, kernels, problem, settings);
  if (!problem.hessian) throw shape_error("quantize: neither a Hessian nor a factor is given");
  for (precision p : {precision::native, precision::fp64}) {
    auto const f = factorize(b, *problem.hessian, settings.spec, settings.options, p, problem.order);
    auto attempt = problem;
    attempt.factor = &f;
    matrix_of<B, typename B::scalar> target;
    if constexpr (refining_backend<B>)
      if (problem.asymmetric && settings.asymmetric.any() && !problem.target.data) {
        target = asymmetric_target(b, problem.weight, f, *problem.asymmetric, settings.asymmetric,
                                   own_outputs(b, c, problem.weight.rows));
        attempt.target = target;
      }
    auto result = solve_share(b, c, kernels, attempt, settings);
    double sum = 0;
    for (auto const& x : result.losses) sum += x.damped + x.error;
    if (std::isfinite(sum)) return result;
  }
  throw numeric_error("quantize: the solve gives NaN or Inf even with a factor in fp64");
}

}  // namespace detail

/// Quantizes one stack of layers. Cost, beside the factor's in³/3, out·in² multiply-adds, three times that with `measure`,
/// and about two more for each pass of refinement. Throws shape_error, numeric_error.
template <quantize_backend B, class W>
quantized_stack<B> quantize_stack(B& b, solve_problem<B, W> const& problem, solver_settings const& settings) {
  solo<typename B::space> alone;
  return detail::solve(b, alone, kernels_for<B>(settings.spec), problem, settings);
}

/// The same by several workers, who all bring the same problem and get the same result: output tiles are dealt to them.
template <quantize_backend B, communicator C, class W>
quantized_stack<B> quantize_stack(B& b, C& c, solve_problem<B, W> const& problem, solver_settings const& settings) {
  return detail::solve(b, c, kernels_for<B>(settings.spec), problem, settings);
}

/// Many problems of one kind, such as the experts of a layer, in their order. What goes wrong names the problem by its
/// number; a problem whose Hessian saw no token is rounded to nearest, as its report says.
template <quantize_backend B, class W>
std::vector<quantized_stack<B>> quantize_stacks(B& b, std::span<solve_problem<B, W> const> problems,
                                                solver_settings const& settings) {
  auto const kernels = kernels_for<B>(settings.spec);
  solo<typename B::space> alone;
  std::vector<quantized_stack<B>> results;
  results.reserve(problems.size());
  for (auto const& problem : problems) {
    auto const name = [&] { return "problem " + std::to_string(results.size()) + ": "; };
    try {
      results.push_back(detail::solve(b, alone, kernels, problem, settings));
    } catch (shape_error const& e) {
      throw shape_error(name() + e.what());
    } catch (numeric_error const& e) {
      throw numeric_error(name() + e.what());
    }
  }
  return results;
}

/// Weights [out × in] with a factor that was made for the same order and grouping.
template <quantize_backend B, class W>
quantized_stack<B> quantize_stack(B& b, view_of<B, W> weight, factor<B> const& f, quant_spec const& spec,
                                  quantize_options const& options = {}) {
  solve_problem<B, std::remove_const_t<W>> const problem{.weight = weight, .factor = &f};
  return quantize_stack(b, problem, {.spec = spec, .options = options});
}

/// Weights [out × in] with a Hessian. `order`, if given, replaces the order that the Hessian suggests.
template <quantize_backend B, class W>
quantized_stack<B> quantize_stack(B& b, view_of<B, W> weight, hessian<B> const& h, quant_spec const& spec,
                                  quantize_options const& options = {}, std::span<std::int32_t const> order = {}) {
  solve_problem<B, std::remove_const_t<W>> const problem{.weight = weight, .hessian = &h, .order = order};
  return quantize_stack(b, problem, {.spec = spec, .options = options});
}

/// The same with asymmetric calibration: aims at `asymmetric_target`.
template <refining_backend B, class W>
quantized_stack<B> quantize_stack(B& b, view_of<B, W> weight, hessian<B> const& h, asymmetric_sums<B> const& sums,
                                  asymmetric_options const& asymmetric, quant_spec const& spec,
                                  quantize_options const& options = {}) {
  solve_problem<B, std::remove_const_t<W>> const problem{.weight = weight, .hessian = &h, .asymmetric = &sums};
  return quantize_stack(b, problem, {.spec = spec, .options = options, .asymmetric = asymmetric});
}

/// One linear layer with a spec that is checked at compile time; of the backend's column kernels only those of this
/// spec are compiled.
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
  using element = std::remove_const_t<typename decltype(view)::value_type>;
  solve_problem<B, element> const problem{.weight = view, .hessian = &h};
  solo<typename B::space> alone;
  return detail::solve(b, alone, kernels_for<spec.bits, spec.sym, B>(), problem, {.spec = spec, .options = options})
      .linear;
}

}  // namespace v0
}  // namespace gptq
