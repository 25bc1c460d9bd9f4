/// The algorithm on a backend that offers nothing but the concept; and broken twins of it that the comparison must
/// catch.
#include "support/archetype.hpp"
#include "support/catch.hpp"
#include "support/compare_codes.hpp"
#include "support/refining_archetype.hpp"
#include "support/synthetic.hpp"

#include <gptq/backend/host.hpp>
#include <gptq/gptq.hpp>

#include <cmath>

namespace {

using gptq::index_t;

template <class B>
test::code_comparison compare(test::layer const& l, gptq::quant_spec const& spec,
                              gptq::quantize_options const& options) {
  B b;
  gptq::hessian<B> h(b, l.x.cols());
  h.add(l.x.view());
  auto const f = gptq::factorize(b, h, spec, options);
  auto const solved = gptq::quantize_stack(b, l.w.view(), f, spec, options);
  gptq::quantized_linear ours;
  auto const to_host = [&]<class T>(test::archetype_matrix<T> const& m) {
    gptq::matrix<T> result(m.rows(), m.cols());
    b.download(gptq::matrix_view<T const>(m), result.view());
    return result;
  };
  ours.codes = to_host(solved.linear.codes);
  ours.scales = to_host(solved.linear.scales);
  ours.zeros = to_host(solved.linear.zeros);
  auto const h0 = test::scaled(l.gram, 2.0 / static_cast<double>(l.x.rows()));
  return test::compare_codes<double>(ours, test::solve(h0, test::as_table(l.w), spec, options, f.host_order), false);
}

// Each twin has one error of the kind that creeps in: the comparison has to notice every one.
struct scale_too_large : test::archetype {
  template <int Bits, bool Sym>
  void fit_grid(view<double const> x, gptq::grid_options const& o, view<double> scales, view<std::uint8_t> zeros) {
    archetype::fit_grid<Bits, Sym>(x, o, scales, zeros);
    for (index_t n = 0; n < x.cols; ++n) scales(0, n) *= 1.05;
  }
};
struct wrong_zero : test::archetype {
  template <int Bits, bool Sym>
  void fit_grid(view<double const> x, gptq::grid_options const& o, view<double> scales, view<std::uint8_t> zeros) {
    archetype::fit_grid<Bits, Sym>(x, o, scales, zeros);
    for (index_t n = 0; n < x.cols; ++n) zeros(0, n) = static_cast<std::uint8_t>(zeros(0, n) - 1);
  }
};
struct transposed_hessian : test::archetype {  // the factor of the matrix in the other order
  bool factorize_hessian(view<double const> gram, view<std::int32_t const> order, double scale,
                         view<double const> diagonal, gptq::precision p, view<double> f, view<double> pivots) {
    bool const done = archetype::factorize_hessian(gram, order, scale, diagonal, p, f, pivots);
    index_t const n = f.rows;
    for (index_t r = 0; r < n; ++r)
      for (index_t c = 0; c < r; ++c)
        if (r + c < n - 1) std::swap(f(r, c), f(n - 1 - c, n - 1 - r));
    return done;
  }
};
struct propagation_off_by_one : test::archetype {
  bool factorize_hessian(view<double const> gram, view<std::int32_t const> order, double scale,
                         view<double const> diagonal, gptq::precision p, view<double> f, view<double> pivots) {
    bool const done = archetype::factorize_hessian(gram, order, scale, diagonal, p, f, pivots);
    for (index_t r = 1; r < f.rows; ++r)
      for (index_t c = 0; c + 1 < r; ++c) f(r, c) = f(r, c + 1);
    return done;
  }
};
struct no_propagation_between_blocks : test::archetype {
  void multiply_add(double, view<double const>, gptq::transpose, view<double const>, view<double>) {}
};
struct stale_grid : test::archetype {  // grids of the untouched weights
  void solve_unit_lower(view<double const>, view<double> x) { fill(x, 0.0); }
};

TEMPLATE_TEST_CASE("archetype: every spec, code by code as the oracle", "", test::archetype) {
  auto const l = test::make_layer(6, 150, 400, 31);
  for (int bits : {2, 3, 4, 8})
    for (auto order : {gptq::column_order::natural, gptq::column_order::desc_act, gptq::column_order::group_aware})
      for (bool sym : {true, false})
        for (int g : {-1, 32, 128}) {
          CAPTURE(bits, static_cast<int>(order), sym, g);
          auto const c = compare<TestType>(l, {.bits = bits, .group_size = g, .sym = sym, .order = order}, {});
          CHECK(c.differing_outputs == 0);
        }
}

TEMPLATE_TEST_CASE("mutants: each broken twin is told from the oracle", "", scale_too_large, wrong_zero,
                   transposed_hessian, propagation_off_by_one, no_propagation_between_blocks, stale_grid) {
  auto const l = test::make_layer(6, 300, 700, 31);
  auto const c = compare<TestType>(l, {.bits = 4, .group_size = 128}, {});
  CHECK_FALSE(c.acceptable(test::tolerance<double>::differing_rows));
}

/// One that says what it can't do: the solver refuses to compile on it.
struct boaster : test::archetype {
  static constexpr bool refines = true;
  static constexpr index_t fused_columns = 128;
};
static_assert(gptq::refining_backend<boaster> && !gptq::refines_as_promised<boaster>);
static_assert(gptq::fusing_backend<boaster> && !gptq::fuses_as_promised<boaster>);

/// A solve with everything on; the inputs of the float model are others.
template <class B>
gptq::quantized_stack<B> refined(B& b, test::layer const& l, gptq::quant_spec const& spec) {
  gptq::matrix<float> x_float(l.x.rows(), l.x.cols());
  for (index_t t = 0; t < x_float.rows(); ++t)
    for (index_t k = 0; k < x_float.cols(); ++k) x_float(t, k) = 0.9f * l.x(t, k) + 0.1f * l.x(t, (k + 1) % l.x.cols());
  gptq::hessian<B> h(b, l.x.cols());
  h.add(l.x.view());
  gptq::asymmetric_sums<B> sums(b, l.x.cols(), l.w.rows(), l.x.rows());
  gptq::matrix_view<float const> const x = l.x, x_f = x_float;
  sums.add(x, x_f);
  sums.add_residual(x, x.col_range(0, l.w.rows()), x_f.col_range(0, l.w.rows()));
  gptq::solve_problem<B, float> const problem{.weight = l.w.view(), .hessian = &h, .asymmetric = &sums};
  return gptq::quantize_stack(b, problem,
                              {.spec = spec,
                               .options = {.reestimations = 1, .descent_passes = 2},
                               .asymmetric = {.target = 1, .residual = 0.5}});
}

TEST_CASE("archetype: memory that nobody has written is poisoned") {
  test::archetype b;
  auto const numbers = b.make<double>(2, 2);
  auto const indices = b.make<std::int32_t>(2, 2);
  CHECK(std::isnan(gptq::matrix_view<double const>(numbers)(1, 1)));
  CHECK(gptq::matrix_view<std::int32_t const>(indices)(1, 1) == 0x5a5a5a5a);
}

TEST_CASE("archetype: asymmetric calibration and refinement lean on nothing but the refining verbs") {
  auto const l = test::make_layer(6, 150, 400, 31);
  for (gptq::quant_spec const& spec :
       {gptq::quant_spec{.bits = 3, .group_size = 32, .order = gptq::column_order::group_aware},
        {.bits = 4, .group_size = -1},
        {.bits = 4, .group_size = 64, .sym = false, .order = gptq::column_order::desc_act, .static_groups = true}}) {
    test::refining_archetype b;
    gptq::basic_host_backend<double> host;
    auto const ours = refined(b, l, spec);
    auto const theirs = refined(host, l, spec);
    gptq::matrix_view<std::uint8_t const> const a = ours.linear.codes, c = theirs.linear.codes;
    index_t differing = 0;
    for (index_t k = 0; k < a.rows; ++k)
      for (index_t n = 0; n < a.cols; ++n) differing += a(k, n) != c(k, n);
    CHECK(differing == 0);
    using Catch::Matchers::WithinRel;
    CHECK_THAT(ours.linear.report.rel_loss, WithinRel(theirs.linear.report.rel_loss, 1e-6));
    CHECK_THAT(ours.linear.report.refined_loss, WithinRel(theirs.linear.report.refined_loss, 1e-6));
    CHECK_THAT(ours.linear.report.float_loss, WithinRel(theirs.linear.report.float_loss, 1e-6));
    CHECK(ours.linear.report.refined_loss < ours.linear.report.pass_loss);
  }
}

}  // namespace
