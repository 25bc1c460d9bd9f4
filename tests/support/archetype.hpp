/// A backend that models the concept and nothing more: own matrix type, plain loops, no Eigen, no threads, no padding.
/// That the algorithm compiles and runs on it proves that it leans on nothing but the concept; it is also the shortest
/// description of what each verb means, and what the mutants of the tests derive from. Its memory is poisoned: what
/// nobody has written is NaN, or a number that leads nowhere.
#pragma once

#include <gptq/core/refining.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace test {

/// What uninitialised memory of the archetypes holds.
template <class T>
T poison() {
  if constexpr (std::is_floating_point_v<T>)
    return std::numeric_limits<T>::quiet_NaN();
  else if constexpr (std::is_same_v<T, std::uint8_t>)
    return 0xa5;
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(0x5a5a5a5a);
  else
    return gptq::from_float<T>(std::numeric_limits<float>::quiet_NaN());
}

template <class T>
class archetype_matrix {
 public:
  archetype_matrix() = default;
  archetype_matrix(gptq::index_t rows, gptq::index_t cols)
      : rows_(rows), cols_(cols), data_(static_cast<std::size_t>(rows * cols), poison<T>()) {}
  archetype_matrix(archetype_matrix&&) noexcept = default;
  archetype_matrix& operator=(archetype_matrix&&) noexcept = default;
  [[nodiscard]] gptq::index_t rows() const { return rows_; }
  [[nodiscard]] gptq::index_t cols() const { return cols_; }
  operator gptq::matrix_view<T>() { return {data_.data(), rows_, cols_}; }
  operator gptq::matrix_view<T const>() const { return {data_.data(), rows_, cols_}; }

 private:
  gptq::index_t rows_ = 0, cols_ = 0;
  std::vector<T> data_;
};

struct archetype {
  using scalar = double;
  using space = gptq::host_space;
  template <class T>
  using matrix_type = archetype_matrix<T>;
  using index_t = gptq::index_t;
  template <class T>
  using view = gptq::matrix_view<T>;

