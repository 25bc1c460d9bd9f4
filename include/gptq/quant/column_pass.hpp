/// The column pass of GPTQ (arXiv 2210.17323): quantize one column after the other, and let later columns make up for the
/// error.
///
/// The pass is left-looking and works on transposed weights, row j = the input column processed as number j. A block p
/// of columns first receives C_p = F_{p,<p}·E_{<p} from all columns before it (one product); inside the block the
/// backend goes column by column. Grids that are found during the pass need the columns of a block as they are *before*
/// any of them is quantized: W_p + F_pp⁻¹·C_p, which is exactly what the reference holds at the start of a block.
/// Groups smaller than a block take their grids from that state too, as the reference does.
#pragma once

#include <gptq/quant/column_kernels.hpp>
#include <gptq/quant/factor.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// What is found for one output tile: views of its columns in the results.
template <class B>
struct tile_result {
  view_of<B, std::uint8_t> codes;         ///< [in × outputs] stored order
  view_of<B, typename B::scalar> scales;  ///< [groups × outputs]
  view_of<B, std::uint8_t> zeros;         ///< [groups × outputs]
  view_of<B, double> losses;              ///< [2 × outputs], zeroed
};

/// Whether grids are known before the pass.
constexpr bool grids_up_front(quant_spec const& s) { return s.static_groups || s.group_size == -1; }

/// Columns that are quantized between two looks at the grids.
constexpr index_t block_size(quant_spec const& s) {
  return grids_up_front(s) ? grid_block : (std::max)(grid_block, s.group_size);
}

/// The pass for all output tiles of a layer. The backend, the factor and g_idx must outlive it.
template <quantize_backend B>
class column_pass {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;
  using view = view_of<B, scalar>;

 public:
  column_pass(B& b, column_kernels<B> const& kernels, factor<B> const& f, quant_spec const& spec,
              grid_options const& grids, std::vector<std::int32_t> const& g_idx)
      : b_(b),
        kernels_(kernels),
        f_(f),
        grids_(grids),
        up_front_(grids_up_front(spec)),
        group_size_(spec.group_size == -1 ? f.in_features() : spec.group_size),
        block_(block_size(spec)),
        groups_(g_idx.size()) {
    for (std::size_t j = 0; j < groups_.size(); ++j) groups_[j] = g_idx[static_cast<std::size_t>(f.host_order[j])];
    device_groups_ = upload_row(b, groups_);
  }

  /// The row of scales and zeros of each *position*, [1 × in].
  [[nodiscard]] view_of<B, std::int32_t const> groups() const { return device_groups_; }

  /// Quantizes the tile whose transposed weights in processing order are `weights` [in × outputs]; on return those hold
  /// E = W − Q. `stored`, weights in stored order, is read only where grids are found up front. Without `propagate` this
  /// is rounding to nearest.
  void run(bool propagate, const_view stored, view weights, tile_result<B> const& out) const {
    index_t const in = weights.rows, n = weights.cols;
    if (up_front_) fit_grids(stored, out, [&](index_t r) { return r / group_size_; });
    index_t const outer = propagate ? (B::outer_block + block_ - 1) / block_ * block_ : block_;
    auto correction_storage = b_.template make<scalar>((std::min)(outer, in), n);
    auto updated_storage = b_.template make<scalar>((std::min)(block_, in), n);
    const_view const f = f_.propagation;

    for (index_t o = 0; o < in; o += outer) {
      index_t const end = (std::min)(o + outer, in);
      view const corrections = view(correction_storage).row_range(0, end - o);
      b_.fill(corrections, scalar(0));
      if (propagate && o > 0)
        b_.multiply_add(scalar(1), f.block(o, 0, end - o, o), transpose::no, weights.row_range(0, o), corrections);
      for (index_t p = o; p < end; p += block_) {
        index_t const rows = (std::min)(block_, in - p);
        view const correction = corrections.row_range(p - o, rows);
        if (propagate && p > o)
          b_.multiply_add(scalar(1), f.block(p, o, rows, p - o), transpose::no, weights.row_range(o, p - o),
                          correction);
        quantize_block(block_at(p, propagate, correction, weights.row_range(p, rows), out), p,
                       view(updated_storage).row_range(0, rows), out);
      }
    }
  }

 private:
  column_block<B> block_at(index_t p, bool propagate, const_view correction, view columns,
                           tile_result<B> const& out) const {
    index_t const rows = columns.rows;
    const_view const none;
    return {
        .propagation = propagate ? const_view(f_.propagation).block(p, p, rows, rows) : none,
        .correction = correction,
        .pivots = propagate ? const_view(f_.pivots).col_range(p, rows) : none,
        .excess = propagate ? const_view(f_.excess).col_range(p, rows) : none,
        .groups = groups().col_range(p, rows),
        .order = view_of<B, std::int32_t const>(f_.order).col_range(p, rows),
        .scales = out.scales,
        .zeros = out.zeros,
        .weights = columns,
        .codes = out.codes,
        .losses = out.losses,
    };
  }

  /// The block that begins at column p; `updated` is scratch of its size.
  void quantize_block(column_block<B> const& block, index_t p, view updated, tile_result<B> const& out) const {
    if (!up_front_) {
      if constexpr (fusing_backend<B>)
        if (updated.rows <= index_t(B::fused_columns))
          return kernels_.fit_and_quantize_block(b_, block, group_size_, grids_, out.scales, out.zeros);
      b_.copy(block.correction, updated);
      if (block.propagation.data && p > 0) solve_unit_lower<B>(b_, block.propagation, updated);
      b_.add(scalar(1), const_view(block.weights), updated);
      fit_grids(updated, out, [&](index_t r) { return groups_[static_cast<std::size_t>(p + r)]; });
    }
    kernels_.quantize_block(b_, block);
  }

  /// One grid per group of consecutive rows of x, into the rows of scales and zeros that `row_of` names.
  template <class RowOf>
  void fit_grids(const_view x, tile_result<B> const& out, RowOf&& row_of) const {
    for (index_t r = 0; r < x.rows; r += group_size_) {
      index_t const g = row_of(r);
      kernels_.fit_grid(b_, x.row_range(r, (std::min)(group_size_, x.rows - r)), grids_, out.scales.row_range(g, 1),
                        out.zeros.row_range(g, 1));
    }
  }

  B& b_;
  column_kernels<B> kernels_;
  factor<B> const& f_;
  grid_options grids_;
  bool up_front_;
  index_t group_size_;
  index_t block_;
  std::vector<std::int32_t> groups_;
  matrix_of<B, std::int32_t> device_groups_;
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
