/// Asymmetric calibration: the weights to quantize so that a layer computes from the quantized model's inputs what the float
/// model's layer computes from its own.
///
/// When a layer is quantized its inputs x have already moved away from those of the float model, x_f, and so has the
/// residual stream r that its output is added to. The real matrix that minimises Σ ‖(r_f + W·x_f) − (r + T·x)‖² is
///     T = W + (α·W·D + β·E)·(H + λI)⁻¹,   D = c·Σ (x_f − x)·xᵀ,   E = c·Σ (r_f − r)·xᵀ,   α = β = 1,  H = c·Σ x·xᵀ
/// and what is lost by quantizing then is ‖(T − Q)·x‖² as ever: the solver quantizes T instead of W and does not change.
/// α and β below 1 hold back from fitting the calibration data. With α alone this is the target of GPTAQ (arXiv 2504.02692)
/// and of Qronos (arXiv 2505.11695); β is an addition of this library.
#pragma once

#include <gptq/core/communicator.hpp>
#include <gptq/quant/asymmetric_sums.hpp>
#include <gptq/quant/factor.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

/// Solves (H + λI)·X = Y with the factor, in processing order: H + λI = Fᵀ·diag(V)²·F. The blocks on F's diagonal are
/// inverted once, so that both triangular solves are products.
template <refining_backend B>
class damped_solver {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;

 public:
  damped_solver(B& b, factor<B> const& f) : b_(b), f_(f) {
    index_t const in = f.in_features();
    matrix<scalar> pivots(1, in), identity(grid_block, grid_block);
    b.download(const_view(f.pivots), pivots.view());
    for (index_t j = 0; j < in; ++j) pivots(0, j) = scalar(1) / (pivots(0, j) * pivots(0, j));
    weights_ = b.template make<scalar>(1, in);
    b.upload(matrix_view<scalar const>(pivots), view_of<B, scalar>(weights_));
    std::fill_n(identity.data(), identity.size(), scalar(0));
    for (index_t j = 0; j < grid_block; ++j) identity(j, j) = scalar(1);
    inverses_ = b.template make<scalar>(in, grid_block);
    for (index_t p = 0; p < in; p += grid_block) {
      auto const inverse = inverse_at(p);
      index_t const n = inverse.rows;
      b.upload(matrix_view<scalar const>(identity).block(0, 0, n, n), inverse);
      b.solve_unit_lower(const_view(f.propagation).block(p, p, n, n), inverse);
    }
  }

  /// x [in × any] becomes the solution.
  void solve(view_of<B, scalar> x) const {
    index_t const in = x.rows;
    auto scratch = b_.template make<scalar>((std::min)(in, index_t(grid_block)), x.cols);
    for (index_t p = (in - 1) / grid_block * grid_block; p >= 0; p -= grid_block) {  // x ← F⁻ᵀ·x
      const_view const inverse = inverse_at(p);
      index_t const n = inverse.rows, end = p + n;
      auto const rows = x.row_range(p, n);
      if (end < in)
        b_.multiply_add(scalar(-1), const_view(f_.propagation).block(end, p, in - end, n), transpose::yes,
                        x.row_range(end, in - end), rows);
      auto const y = view_of<B, scalar>(scratch).row_range(0, n);
      b_.fill(y, scalar(0));
      b_.multiply_add(scalar(1), inverse, transpose::yes, rows, y);
      b_.copy(y, rows);
    }
    b_.scale_rows(weights_, x);
    for (index_t p = 0; p < in; p += grid_block) {  // x ← F⁻¹·x
      const_view const inverse = inverse_at(p);
      index_t const n = inverse.rows;
      auto const rows = x.row_range(p, n);
      if (p > 0)
        b_.multiply_add(scalar(-1), const_view(f_.propagation).block(p, 0, n, p), transpose::no, x.row_range(0, p),
                        rows);
      auto const y = view_of<B, scalar>(scratch).row_range(0, n);
      b_.fill(y, scalar(0));
      b_.multiply_add(scalar(1), inverse, transpose::no, rows, y);
      b_.copy(y, rows);
    }
  }

