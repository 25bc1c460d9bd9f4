/// Going over a finished solve again: scale re-estimation, which fits the scales anew to the codes, and coordinate-descent
/// passes, which choose the codes anew one by one (as QuIP's greedy updates do, arXiv 2307.13304). Both lower
/// tr((T − Q)·(H + λI)·(T − Q)ᵀ) or leave it as it is, T being what was quantized.
///
/// Given all other columns, the best value for column j is t_j + Σ_{i≠j} (H_ji / H_jj)·E_i with E = T − Q. That is what
/// the backend's quantize_block computes if the rows of H, divided by their diagonal, take the place of the error-propagation
/// matrix F: columns before j count with their new errors, and the others, with their old ones, come in as correction.
/// Given the codes c − z = d of a group, its scale moves by (d·H·E) / (d·H·d). Both need rows of H·E: they are made for
/// many columns in one product, and follow what changes among those.
#pragma once

#include <gptq/core/refining.hpp>
#include <gptq/quant/column_pass.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// What refining needs of a Hessian, made once for all output tiles: N = diag(H)⁻¹·H, of the damped H, in an order in which
/// groups are contiguous. `others` [in × in] lacks the lower triangles of the diagonal blocks, which are in `lower`.
template <refining_backend B>
class refiner {
  using scalar = typename B::scalar;
  using tile = view_of<B, scalar>;
  using const_tile = view_of<B, scalar const>;

