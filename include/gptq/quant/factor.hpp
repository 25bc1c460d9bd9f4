/// The one factorization of GPTQ (arXiv 2210.17323), in the form that needs no inverse.
///
/// With H the damped Hessian in processing order, H = V·Vᵀ, V upper triangular. Then column by column
///     w′_j = w_j + Σ_{i<j} (w_i − q_i)·V_ij / V_jj,     tr(E·H·Eᵀ) = Σ_j ‖(w′_j − q_j)·V_jj‖²
/// which equals the published procedure: its Cholesky factor of the inverse is U = V⁻¹. V comes from an ordinary
/// Cholesky factor of the reversed matrix, J·H·J = L·Lᵀ, V = J·L·J: one K³/3 instead of three.
/// What is kept is F = (V·diag(V)⁻¹)ᵀ, unit lower triangular, whose row j holds the weights of the sum above.
#pragma once

#include <gptq/core/quantize_backend.hpp>
#include <gptq/core/report.hpp>
#include <gptq/quant/hessian.hpp>
#include <gptq/quant/options.hpp>
#include <gptq/quant/order.hpp>
#include <gptq/quant/rows.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A factored Hessian: everything a solve needs, and how it came about. Without a factor (status rtn_no_data or
/// rtn_not_pd) `propagation` is empty and weights can only be rounded to nearest.
template <quantize_backend B>
struct factor {
  using scalar = typename B::scalar;
  matrix_of<B, scalar> propagation;  ///< F [in × in], processing order, zeros above the diagonal
  matrix_of<B, scalar> pivots;       ///< V_jj [1 × in]
  matrix_of<B, scalar> excess;       ///< [1 × in] root of damped minus undamped diagonal
  matrix_of<B, std::int32_t> order;  ///< π [1 × in]
  matrix_of<B, std::uint8_t> live;   ///< [1 × in] by stored input: 0 where the input was never active
  std::vector<std::int32_t> host_order;
  matrix<scalar> diagonal;  ///< of the damped H [1 × in], processing order, on the host
  double scale = 1;         ///< H = scale·G + damping
  linear_report report;     ///< tokens, damping, dead inputs, status; losses are the solver's

  [[nodiscard]] index_t in_features() const { return static_cast<index_t>(host_order.size()); }
  [[nodiscard]] bool factored() const { return report.status < outcome::rtn_no_data; }
};

namespace detail {

/// The undamped diagonal in stored order as the algorithm sees it, dead inputs filled in, and its mean.
struct conditioned_diagonal {
  std::vector<double> undamped;  ///< scale·G_ii
  std::vector<double> filled;    ///< the same with dead inputs replaced
  std::vector<std::uint8_t> live;
  double mean = 0;  ///< what damp_percent is a fraction of
  index_t dead = 0;
  double lowest = 0, highest = 0;
};

inline conditioned_diagonal condition(std::vector<double> diagonal, double scale, bool reference_dead) {
  conditioned_diagonal d;
  double live_sum = 0;
  for (double& x : diagonal) {
    x *= scale;
    d.live.push_back(x != 0.0);
    if (x == 0.0) ++d.dead;
    live_sum += x;
  }
  auto const n = static_cast<double>(diagonal.size());
  auto const live = n - static_cast<double>(d.dead);
  double const fill = reference_dead ? 1.0 : live > 0 ? live_sum / live : 0.0;
  d.mean = reference_dead ? (live_sum + static_cast<double>(d.dead)) / n : fill;
  d.filled = diagonal;
  for (double& x : d.filled)
    if (x == 0.0) x = fill;
  auto const [low, high] = std::minmax_element(diagonal.begin(), diagonal.end());
  d.lowest = *low;
  d.highest = *high;
  d.undamped = std::move(diagonal);
  return d;
}

/// Tries to factor with one diagonal after the other until one succeeds: the failure ladder.
template <quantize_backend B>
class factor_ladder {
  using scalar = typename B::scalar;

 public:
  factor_ladder(B& b, hessian<B> const& h, conditioned_diagonal const& d, double scale, factor<B>& result)
      : b_(b), h_(h), d_(d), f_(result) {
    f_.scale = scale;
    f_.diagonal = matrix<scalar>(1, h.in_features());
  }

  void climb(double damp, precision first) {
    double const asked = damp;
    auto& report = f_.report;
    if (first == precision::native && attempt(damp, 0, precision::native)) return;
    report.factor_fp64 = true;
    if (attempt(damp, 0, precision::fp64)) return raise(outcome::factor_fp64);
    for (damp = asked + 0.01; damp < 1; damp += 0.01)
      if (attempt(damp, 0, precision::fp64)) return raise(outcome::damp_raised);
    double const top = (std::max)(std::abs(d_.highest), std::abs(d_.lowest));
    double floor = top * 1e-6;
    for (int k = 0; k < 6; ++k, floor *= 10)
      for (damp = asked; damp < 1; damp += 0.01)
        if (attempt(damp, floor, precision::fp64)) return raise(outcome::diag_floor);
    raise(outcome::rtn_not_pd);
    f_.propagation = {};
  }

 private:
  void raise(outcome o) { f_.report.status = (std::max)(f_.report.status, o); }

