// A third backend: the verbs that the algorithm asks for (gptq/core/quantize_backend.hpp) in plain loops over std::vector. It
// quantizes a layer with the same headers as the host and the CUDA backend, and comes to the same codes.
#include <gptq/backend/host.hpp>
#include <gptq/gptq.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <type_traits>
#include <vector>

namespace {

using gptq::index_t;
template <class T>
using view = gptq::matrix_view<T>;  // of host memory; a device's backend names its own memory space

// What make() gives: owns its elements, moves, and turns into views.
template <class T>
class plain_matrix {
 public:
  plain_matrix() = default;
  plain_matrix(index_t rows, index_t cols) : rows_(rows), cols_(cols), data_(static_cast<std::size_t>(rows * cols)) {}
  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }
  operator view<T>() { return {data_.data(), rows_, cols_}; }
  operator view<T const>() const { return {data_.data(), rows_, cols_}; }

 private:
  index_t rows_ = 0, cols_ = 0;
  std::vector<T> data_;
};

template <class T, class F>
void each(view<T> x, F&& f) {
  for (index_t r = 0; r < x.rows; ++r)
    for (index_t c = 0; c < x.cols; ++c) f(r, c);
}
template <class T>
void copy_elements(view<T const> from, view<T> to) {
  for (index_t r = 0; r < from.rows; ++r) std::copy_n(from.row(r), from.cols, to.row(r));
}

struct plain_backend {
  using scalar = float;
  using space = gptq::host_space;
  template <class T>
  using matrix_type = plain_matrix<T>;

  // Memory.
  template <class T>
  plain_matrix<T> make(index_t rows, index_t cols) {
    return {rows, cols};
  }
  template <class T>
  void upload(view<T const> from, std::type_identity_t<view<T>> to) {
    copy_elements(from, to);
  }
  template <class T>
  void download(view<T const> from, std::type_identity_t<view<T>> to) {
    copy_elements(from, to);
  }
  template <class T>
  void fill(view<T> x, std::type_identity_t<T> value) {
    each(x, [&](index_t r, index_t c) { x(r, c) = value; });
  }
  void fill(plain_matrix<float>& x, float value) { fill(view<float>(x), value); }
  void copy(view<float const> from, view<float> to) { copy_elements(from, to); }
  void add(float alpha, view<float const> x, view<float> y) {
    each(y, [&](index_t r, index_t c) { y(r, c) += alpha * x(r, c); });
  }

  // The Hessian: what was seen, and its factor.
  template <class T>
  bool all_finite(view<T const> x) {
    bool finite = true;
    each(x, [&](index_t r, index_t c) { finite &= std::isfinite(gptq::to_float(x(r, c))); });
    return finite;
  }
  template <class T>
  void add_gram(view<T const> x, view<float> gram, bool fresh) {
    for (index_t r = 0; r < x.cols; ++r)
      for (index_t c = 0; c <= r; ++c) {
        double sum = 0;
        for (index_t t = 0; t < x.rows; ++t) sum += double(gptq::to_float(x(t, r))) * double(gptq::to_float(x(t, c)));
        gram(r, c) = static_cast<float>(fresh ? sum : gram(r, c) + sum);
      }
  }
  // A sum that waits for others is kept as a triangle: its elements row by row, in a matrix that has room for them.
  template <class F>
  static void each_of_triangle(index_t n, F&& f) {
    for (index_t r = 0, at = 0; r < n; ++r)
      for (index_t c = 0; c <= r; ++c, ++at) f(r, c, at / (n + 1), at % (n + 1));
  }
  void pack_lower(view<float const> gram, view<float> packed) {
    fill(packed, 0.0f);
    each_of_triangle(gram.rows, [&](index_t r, index_t c, index_t i, index_t j) { packed(i, j) = gram(r, c); });
  }
  void add_packed(view<float const> packed, view<float> gram) {
    each_of_triangle(gram.rows, [&](index_t r, index_t c, index_t i, index_t j) { gram(r, c) += packed(i, j); });
  }
  // H = V·Vᵀ, V upper triangular, from its last column to its first; f(j, i) holds V(i, j) until the pivots divide it.
  // Sums in double serve both precisions.
  bool factorize_hessian(view<float const> gram, view<std::int32_t const> order, double scale,
                         view<float const> diagonal, gptq::precision, view<float> f, view<float> pivots) {
    index_t const n = gram.rows;
    for (index_t j = n - 1; j >= 0; --j)
      for (index_t i = j; i >= 0; --i) {
        index_t const a = order(0, i), b = order(0, j);
        double s = i == j ? double(diagonal(0, j)) : scale * double(gram(std::max(a, b), std::min(a, b)));
        for (index_t k = j + 1; k < n; ++k) s -= double(f(k, i)) * double(f(k, j));
        if (i == j && !(s > 0 && std::isfinite(s))) return false;
        if (i == j) pivots(0, j) = static_cast<float>(std::sqrt(s));
        f(j, i) = static_cast<float>(s / double(pivots(0, j)));
      }
    each(f, [&](index_t j, index_t i) { f(j, i) = i > j ? 0 : i == j ? 1 : f(j, i) / pivots(0, j); });
    return true;
  }