 private:
  [[nodiscard]] view_of<B, scalar> inverse_at(index_t p) const {
    index_t const n = (std::min)(f_.in_features() - p, index_t(grid_block));
    return view_of<B, scalar>(inverses_).block(p, 0, n, n);
  }

  B& b_;
  factor<B> const& f_;
  matrix_of<B, scalar> weights_;
  mutable matrix_of<B, scalar> inverses_;
};

}  // namespace detail

/// T [out × in], stored order, for weights [out × in] of which `d` says how the inputs have moved. Where the Hessian has no
/// factor T = W. `only`, if given, are the outputs whose rows are wanted; the others are left as they are. Cost 2·out·in²
/// multiply-adds. Throws shape_error.
template <refining_backend B, class W>
matrix_of<B, typename B::scalar> asymmetric_target(B& b, view_of<B, W> weight, factor<B> const& f,
                                                   asymmetric_sums<B> const& d, asymmetric_options const& options,
                                                   std::optional<index_range> only = {}) {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;
  index_t const in = f.in_features(), out = weight.rows;
  if (weight.cols != in || d.in_features() != in)
    throw shape_error("asymmetric_target: weights have " + std::to_string(weight.cols) + " inputs, the sums " +
                      std::to_string(d.in_features()) + ", the Hessian " + std::to_string(in));
  const_view const cross = d.cross(), of_residual = d.residual();  // the sums end here, not in each tile
  bool const residual = options.residual != 0 && of_residual.rows != 0;
  if (residual && of_residual.cols != out)
    throw shape_error("asymmetric_target: the residual stream has " + std::to_string(of_residual.cols) +
                      " columns, the layer " + std::to_string(out) + " outputs");
  view_of<B, std::remove_const_t<W> const> const w = weight;

  auto const identity = detail::upload_row(b, detail::counting(in));
  auto const all_live = detail::upload_row(b, (std::max)(in, out), std::uint8_t(1));
  auto const outputs = detail::upload_row(b, detail::counting(out));
  std::vector<std::int32_t> back(static_cast<std::size_t>(in));
  for (std::size_t j = 0; j < back.size(); ++j)
    back[static_cast<std::size_t>(f.host_order[j])] = static_cast<std::int32_t>(j);
  auto const inverse_order = detail::upload_row(b, back);

  matrix_of<B, scalar> residual_weight;
  if (residual) residual_weight = detail::upload_row(b, in, static_cast<scalar>(options.residual * f.scale));

  auto target = b.template make<scalar>(out, in);
  std::optional<detail::damped_solver<B>> damped;
  if (f.factored()) damped.emplace(b, f);
  index_range const wanted = only.value_or(index_range{0, out});
  b.for_each_tile(wanted.count, [&](index_t first_wanted, index_t count) {
    index_t const first = wanted.first + first_wanted;
    auto stored = b.template make<scalar>(in, count);  // Wᵀ, then Tᵀ
    b.gather_weights(w.row_range(first, count), identity, all_live, stored);
    if (damped) {
      auto moved = b.template make<scalar>(in, count);  // (α·W·D + β·E)ᵀ
      auto ordered = b.template make<scalar>(in, count);
      if (residual) {
        b.copy(of_residual.col_range(first, count), moved);
        b.scale_rows(residual_weight, moved);
      } else {
        b.fill(view_of<B, scalar>(moved), scalar(0));
      }
      b.multiply_add(static_cast<scalar>(options.target * f.scale), cross, transpose::no, stored, moved);
      b.gather_rows(moved, f.order, ordered);
      damped->solve(ordered);
      b.gather_rows(ordered, inverse_order, moved);
      b.add(scalar(1), const_view(moved), view_of<B, scalar>(stored));
    }
    b.gather_weights(const_view(stored), view_of<B, std::int32_t const>(outputs).col_range(0, count), all_live,
                     view_of<B, scalar>(target).row_range(first, count));
  });
  return target;
}

}  // namespace v0
}  // namespace gptq