 public:
  refiner(B& b, column_kernels<B> const& kernels, hessian<B> const& h, factor<B> const& f,
          solver_settings const& settings, std::vector<std::int32_t> const& g_idx)
      : b_(b),
        kernels_(kernels),
        options_(settings.options),
        in_(f.in_features()),
        size_(settings.spec.group_size == -1 ? in_ : settings.spec.group_size),
        step_((std::max)(size_, index_t(grid_block))),
        unit_((step_ + B::outer_block - 1) / step_ * step_),
        f_(f) {
    host_order_ = f.host_order;
    matrix<scalar> diagonal(1, in_);
    if (settings.spec.static_groups)  // contiguous as stored
      for (index_t j = 0; j < in_; ++j) host_order_[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(j);
    for (index_t j = 0; j < in_; ++j) {
      auto const stored =
          settings.spec.static_groups ? f.host_order[static_cast<std::size_t>(j)] : static_cast<std::int32_t>(j);
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
    b.normalize_hessian(h.gram(), order_, f.scale, diagonal.view(), others_, lower_);
  }

  [[nodiscard]] view_of<B, std::int32_t const> order() const { return order_; }

  /// Refines the codes and scales of a tile of outputs whose targets, in this object's order, are `target`.
  void refine(const_tile target, tile_result<B> const& out) const {
    auto storage = b_.template make<scalar>(in_, target.cols);
    tile const errors = storage;
    b_.copy(target, errors);
    b_.add_dequantized(scalar(-1), out.codes, out.zeros, out.scales, groups_, order_, errors);
    workspace memory(*this, target.cols);
    for (int round = 0; round < (std::max)(options_.reestimations, options_.descent_passes); ++round)
      for (index_t first = 0; first < in_; first += unit_) {
        index_t const end = (std::min)(first + unit_, in_);
        tile const sums = tile(memory.sums).row_range(0, end - first);
        b_.fill(sums, scalar(0));
        b_.multiply_add(scalar(1), const_tile(others_).row_range(first, end - first), transpose::no, errors, sums);
        for (index_t s = first; s < end; s += step_) {
          span const rest{s, end, sums.row_range(s - first, end - s)};
          index_t const next = (std::min)(s + step_, end);
          if (round < options_.reestimations)
            for (index_t g = s; g < next; g += size_)
              reestimate(g, round < options_.descent_passes ? s : g + size_, options_.grid.round_scales, errors, rest,
                         out, memory);
          if (round < options_.descent_passes)
            for (index_t p = s; p < next; p += grid_block) descend(p, target, errors, rest, out, memory);
        }
      }
  }

 private:
  /// Rows [first, end) of others·E, up to date.
  struct span {
    index_t first, end;
    tile sums;
    [[nodiscard]] tile rows(index_t from, index_t count) const { return sums.row_range(from - first, count); }
  };

  struct workspace {
    workspace(refiner const& r, index_t n)
        : sums(r.b_.template make<scalar>((std::min)(r.unit_, r.in_), n)),
          changes(r.b_.template make<scalar>((std::min)(r.step_, r.in_), n)),
          gradients(r.b_.template make<scalar>(r.size_, n)),
          steps(r.b_.template make<scalar>(r.size_, n)),
          products(r.b_.template make<scalar>(r.size_, n)),
          scalars(r.b_.template make<double>(2, n)) {}
    matrix_of<B, scalar> sums, changes, gradients, steps, products;
    matrix_of<B, double> scalars;
  };

  /// Rows `first` … of E were `before`, which is used up: brings the sums of rows [begin, rest.end) up to date.
  void follow(span const& rest, index_t begin, index_t first, const_tile now, tile before) const {
    if (begin >= rest.end) return;
    b_.add(scalar(-1), now, before);
    b_.multiply_add(scalar(-1), const_tile(others_).block(begin, first, rest.end - begin, now.rows), transpose::no,
                    before, rest.rows(begin, rest.end - begin));
  }

  /// y += the part in `lower` of N(first …, begin …)·x for `rows` rows, of one diagonal block or several whole ones.
  void add_lower(index_t first, index_t rows, index_t begin, const_tile x, tile y) const {
    for (index_t p = first; p < first + rows; p += grid_block - p % grid_block) {
      index_t const block = p - p % grid_block;
      index_t const below = (std::min)(block + grid_block, first + rows);
      index_t const left = (std::max)(block, begin), right = (std::min)({block + grid_block, begin + x.rows, in_});
      if (left < right)
        b_.multiply_add(scalar(1), const_tile(lower_).block(p, left - block, below - p, right - left), transpose::no,
                        x.row_range(left - begin, right - left), y.row_range(p - first, below - p));
    }
  }

  /// The scales of the group that begins at `first`. Sums are needed afterwards from `begin` on.
  void reestimate(index_t first, index_t begin, bool round, tile errors, span const& rest, tile_result<B> const& out,
                  workspace& memory) const {
    index_t const rows = (std::min)(size_, in_ - first);
    auto const groups = view_of<B, std::int32_t const>(groups_).col_range(first, rows);
    auto const order = view_of<B, std::int32_t const>(order_).col_range(first, rows);
    auto const weights = const_tile(diagonal_).col_range(first, rows);
    index_t const g = host_groups_[static_cast<std::size_t>(first)];
    tile const gradient = tile(memory.gradients).row_range(0, rows);
    tile const product = tile(memory.products).row_range(0, rows);
    tile const d = tile(memory.steps).row_range(0, rows);
    tile const before = tile(memory.changes).row_range(0, rows);
    tile const e = errors.row_range(first, rows);
    view_of<B, double> const scalars = memory.scalars;

    b_.fill(d, scalar(0));
    b_.add_dequantized(scalar(1), out.codes, out.zeros, const_tile(), groups, order, d);
    b_.copy(rest.rows(first, rows), gradient);
    add_lower(first, rows, 0, errors, gradient);
    b_.fill(product, scalar(0));
    b_.multiply_add(scalar(1), const_tile(others_).block(first, first, rows, rows), transpose::no, d, product);
    add_lower(first, rows, first, d, product);
    b_.fill(scalars, 0.0);
    b_.add_products(d, gradient, weights, scalars.row_range(0, 1));
    b_.add_products(d, product, weights, scalars.row_range(1, 1));
    b_.copy(e, before);
    b_.add_dequantized(scalar(1), out.codes, out.zeros, out.scales, groups, order, e);
    b_.reestimate_scales(scalars.row_range(0, 1), scalars.row_range(1, 1), round, out.scales.row_range(g, 1));
    b_.add_dequantized(scalar(-1), out.codes, out.zeros, out.scales, groups, order, e);
    follow(rest, begin, first, e, before);
  }

  /// The codes of the block that begins at `first`.
  void descend(index_t first, const_tile target, tile errors, span const& rest, tile_result<B> const& out,
               workspace& memory) const {
    index_t const rows = (std::min)(in_ - first, index_t(grid_block));
    tile const columns = errors.row_range(first, rows);
    tile const before = tile(memory.changes).row_range(0, rows);
    b_.copy(columns, before);
    b_.copy(target.row_range(first, rows), columns);
    column_block<B> const work{
        .propagation = const_tile(lower_).block(first, 0, rows, rows),
        .correction = rest.rows(first, rows),
        .pivots = const_tile(f_.pivots).col_range(first, rows),
        .excess = const_tile(f_.excess).col_range(first, rows),
        .groups = view_of<B, std::int32_t const>(groups_).col_range(first, rows),
        .order = order().col_range(first, rows),
        .scales = out.scales,
        .zeros = out.zeros,
        .weights = columns,
        .codes = out.codes,
        .losses = memory.scalars,  // of another kind than the pass's
    };
    kernels_.quantize_block(b_, work);
    follow(rest, first + rows, first, columns, before);
  }

  B& b_;
  column_kernels<B> kernels_;
  quantize_options options_;
  index_t in_;
  index_t size_;  ///< columns of a group
  index_t step_;  ///< columns whose scales are fitted before their codes: whole groups and whole blocks
  index_t unit_;  ///< columns between two large products: whole steps
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