  template <class T>
  archetype_matrix<T> make(index_t rows, index_t cols) {
    return {rows, cols};
  }
  template <class T>
  void upload(view<T const> from, std::type_identity_t<view<T>> to) {
    move(from, to);
  }
  template <class T>
  void download(view<T const> from, std::type_identity_t<view<T>> to) {
    move(from, to);
  }
  void fill(view<double> x, double value) {
    each(x, [&](index_t r, index_t c) { x(r, c) = value; });
  }
  void copy(view<double const> from, view<double> to) { move(from, to); }
  void add(double alpha, view<double const> x, view<double> y) {
    each(y, [&](index_t r, index_t c) { y(r, c) += alpha * x(r, c); });
  }
  template <class T>
  bool all_finite(view<T const> x) {
    bool finite = true;
    each(x, [&](index_t r, index_t c) { finite &= std::isfinite(static_cast<double>(gptq::to_float(x(r, c)))); });
    return finite;
  }
  bool all_finite(view<double const> x) {
    bool finite = true;
    each(x, [&](index_t r, index_t c) { finite &= std::isfinite(x(r, c)); });
    return finite;
  }
  template <class T>
  void add_gram(view<T const> x, view<double> gram, bool fresh) {
    for (index_t r = 0; fresh && r < x.cols; ++r)
      for (index_t c = 0; c <= r; ++c) gram(r, c) = 0;
    for (index_t t = 0; t < x.rows; ++t)
      for (index_t r = 0; r < x.cols; ++r)
        for (index_t c = 0; c <= r; ++c) gram(r, c) += static_cast<double>(x(t, r)) * static_cast<double>(x(t, c));
  }
  void pack_lower(view<double const> gram, view<double> packed) {
    each(packed, [&](index_t r, index_t c) { packed(r, c) = 0; });
    for (index_t r = 0, at = 0; r < gram.rows; ++r)
      for (index_t c = 0; c <= r; ++c, ++at) packed(at / packed.cols, at % packed.cols) = gram(r, c);
  }
  void add_packed(view<double const> packed, view<double> gram) {
    for (index_t r = 0, at = 0; r < gram.rows; ++r)
      for (index_t c = 0; c <= r; ++c, ++at) gram(r, c) += packed(at / packed.cols, at % packed.cols);
  }
  /// V from its last column to its first: no reversal, no Cholesky factor of anything else.
  bool factorize_hessian(view<double const> gram, view<std::int32_t const> order, double scale,
                         view<double const> diagonal, gptq::precision, view<double> f, view<double> pivots) {
    index_t const n = gram.rows;
    for (index_t j = n - 1; j >= 0; --j)
      for (index_t i = j; i >= 0; --i) {  // V(i, j) is kept as f(j, i)
        index_t const a = order(0, i), b = order(0, j);
        double s = i == j ? diagonal(0, j) : scale * (a > b ? gram(a, b) : gram(b, a));
        for (index_t k = j + 1; k < n; ++k) s -= f(k, i) * f(k, j);
        if (i == j && !(s > 0 && std::isfinite(s))) return false;
        if (i == j) pivots(0, j) = std::sqrt(s);
        f(j, i) = i == j ? pivots(0, j) : s / pivots(0, j);
      }
    each(f, [&](index_t j, index_t i) { f(j, i) = i > j ? 0.0 : i == j ? 1.0 : f(j, i) / pivots(0, j); });
    return true;
  }
  template <class W>
  void gather_weights(view<W const> w, view<std::int32_t const> order, view<std::uint8_t const> live,
                      view<double> out) {
    each(out, [&](index_t j, index_t n) {
      out(j, n) = live(0, order(0, j)) ? static_cast<double>(w(n, order(0, j))) : 0.0;
    });
  }
  template <int Bits, bool Sym>
  void fit_grid(view<double const> x, gptq::grid_options const& options, view<double> scales,
                view<std::uint8_t> zeros) {
    for (index_t n = 0; n < x.cols; ++n) {
      double low = 0, high = 0;
      for (index_t r = 0; r < x.rows; ++r) {
        low = (std::min)(low, x(r, n));
        high = (std::max)(high, x(r, n));
      }
      gptq::complete_range<Sym>(low, high, options);
      auto best = gptq::range_grid<Bits, Sym>(low, high, options);
      double least = std::numeric_limits<double>::infinity();
      for (int i = 0; options.mse > 0 && i < int(options.mse_max_shrink * float(options.mse_steps)); ++i) {
        double const p = 1.0 - static_cast<double>(i) / options.mse_steps;
        auto const g = gptq::range_grid<Bits, Sym>(p * low, p * high, options);
        double error = 0;
        for (index_t r = 0; r < x.rows; ++r)
          error += std::pow(std::abs(g.scale * gptq::quantize_value<Bits>(x(r, n), g) - x(r, n)), double(options.mse));
        if (error < least) {
          least = error;
          best = g;
        }
      }
      scales(0, n) = best.scale;
      zeros(0, n) = static_cast<std::uint8_t>(best.zero);
    }
  }
  template <int Bits, class B>
  void quantize_block(gptq::column_block<B> const& b) {
    for (index_t n = 0; n < b.weights.cols; ++n)
      for (index_t j = 0; j < b.weights.rows; ++j) {
        double w = b.weights(j, n) + b.correction(j, n);
        if (b.propagation.data)
          for (index_t i = 0; i < j; ++i) w += b.propagation(j, i) * b.weights(i, n);
        index_t const g = b.groups(0, j);
        gptq::grid<double> const grid{b.scales(g, n), static_cast<double>(b.zeros(g, n))};
        double const steps = gptq::quantize_value<Bits>(w, grid);
        double const q = grid.scale * steps;
        b.codes(b.order(0, j), n) = static_cast<std::uint8_t>(steps + grid.zero);
        double const pivot = b.propagation.data ? b.pivots(0, j) : 1.0,
                     excess = b.propagation.data ? b.excess(0, j) : 0.0;
        b.losses(0, n) += (w - q) * pivot * ((w - q) * pivot);
        b.weights(j, n) -= q;
        b.losses(1, n) += excess * b.weights(j, n) * (excess * b.weights(j, n));
      }
  }
  void multiply_add(double alpha, view<double const> a, gptq::transpose t, view<double const> x, view<double> y) {
    each(y, [&](index_t r, index_t c) {
      double s = 0;
      for (index_t k = 0; k < x.rows; ++k) s += (t == gptq::transpose::yes ? a(k, r) : a(r, k)) * x(k, c);
      y(r, c) += alpha * s;
    });
  }
  void solve_unit_lower(view<double const> f, view<double> x) {
    for (index_t j = 0; j < x.rows; ++j)
      for (index_t i = 0; i < j; ++i)
        for (index_t n = 0; n < x.cols; ++n) x(j, n) -= f(j, i) * x(i, n);
  }
  void add_squares(view<double const> f, view<double const> x, view<double const> weights, view<double> sums) {
    each(x, [&](index_t j, index_t n) {
      double y = f.data ? 0 : x(j, n);
      for (index_t i = 0; f.data && i <= j; ++i) y += f(j, i) * x(i, n);
      sums(0, n) += weights(0, j) * y * (weights(0, j) * y);
    });
  }
  template <class F>
  void for_each_tile(index_t outputs, F&& f) {
    f(0, outputs);
  }
  static constexpr index_t outer_block = 1;

 protected:
  template <class T, class F>
  static void each(view<T> x, F&& f) {
    for (index_t r = 0; r < x.rows; ++r)
      for (index_t c = 0; c < x.cols; ++c) f(r, c);
  }
  template <class T>
  static void move(view<T const> from, std::type_identity_t<view<T>> to) {
    for (index_t r = 0; r < from.rows; ++r)
      for (index_t c = 0; c < from.cols; ++c) to(r, c) = from(r, c);
  }
  static void move(view<double> from, view<double> to) { move<double>(view<double const>(from), to); }
};
static_assert(gptq::quantize_backend<archetype> && !gptq::refining_backend<archetype> &&
              !gptq::fusing_backend<archetype>);

}  // namespace test