  // The weights: grids, and the pass over the columns.
  template <class W>
  void gather_weights(view<W const> w, view<std::int32_t const> order, view<std::uint8_t const> live, view<float> out) {
    each(out,
         [&](index_t j, index_t n) { out(j, n) = live(0, order(0, j)) ? gptq::to_float(w(n, order(0, j))) : 0.0f; });
  }
  template <int Bits, bool Sym>
  void fit_grid(view<float const> x, gptq::grid_options const& options, view<float> scales, view<std::uint8_t> zeros) {
    int const candidates = options.mse > 0 ? static_cast<int>(options.mse_max_shrink * float(options.mse_steps)) : 1;
    for (index_t n = 0; n < x.cols; ++n) {
      float low = 0, high = 0;
      for (index_t r = 0; r < x.rows; ++r) low = std::min(low, x(r, n)), high = std::max(high, x(r, n));
      gptq::complete_range<Sym>(low, high, options);
      double least = INFINITY;
      for (int i = 0; i < candidates; ++i) {
        float const p = 1 - static_cast<float>(i) / static_cast<float>(options.mse_steps);
        auto const grid = gptq::range_grid<Bits, Sym>(p * low, p * high, options);
        double error = 0;
        for (index_t r = 0; r < x.rows; ++r)
          error += std::pow(std::abs(grid.scale * gptq::quantize_value<Bits>(x(r, n), grid) - x(r, n)), options.mse);
        if (error >= least) continue;
        least = error;
        scales(0, n) = grid.scale;
        zeros(0, n) = static_cast<std::uint8_t>(grid.zero);
      }
    }
  }
  template <int Bits, class B>
  void quantize_block(gptq::column_block<B> const& b) {
    for (index_t n = 0; n < b.weights.cols; ++n)
      for (index_t j = 0; j < b.weights.rows; ++j) {
        float w = b.weights(j, n) + b.correction(j, n);
        float pivot = 1, excess = 0;
        if (b.propagation.data) {  // else weights are rounded to nearest
          for (index_t i = 0; i < j; ++i) w += b.propagation(j, i) * b.weights(i, n);
          pivot = b.pivots(0, j);
          excess = b.excess(0, j);
        }
        index_t const g = b.groups(0, j);
        gptq::grid<float> const grid{b.scales(g, n), static_cast<float>(b.zeros(g, n))};
        float const steps = gptq::quantize_value<Bits>(w, grid), q = grid.scale * steps;
        b.codes(b.order(0, j), n) = static_cast<std::uint8_t>(steps + grid.zero);
        b.weights(j, n) -= q;
        b.losses(0, n) += std::pow(double(w - q) * double(pivot), 2);
        b.losses(1, n) += std::pow(double(excess) * double(b.weights(j, n)), 2);
      }
  }
  void multiply_add(float alpha, view<float const> a, gptq::transpose t, view<float const> x, view<float> y) {
    for (index_t r = 0; r < y.rows; ++r)
      for (index_t k = 0; k < x.rows; ++k) {
        float const factor = alpha * (t == gptq::transpose::yes ? a(k, r) : a(r, k));
        for (index_t c = 0; c < y.cols; ++c) y(r, c) += factor * x(k, c);
      }
  }
  void solve_unit_lower(view<float const> f, view<float> x) {
    for (index_t j = 0; j < x.rows; ++j)
      for (index_t i = 0; i < j; ++i)
        for (index_t n = 0; n < x.cols; ++n) x(j, n) -= f(j, i) * x(i, n);
  }
  void add_squares(view<float const> f, view<float const> x, view<float const> weights, view<double> sums) {
    each(x, [&](index_t j, index_t n) {
      double y = f.data ? 0 : double(x(j, n));  // (F·x)(j, n), F the identity where there is none
      for (index_t i = 0; f.data && i <= j; ++i) y += double(f(j, i)) * double(x(i, n));
      sums(0, n) += std::pow(double(weights(0, j)) * y, 2);
    });
  }

  // How to cut the work: here all outputs at once, and products after every 128 columns.
  template <class F>
  void for_each_tile(index_t outputs, F&& f) {
    f(index_t(0), outputs);
  }
  static constexpr index_t outer_block = 128;
};
static_assert(gptq::quantize_backend<plain_backend>);

gptq::matrix<float> random_matrix(index_t rows, index_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  gptq::matrix<float> m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

// The same lines for any backend whose memory is the host's.
template <class B>
auto quantize_with(B& backend, gptq::matrix<float> const& weight, gptq::matrix<float> const& inputs) {
  gptq::hessian hessian{backend, weight.cols()};
  hessian.add(inputs);
  return gptq::quantize<gptq::w4g128>(backend, weight, hessian);
}

}  // namespace

int main() {
  auto const weight = random_matrix(48, 256, 1), inputs = random_matrix(512, 256, 2);
  plain_backend plain;
  gptq::host_backend host;
  auto const ours = quantize_with(plain, weight, inputs);
  auto const theirs = quantize_with(host, weight, inputs);

  index_t differing = 0;
  view<std::uint8_t const> const a = ours.codes, b = theirs.codes;
  each(a, [&](index_t k, index_t n) { differing += a(k, n) != b(k, n); });
  std::printf("relative loss %.6f, host backend %.6f; %td of %td codes differ\n", ours.report.rel_loss,
              theirs.report.rel_loss, differing, a.size());
  // Sums in another order may turn a tie, and what follows it in that row.
  bool const same_loss = std::abs(ours.report.rel_loss - theirs.report.rel_loss) < 1e-3 * theirs.report.rel_loss;
  return same_loss && differing * 100 < a.size() ? 0 : 1;
}
