/// The host backend: Eigen's products, OpenMP where the compiler has it on. Compile for the machine
/// (-O3 -march=native -mtune=generic): without, Eigen is three times slower.
#pragma once

#include <gptq/backend/host/cholesky.hpp>
#include <gptq/backend/host/column_block.hpp>
#include <gptq/backend/host/grid_fit.hpp>
#include <gptq/backend/host/refining.hpp>
#include <gptq/core/flags.hpp>
#include <gptq/core/refining.hpp>

#include <algorithm>
#include <type_traits>

namespace gptq {
inline namespace v0 {
inline namespace GPTQ_FLAGS {

/// Models quantize_backend and refining_backend in memory of the host. It has no state: threads are OpenMP's (omp_set_num_threads).
///   Scalar  float, or double where results are to be compared digit by digit
template <class Scalar>
class basic_host_backend {
 public:
  using scalar = Scalar;
  using space = host_space;
  template <class T>
  using matrix_type = matrix<T>;

  template <class T>
  matrix<T> make(index_t rows, index_t cols) {
    return {rows, cols};
  }
  template <class T>
  void upload(matrix_view<T const> from, std::type_identity_t<matrix_view<T>> to) {
    copy_rows(from, to);
  }
  template <class T>
  void download(matrix_view<T const> from, std::type_identity_t<matrix_view<T>> to) {
    copy_rows(from, to);
  }
  void download(matrix<Scalar> const& from, matrix_view<Scalar> to) { copy_rows(from.view(), to); }
  template <class T>
  void fill(matrix_view<T> x, std::type_identity_t<T> value) {
    for (index_t r = 0; r < x.rows; ++r) std::fill_n(x.row(r), x.cols, value);
  }
  void fill(matrix<Scalar>& x, Scalar value) { fill(x.view(), value); }
  template <class T>
  void copy(matrix_view<T> from, matrix_view<std::remove_const_t<T>> to) {
    copy_rows<std::remove_const_t<T>>(from, to);
  }
  template <class T>
  void add(Scalar alpha, matrix_view<T> x, matrix_view<std::remove_const_t<T>> y) {
    using element = std::remove_const_t<T>;
    for (index_t r = 0; r < x.rows; ++r)
      for (index_t c = 0; c < x.cols; ++c)
        if constexpr (std::is_floating_point_v<T>)
          y(r, c) += static_cast<element>(alpha) * x(r, c);
        else
          y(r, c) = from_float<element>(to_float(y(r, c)) + static_cast<float>(alpha) * to_float(x(r, c)));
  }

  template <class T>
  bool all_finite(matrix_view<T const> x) {
    return detail::all_finite<T>(x);
  }
  template <class T>
  void add_gram(matrix_view<T const> x, matrix_view<Scalar> gram, bool fresh = false) {
    detail::add_gram<Scalar, T>(x, gram, fresh);
  }
  void pack_lower(matrix_view<Scalar const> gram, matrix_view<Scalar> packed) { detail::pack_lower(gram, packed); }
  void add_packed(matrix_view<Scalar const> packed, matrix_view<Scalar> gram) { detail::add_packed(packed, gram); }
  bool factorize_hessian(matrix_view<Scalar const> gram, matrix_view<std::int32_t const> order, double scale,
                         matrix_view<Scalar const> diagonal, precision p, matrix_view<Scalar> f,
                         matrix_view<Scalar> pivots) {
    detail::gather_reversed<Scalar>(gram, order, scale, diagonal, f);
    if (!factor_lower(f, p)) return false;
    detail::propagation_from_cholesky<Scalar>(f, pivots);
    return true;
  }

  template <class W>
  void gather_weights(matrix_view<W const> w, matrix_view<std::int32_t const> order,
                      matrix_view<std::uint8_t const> live, matrix_view<Scalar> out) {
    constexpr index_t edge = 16;  // outputs at once: a line of each matrix, read and written whole
    detail::parallel_pieces(w.rows, edge, [&](index_t first, index_t count) {
      for (index_t j = 0; j < out.rows; ++j) {
        index_t const stored = order(0, j);
        Scalar* const to = out.row(j) + first;
        for (index_t n = 0; n < count; ++n)
          if constexpr (std::is_floating_point_v<W>)
            to[n] = live(0, stored) ? static_cast<Scalar>(w(first + n, stored)) : Scalar(0);
          else
            to[n] = live(0, stored) ? static_cast<Scalar>(to_float(w(first + n, stored))) : Scalar(0);
      }
    });
  }
  template <int Bits, bool Sym>
  void fit_grid(matrix_view<Scalar const> values, grid_options const& options, matrix_view<Scalar> scales,
                matrix_view<std::uint8_t> zeros) {
    detail::fit_grid<Bits, Sym, Scalar>(values, options, scales, zeros);
  }
  template <int Bits, class B>
  void quantize_block(column_block<B> const& block) {
    constexpr index_t width = detail::strip_width<Scalar>;
    detail::parallel_pieces(block.weights.cols, width, [&](index_t first, index_t count) {
      matrix<Scalar> strip(block.weights.rows, width);
      detail::quantize_strip<Bits, B>(block, first, count, strip.data());
    });
  }
  void multiply_add(Scalar alpha, matrix_view<Scalar const> a, transpose t, matrix_view<Scalar const> x,
                    matrix_view<Scalar> y) {
    if (t == transpose::yes)
      detail::add_product<true, false, Scalar>(alpha, a, x, y);
    else
      detail::add_product<false, false, Scalar>(alpha, a, x, y);
  }
  void solve_unit_lower(matrix_view<Scalar const> f, matrix_view<Scalar> x) {
    detail::solve_unit_lower_strips<Scalar>(f, x);
  }
  void add_squares(matrix_view<Scalar const> f, matrix_view<Scalar const> x, matrix_view<Scalar const> weights,
                   matrix_view<double> sums) {
    if (!f.data) return detail::add_squares<Scalar>(x, weights, sums);
    matrix<Scalar> storage((std::min)(x.rows, outer_block), x.cols);
    for (index_t p = 0; p < x.rows; p += outer_block) {
      index_t const rows = (std::min)(outer_block, x.rows - p);
      auto const y = storage.view().row_range(0, rows);
      fill(y, Scalar(0));
      multiply_add(Scalar(1), f.block(p, 0, rows, p + rows), transpose::no, x.row_range(0, p + rows), y);
      detail::add_squares<Scalar>(y, weights.col_range(p, rows), sums);
    }
  }
  /// Tiles of outputs, solved independently: wide enough for products at full rate, narrow enough to keep 16 threads busy
  /// with 2048 outputs. The width is a constant, since the order of sums may depend on it.
  template <class F>
  void for_each_tile(index_t outputs, F&& f) {
    detail::parallel_pieces(outputs, 128, f);
  }
  static constexpr index_t outer_block = 256;

  static constexpr bool refines = true;
  template <class T>
  void add_cross(matrix_view<T const> x, matrix_view<T const> y, matrix_view<Scalar> out) {
    detail::add_cross<Scalar, T>(x, y, out);
  }
  void gather_rows(matrix_view<Scalar const> x, matrix_view<std::int32_t const> order, matrix_view<Scalar> out) {
    for (index_t j = 0; j < out.rows; ++j) std::copy_n(x.row(order(0, j)), x.cols, out.row(j));
  }
  void scale_rows(matrix_view<Scalar const> weights, matrix_view<Scalar> x) {
    for (index_t r = 0; r < x.rows; ++r)
      for (index_t c = 0; c < x.cols; ++c) x(r, c) *= weights(0, r);
  }
  void normalize_hessian(matrix_view<Scalar const> gram, matrix_view<std::int32_t const> order, double scale,
                         matrix_view<Scalar const> diagonal, matrix_view<Scalar> others, matrix_view<Scalar> lower) {
    detail::gather_normalized<Scalar>(gram, order, scale, diagonal, others);
    detail::split_diagonal_blocks<Scalar>(others, lower);
  }
  void add_dequantized(Scalar alpha, matrix_view<std::uint8_t const> codes, matrix_view<std::uint8_t const> zeros,
                       matrix_view<Scalar const> scales, matrix_view<std::int32_t const> groups,
                       matrix_view<std::int32_t const> order, matrix_view<Scalar> y) {
    detail::add_dequantized<Scalar>(alpha, codes, zeros, scales, groups, order, y);
  }
  void add_products(matrix_view<Scalar const> x, matrix_view<Scalar const> y, matrix_view<Scalar const> weights,
                    matrix_view<double> sums) {
    detail::add_products<Scalar>(x, y, weights, sums);
  }
  void reestimate_scales(matrix_view<double const> gradient, matrix_view<double const> curvature, bool round,
                         matrix_view<Scalar> scales) {
    for (index_t n = 0; n < scales.cols; ++n)
      scales(0, n) = reestimated_scale(scales(0, n), gradient(0, n), curvature(0, n), round);
  }

 private:
  static bool factor_lower(matrix_view<Scalar> a, precision p) {
    if constexpr (std::is_same_v<Scalar, float>)
      if (p == precision::fp64) return detail::cholesky_fp64(a);
    return detail::cholesky<Scalar>(a);
  }
  template <class T>
  static void copy_rows(matrix_view<T const> from, matrix_view<T> to) {
    for (index_t r = 0; r < from.rows; ++r) std::copy_n(from.row(r), from.cols, to.row(r));
  }
};

/// The host backend that users want: solves in float.
using host_backend = basic_host_backend<float>;
static_assert(refining_backend<host_backend> && refines_as_promised<host_backend>);
static_assert(refining_backend<basic_host_backend<double>> && refines_as_promised<basic_host_backend<double>>);

}  // namespace GPTQ_FLAGS
}  // namespace v0
}  // namespace gptq
