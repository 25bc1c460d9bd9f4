// A pipeline of one's own against the public headers: a Hessian from another source, an order of columns by another
// rule, grids by another policy. The solver, the packing and the reports are the library's.
#include <gptq/backend/host.hpp>
#include <gptq/gptq.hpp>
#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/pack.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

namespace {

using gptq::index_t;

// Grid policy: a range of so many standard deviations, no wider than the values. A backend asks for grids by one verb,
// so a policy is a backend that has this one of its own; the rest stays as it was.
struct deviation_grids : gptq::host_backend {
  double deviations = 3;

  // One group for all outputs: values [group size × out] → scales and zeros [1 × out].
  template <int Bits, bool Sym>
  void fit_grid(gptq::matrix_view<float const> values, gptq::grid_options const& options,
                gptq::matrix_view<float> scales, gptq::matrix_view<std::uint8_t> zeros) {
    for (index_t n = 0; n < values.cols; ++n) {
      double squares = 0;
      float low = 0, high = 0;
      for (index_t k = 0; k < values.rows; ++k) {
        squares += std::pow(double(values(k, n)), 2);
        low = std::min(low, values(k, n));
        high = std::max(high, values(k, n));
      }
      auto const reach = static_cast<float>(deviations * std::sqrt(squares / static_cast<double>(values.rows)));
      low = std::max(low, -reach);
      high = std::min(high, reach);
      gptq::complete_range<Sym>(low, high, options);
      auto const grid = gptq::range_grid<Bits, Sym>(low, high, options);
      scales(0, n) = grid.scale;
      zeros(0, n) = static_cast<std::uint8_t>(grid.zero);
    }
  }
};
static_assert(gptq::quantize_backend<deviation_grids>);

// Hessian source: any sum of weighted outer products. Here late tokens count for more than early ones; it could as well
// be read from a file. The lower triangle is what counts.
template <class B>
gptq::hessian<B> weighted_hessian(B& backend, gptq::matrix<float> const& x) {
  gptq::hessian<B> h{backend, x.cols()};
  auto& gram = h.gram();
  for (index_t t = 0; t < x.rows(); ++t) {
    float const weight = 0.5f + static_cast<float>(t) / static_cast<float>(x.rows());
    for (index_t i = 0; i < x.cols(); ++i)
      for (index_t j = 0; j <= i; ++j) gram(i, j) += weight * x(t, i) * x(t, j);
  }
  h.set_counts(x.rows(), 1);  // tokens and sequences behind the sum
  return h;
}

// Order: by what rounding a column would cost, its energy times the weights' squares; position → stored column.
std::vector<std::int32_t> costly_first(std::vector<double> const& energy, gptq::matrix<float> const& weight) {
  std::vector<double> cost = energy;
  for (index_t k = 0; k < weight.cols(); ++k) {
    double squares = 0;
    for (index_t n = 0; n < weight.rows(); ++n) squares += std::pow(double(weight(n, k)), 2);
    cost[static_cast<std::size_t>(k)] *= squares;
  }
  std::vector<std::int32_t> order(cost.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return cost[static_cast<std::size_t>(a)] > cost[static_cast<std::size_t>(b)];
  });
  return order;
}

gptq::matrix<float> random_matrix(index_t rows, index_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  gptq::matrix<float> m(rows, cols);
  for (index_t r = 0; r < rows; ++r)
    for (index_t c = 0; c < cols; ++c) m(r, c) = normal(random) * (c % 7 == 0 ? 3.0f : 1.0f);  // some inputs are louder
  return m;
}

}  // namespace

int main() {
  auto const weight = random_matrix(64, 256, 1), inputs = random_matrix(512, 256, 2);  // [out × in], [tokens × in]

  // [snippet
  deviation_grids backend;
  auto const hessian = weighted_hessian(backend, inputs);
  auto const order = costly_first(gptq::diagonal(backend, hessian), weight);
  // Groups that follow an order of one's own are scattered over the stored columns: desc_act says so in the file.
  gptq::quant_spec const spec{.bits = 4, .group_size = 64, .order = gptq::column_order::desc_act};
  auto const solved = gptq::quantize_stack(backend, weight.view(), hessian, spec, {}, order);
  auto const packed = gptq::pack(solved.linear, gptq::checkpoint_format::gptq);
  // ]snippet

  auto const& report = solved.linear.report;
  std::printf("%s: relative loss %.5f, rounding to nearest %.5f\n", to_string(report.status), report.rel_loss,
              report.rel_loss_rtn);
  auto const first = static_cast<std::size_t>(order.front()), last = static_cast<std::size_t>(order.back());
  bool const own_order = packed.g_idx[first] == 0 && packed.g_idx[last] == 3;
  auto const library = [&] {  // the same with the library's grids
    gptq::host_backend plain;
    return gptq::quantize_stack(plain, weight.view(), weighted_hessian(plain, inputs), spec, {}, order);
  }();
  bool const own_grids =
      gptq::view(packed).groups == 4 && packed.scales(0, 0) != gptq::to_float16(library.linear.scales(0, 0));
  return report.rel_loss < report.rel_loss_rtn && own_order && own_grids ? 0 : 1;
}
