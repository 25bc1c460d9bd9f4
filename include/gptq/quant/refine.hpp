/// Going over a finished solve again: scales fitted anew to the codes (refit), codes chosen anew one by one (sweep).
/// Both lower tr((T − Q)·(H + λI)·(T − Q)ᵀ) or leave it as it is, T being what was quantized.
///
/// Given all other columns, the best value for column j is t_j + Σ_{i≠j} (H_ji / H_jj)·E_i with E = T − Q. That is what
/// the backend's quantize_block computes if the rows of H, divided by their diagonal, take the place of the feedback
/// matrix F: columns before j count with their new errors, and the others, with their old ones, come in as correction.
/// Given the codes c − z = d of a group, its scale moves by (d·H·E) / (d·H·d).
#pragma once

#include <gptq/core/refining.hpp>
#include <gptq/quant/solve.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// What refining needs of a Hessian, made once for all strips: N = diag(H)⁻¹·H, of the damped H, in an order in which
/// groups are contiguous. `others` [in × in] lacks the lower triangles of the diagonal blocks, which are in `lower`.
template <refining_backend B>
class refiner {
  using scalar = typename B::scalar;
  using strip = view_of<B, scalar>;
  using const_strip = view_of<B, scalar const>;

 public:
  refiner(B& b, hessian<B> const& h, factor<B> const& f, quant_spec const& spec, std::vector<std::int32_t> const& g_idx)
      : b_(b), in_(f.in_features()), size_(spec.group_size == -1 ? in_ : spec.group_size), f_(f) {
    host_order_ = f.host_order;
    matrix<scalar> diagonal(1, in_);
    if (spec.static_groups)  // contiguous as stored
      for (index_t j = 0; j < in_; ++j) host_order_[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(j);
    for (index_t j = 0; j < in_; ++j) {
      auto const stored = spec.static_groups ? f.host_order[static_cast<std::size_t>(j)] : static_cast<std::int32_t>(j);
      diagonal(0, stored) = f.diagonal(0, j);
    }
    std::vector<std::int32_t> groups(host_order_.size());
    for (std::size_t j = 0; j < groups.size(); ++j) groups[j] = g_idx[static_cast<std::size_t>(host_order_[j])];
    host_groups_ = groups;
    order_ = upload_row(b, host_order_);
    groups_ = upload_row(b, groups);
    diagonal_ = b.template make<scalar>(1, in_);
    b.upload(matrix_view<scalar const>(diagonal), view_of<B, scalar>(diagonal_));
    others_ = b.template make<scalar>(in_, in_);
    lower_ = b.template make<scalar>(in_, grid_block);
    b.gather_symmetric(h.gram(), order_, f.scale, diagonal.view(), diagonal.view(), others_);
    b.split_diagonal_blocks(others_, lower_);
  }

  [[nodiscard]] view_of<B, std::int32_t const> order() const { return order_; }

  /// Refines the codes and scales of a strip of outputs whose targets, in this object's order, are `target`.
  template <class Width>
  void refine(Width width, quant_spec const& spec, quantize_options const& options, const_strip target,
              solve_target<B> const& out) const {
    auto storage = b_.template make<scalar>(in_, target.cols);
    strip const errors = storage;
    b_.copy(target, errors);
    b_.add_levels(scalar(-1), out.codes, out.zeros, out.scales, groups_, order_, errors);
    for (int round = 0; round < (std::max)(options.refit, options.sweeps); ++round) {
      if (round < options.refit) refit(options.grid.round_scales, errors, out);
      if (round < options.sweeps) sweep(width, spec, target, errors, out);
    }
  }

 private:
  /// y += N(first …, begin …)·x for `rows` rows, of one diagonal block or several whole ones, and the columns that the
  /// rows of x belong to.
  void add_normalized(index_t first, index_t rows, index_t begin, const_strip x, strip y) const {
    b_.multiply_add(scalar(1), const_strip(others_).block(first, begin, rows, x.rows), x, y);
    for (index_t p = first; p < first + rows; p += grid_block - p % grid_block) {
      index_t const block = p - p % grid_block;
      index_t const below = (std::min)(block + grid_block, first + rows);
      index_t const left = (std::max)(block, begin), right = (std::min)({block + grid_block, begin + x.rows, in_});
      if (left < right)
        b_.multiply_add(scalar(1), const_strip(lower_).block(p, left - block, below - p, right - left),
                        x.row_range(left - begin, right - left), y.row_range(p - first, below - p));
    }
  }

  /// One step of Gauss and Seidel over the groups of each output.
  void refit(bool round, strip errors, solve_target<B> const& out) const {
    index_t const n = errors.cols;
    auto gradients = b_.template make<scalar>(size_, n);
    auto levels = b_.template make<scalar>(size_, n);
    auto products = b_.template make<scalar>(size_, n);
    auto sums_storage = b_.template make<double>(2, n);
    view_of<B, double> const sums = sums_storage;
    for (index_t first = 0; first < in_; first += size_) {
      index_t const rows = (std::min)(size_, in_ - first);
      auto const groups = view_of<B, std::int32_t const>(groups_).col_range(first, rows);
      auto const order = view_of<B, std::int32_t const>(order_).col_range(first, rows);
      auto const weights = const_strip(diagonal_).col_range(first, rows);
      index_t const g = host_groups_[static_cast<std::size_t>(first)];
      strip const gradient = strip(gradients).row_range(0, rows);
      strip const product = strip(products).row_range(0, rows);
      strip const d = strip(levels).row_range(0, rows);

      b_.fill(d, scalar(0));
      b_.add_levels(scalar(1), out.codes, out.zeros, const_strip(), groups, order, d);
      b_.fill(gradient, scalar(0));
      b_.fill(product, scalar(0));
      add_normalized(first, rows, 0, errors, gradient);
      add_normalized(first, rows, first, d, product);
      b_.fill(sums, 0.0);
      b_.add_products(d, gradient, weights, sums.row_range(0, 1));
      b_.add_products(d, product, weights, sums.row_range(1, 1));
      strip const e = errors.row_range(first, rows);
      b_.add_levels(scalar(1), out.codes, out.zeros, out.scales, groups, order, e);
      b_.refit_scales(sums.row_range(0, 1), sums.row_range(1, 1), round, out.scales.row_range(g, 1));
      b_.add_levels(scalar(-1), out.codes, out.zeros, out.scales, groups, order, e);
    }
  }

  template <class Width>
  void sweep(Width width, quant_spec const& spec, const_strip target, strip errors, solve_target<B> const& out) const {
    auto corrections = b_.template make<scalar>((std::min)(in_, index_t(grid_block)), errors.cols);
    auto ignored = b_.template make<double>(2, errors.cols);
    for (index_t p = 0; p < in_; p += grid_block) {
      index_t const rows = (std::min)(in_ - p, index_t(grid_block));
      strip const correction = strip(corrections).row_range(0, rows);
      strip const columns = errors.row_range(p, rows);
      b_.fill(correction, scalar(0));
      b_.multiply_add(scalar(1), const_strip(others_).row_range(p, rows), errors, correction);
      b_.copy(target.row_range(p, rows), columns);
      column_block<B> const work{
          .feedback = const_strip(lower_).block(p, 0, rows, rows),
          .correction = correction,
          .pivots = const_strip(f_.pivots).col_range(p, rows),
          .excess = const_strip(f_.excess).col_range(p, rows),
          .groups = view_of<B, std::int32_t const>(groups_).col_range(p, rows),
          .order = order().col_range(p, rows),
          .scales = out.scales,
          .zeros = out.zeros,
          .weights = columns,
          .codes = out.codes,
          .losses = ignored,  // of another kind than the pass's
      };
      width(spec, [&]<int Bits, bool>() { b_.template quantize_block<Bits>(work); });
    }
  }

  B& b_;
  index_t in_;
  index_t size_;
  factor<B> const& f_;
  std::vector<std::int32_t> host_order_;
  std::vector<std::int32_t> host_groups_;
  matrix_of<B, std::int32_t> order_;
  matrix_of<B, std::int32_t> groups_;
  matrix_of<B, scalar> diagonal_;
  matrix_of<B, scalar> others_;
  matrix_of<B, scalar> lower_;
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