  bool attempt(double damp, double floor, precision p) {
    index_t const in = h_.in_features();
    std::vector<scalar> excess(static_cast<std::size_t>(in));
    for (index_t j = 0; j < in; ++j) {
      auto const stored = static_cast<std::size_t>(f_.host_order[static_cast<std::size_t>(j)]);
      double x = d_.filled[stored];
      if (floor > 0) x = (std::max)(x + floor, floor);
      x += damp * d_.mean;
      f_.diagonal(0, j) = static_cast<scalar>(x);
      excess[static_cast<std::size_t>(j)] = static_cast<scalar>(std::sqrt((std::max)(0.0, x - d_.undamped[stored])));
    }
    f_.report.damp_used = damp;
    if (!b_.factorize_hessian(h_.gram(), f_.order, f_.scale, f_.diagonal.view(), p, f_.propagation, f_.pivots))
      return false;
    b_.upload(matrix_view<scalar const>(excess.data(), 1, in), f_.excess);
    return true;
  }

  B& b_;
  hessian<B> const& h_;
  conditioned_diagonal const& d_;
  factor<B>& f_;
};

}  // namespace detail

/// The diagonal of the Gram matrix, on the host: what an order of columns goes by.
template <quantize_backend B>
std::vector<double> diagonal(B& b, hessian<B> const& h) {
  using scalar = typename B::scalar;
  view_of<B, scalar const> const gram = h.gram();
  matrix<scalar> host(gram.rows, 1);
  b.download(view_of<B, scalar const>(gram.data, gram.rows, 1, gram.stride + 1), host.view());
  return {host.data(), host.data() + host.size()};
}

/// Orders, damps and factors a Hessian for `spec` (only order, group_size and static_groups matter). What does not
/// factor is repaired step by step, and the step is in the report: fp64, more damping, a lifted diagonal; else no
/// factor. `order`, if given, is used instead of the one the Hessian suggests. Cost K³/3. Throws numeric_error if the
/// Hessian holds NaN or Inf, shape_error for an order that is no permutation.
template <quantize_backend B>
factor<B> factorize(B& b, hessian<B> const& h, quant_spec const& spec, quantize_options const& options,
                    precision first = precision::native, std::span<std::int32_t const> order = {}) {
  index_t const in = h.in_features();
  factor<B> f;
  auto& report = f.report;
  report.tokens = h.tokens();
  report.dropped_chunks = h.dropped_batches();
  report.damp_asked = report.damp_used = options.damp_percent;

  double const count = static_cast<double>(options.reference_dead ? h.sequences() : h.tokens());
  double const scale = count > 0 ? 2.0 / count : 1.0;
  auto const d = detail::condition(diagonal(b, h), scale, options.reference_dead);
  if (!std::isfinite(d.mean)) throw numeric_error("factor: the Hessian holds NaN or Inf");
  report.dead_inputs = d.dead;

  bool const no_data = h.tokens() == 0 || d.dead == in;
  std::vector<double> importance = d.filled;
  if (!options.reference_dead)
    for (std::size_t i = 0; i < importance.size(); ++i)
      if (!d.live[i]) importance[i] = -1;  // last
  if (!order.empty()) {
    if (static_cast<index_t>(order.size()) != in) throw shape_error("factor: the order given has the wrong length");
    f.host_order.assign(order.begin(), order.end());
    std::vector<bool> seen(order.size());
    for (std::int32_t const i : order) {
      if (i < 0 || i >= in || seen[static_cast<std::size_t>(i)])
        throw shape_error("factor: the order given is no permutation: " + std::to_string(i) + " is " +
                          (i < 0 || i >= in ? "no input" : "there twice"));
      seen[static_cast<std::size_t>(i)] = true;
    }
  } else {
    f.host_order = no_data ? processing_order(quant_spec{}, importance) : processing_order(spec, importance);
  }
  f.order = detail::upload_row(b, f.host_order);
  f.live = detail::upload_row(b, no_data ? std::vector<std::uint8_t>(d.live.size(), 1) : d.live);

  if (no_data) {
    report.status = outcome::rtn_no_data;
  } else {
    if (h.tokens() < in) report.status = outcome::few_tokens;
    f.propagation = b.template make<typename B::scalar>(in, in);
    f.pivots = b.template make<typename B::scalar>(1, in);
    f.excess = b.template make<typename B::scalar>(1, in);
    detail::factor_ladder<B>(b, h, d, scale, f).climb(report.damp_asked, first);
  }
  if (report.status != outcome::ok)
    report.detail = "diagonal " + std::to_string(d.lowest) + " to " + std::to_string(d.highest) + ", " +
                    std::to_string(d.dead) + " of " + std::to_string(in) + " inputs dead, " +
                    std::to_string(h.tokens()) + " tokens";
  return f;
}

/// x ← F⁻¹·x for a unit lower triangular F of any size, by blocks.
template <quantize_backend B>
void solve_unit_lower(B& b, view_of<B, typename B::scalar const> f, view_of<B, typename B::scalar> x) {
  using scalar = typename B::scalar;
  for (index_t p = 0; p < f.rows; p += grid_block) {
    index_t const n = (std::min)(f.rows - p, index_t(grid_block));
    if (p > 0) b.multiply_add(scalar(-1), f.block(p, 0, n, p), transpose::no, x.row_range(0, p), x.row_range(p, n));
    b.solve_unit_lower(f.block(p, p, n, n), x.row_range(p, n));
  }
}

}  // namespace v0
}  // namespace gptq
