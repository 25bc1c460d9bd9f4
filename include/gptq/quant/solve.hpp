/// The column pass of GPTQ: quantize one column after the other, and let later columns make up for the error.
///
/// The pass is left-looking and works on transposed weights, row j = the input column processed as number j. A block p
/// of columns first receives C_p = F_{p,<p}·E_{<p} from all columns before it (one product); inside the block the
/// backend goes column by column. Grids that are found during the pass need the columns of a block as they are *before*
/// any of them is quantized: W_p + F_pp⁻¹·C_p, which is exactly what the reference holds at the start of a block.
/// Groups smaller than a block take their grids from that state too, as the reference does.
#pragma once

#include <gptq/core/quantize_backend.hpp>
#include <gptq/quant/factor.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

/// What one solve produces for a strip of outputs, and what it needs beyond the factor.
template <class B>
struct solve_target {
  view_of<B, std::uint8_t> codes;         ///< [in × outputs] stored order
  view_of<B, typename B::scalar> scales;  ///< [groups × outputs]
  view_of<B, std::uint8_t> zeros;         ///< [groups × outputs]
  view_of<B, double> losses;              ///< [2 × outputs], zeroed
  view_of<B, std::int32_t const> groups;  ///< [1 × in] row of scales for each *position*
};

/// Who turns the spec into code: `width(spec, f)` calls f.operator()<Bits, Sym>() for a spec known at run time, or, given one
/// at compile time, for that pair alone. Only the verbs that need the pair are instantiated for each.
struct any_spec {
  template <class F>
  void operator()(quant_spec const& spec, F&& f) const {
    dispatch(spec, f);
  }
};
template <quant_spec Spec>
struct one_spec {
  template <class F>
  void operator()(quant_spec const&, F&& f) const {
    f.template operator()<Spec.bits, Spec.sym>();
  }
};

/// Whether grids are known before the pass.
constexpr bool grids_up_front(quant_spec const& s) { return s.static_groups || s.group_size == -1; }

/// Columns that are quantized between two looks at the grids.
constexpr index_t block_size(quant_spec const& s) {
  return grids_up_front(s) ? grid_block : (std::max)(grid_block, s.group_size);
}

/// Fits one grid per group of consecutive rows of x into the rows of scales and zeros that `row_of` names.
template <class Width, class B, class RowOf>
void fit_groups(Width width, B& b, quant_spec const& spec, view_of<B, typename B::scalar const> x,
                grid_options const& options, solve_target<B> const& out, RowOf&& row_of) {
  index_t const group_size = spec.group_size == -1 ? x.rows : spec.group_size;
  for (index_t r = 0; r < x.rows; r += group_size) {
    index_t const g = row_of(r);
    auto const group = x.row_range(r, (std::min)(group_size, x.rows - r));
    width(spec, [&]<int Bits, bool Sym>() {
      b.template fit_grid<Bits, Sym>(group, options, out.scales.row_range(g, 1), out.zeros.row_range(g, 1));
    });
  }
}

/// Quantizes the strip whose transposed weights in processing order are `weights`; on return those hold E = W − Q.
/// `stored` [in × outputs], weights in stored order, is read only where grids are found up front. Without
/// propagation this is rounding to nearest.
template <class Width, quantize_backend B>
void solve_strip(Width width, B& b, factor<B> const& f, std::vector<std::int32_t> const& groups, quant_spec const& spec,
                 grid_options const& options, bool propagate, view_of<B, typename B::scalar const> stored,
                 view_of<B, typename B::scalar> weights, solve_target<B> const& out) {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;
  index_t const in = weights.rows;
  index_t const n = weights.cols;
  index_t const size = spec.group_size == -1 ? in : spec.group_size;
  index_t const block = block_size(spec);
  bool const up_front = grids_up_front(spec);
  if (up_front) fit_groups<Width, B>(width, b, spec, stored, options, out, [&](index_t r) { return r / size; });

  index_t const outer = propagate ? (B::outer_block + block - 1) / block * block : block;
  auto correction_storage = b.template make<scalar>((std::min)(outer, in), n);
  auto updated_storage = b.template make<scalar>((std::min)(block, in), n);
  view_of<B, scalar> const all_corrections = correction_storage;
  view_of<B, scalar> const all_updated = updated_storage;
  const_view const nothing;

  for (index_t o = 0; o < in; o += outer) {
    index_t const outer_rows = (std::min)(outer, in - o);
    auto const corrections = all_corrections.row_range(0, outer_rows);
    b.fill(corrections, scalar(0));
    if (propagate && o > 0)
      b.multiply_add(scalar(1), const_view(f.propagation).block(o, 0, outer_rows, o), transpose::no,
                     weights.row_range(0, o), corrections);

    for (index_t p = o; p < o + outer_rows; p += block) {
      index_t const rows = (std::min)(block, in - p);
      auto const columns = weights.row_range(p, rows);
      auto const correction = corrections.row_range(p - o, rows);
      auto const triangle = propagate ? const_view(f.propagation).block(p, p, rows, rows) : nothing;
      if (propagate && p > o)
        b.multiply_add(scalar(1), const_view(f.propagation).block(p, o, rows, p - o), transpose::no,
                       weights.row_range(o, p - o), correction);
      column_block<B> const work{
          .propagation = triangle,
          .correction = correction,
          .pivots = propagate ? const_view(f.pivots).col_range(p, rows) : nothing,
          .excess = propagate ? const_view(f.excess).col_range(p, rows) : nothing,
          .groups = out.groups.col_range(p, rows),
          .order = view_of<B, std::int32_t const>(f.order).col_range(p, rows),
          .scales = out.scales,
          .zeros = out.zeros,
          .weights = columns,
          .codes = out.codes,
          .losses = out.losses,
      };
      if constexpr (fusing_backend<B>)
        if (!up_front && rows <= index_t(B::fused_columns)) {
          width(spec, [&]<int Bits, bool Sym>() {
            b.template fit_and_quantize_block<Bits, Sym>(work, size, options, out.scales, out.zeros);
          });
          continue;
        }
      if (!up_front) {
        auto const updated = all_updated.row_range(0, rows);
        b.copy(correction, updated);
        if (propagate && p > 0) solve_unit_lower<B>(b, triangle, updated);
        b.add(scalar(1), columns, updated);
        fit_groups<Width, B>(width, b, spec, updated, options, out,
                             [&](index_t r) { return groups[static_cast<std::size_t>(p + r)]; });
      }
      width(spec, [&]<int Bits, bool>() { b.template quantize_block<Bits>(work); });
    }
  }
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
