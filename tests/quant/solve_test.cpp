/// The whole solve against the oracle, for every width, grouping, order and kind of grid.
#include "support/backend_under_test.hpp"
#include "support/catch.hpp"
#include "support/compare_codes.hpp"
#include "support/synthetic.hpp"

#include <tuple>

namespace {

using gptq::column_order;
using gptq::index_t;
using gptq::quant_spec;

/// Runs both on the same H and the same order; returns ours on the host.
struct run {
  gptq::quantized_linear linear;
  std::vector<gptq::output_loss> losses;
  test::oracle_result oracle;
  test::table h, w;
};

template <class B>
run solve_both(test::layer const& l, quant_spec const& spec, gptq::quantize_options const& options) {
  B b;
  gptq::hessian<B> h(b, l.x.cols());
  auto const x = test::to_backend(b, l.x);
  h.add(x);
  auto const w = test::to_backend(b, l.w);
  auto const f = gptq::factorize(b, h, spec, options);
  gptq::view_of<B, float const> const view = w;
  auto solved = gptq::quantize_stack(b, view, f, spec, options);
  run r;
  r.linear.spec = spec.format();
  r.linear.codes = test::to_host<std::uint8_t>(b, solved.linear.codes);
  r.linear.scales = test::to_host<float>(b, solved.linear.scales);
  r.linear.zeros = test::to_host<std::uint8_t>(b, solved.linear.zeros);
  r.linear.g_idx = solved.linear.g_idx;
  r.linear.report = solved.linear.report;
  r.losses = solved.losses;
  r.h = test::scaled(l.gram, options.reference_dead ? 2.0 : 2.0 / static_cast<double>(l.x.rows()));
  r.w = test::as_table(l.w);
  r.oracle = test::solve(r.h, r.w, spec, options, f.host_order);
  return r;
}

/// The loss of our codes, measured by the oracle's means.
double error_of(run const& r) {
  test::table q = r.w;
  for (std::size_t n = 0; n < q.size(); ++n)
    for (std::size_t k = 0; k < q[n].size(); ++k) {
      auto const row = static_cast<index_t>(n);
      auto const g = static_cast<index_t>(r.linear.g_idx[k]);
      q[n][k] = static_cast<double>(r.linear.scales(g, row)) *
                (static_cast<double>(r.linear.codes(static_cast<index_t>(k), row)) -
                 static_cast<double>(r.linear.zeros(g, row)));
    }
  return test::output_error(r.w, q, r.h);
}

template <class B>
void check(test::layer const& l, quant_spec const& spec, gptq::quantize_options const& options) {
  using scalar = typename B::scalar;
  CAPTURE(spec.bits, spec.group_size, spec.sym, static_cast<int>(spec.order), spec.static_groups, options.grid.mse);
  run const r = solve_both<B>(l, spec, options);
  REQUIRE(r.linear.report.status == gptq::outcome::ok);
  CHECK(r.linear.g_idx == r.oracle.g_idx);
  auto const c = test::compare_codes<scalar>(r.linear, r.oracle, options.grid.mse > 0);
  CHECK(c.unexplained == 0);
  CHECK(c.acceptable(test::tolerance<scalar>::differing_rows));
  double const theirs = test::output_error(r.w, r.oracle.values, r.h);
  double const other_ways = static_cast<double>(c.differing_outputs) / static_cast<double>(c.outputs);
  CHECK(error_of(r) <=
        theirs * (1 + test::tolerance<scalar>::objective + other_ways * test::tolerance<scalar>::objective_after_tie) +
            1e-12);
  // What the report says is what an independent product says.
  double energy = test::output_error(r.w, test::zeros(r.w.size(), r.h.size()), r.h);
  if (r.linear.report.dead_inputs == 0)
    CHECK_THAT(r.linear.report.rel_loss, Catch::Matchers::WithinRel(error_of(r) / energy, 1e-3));
}

template <class B>
void check_all(test::layer const& l) {
  for (int bits : {2, 3, 4, 8})
    for (bool sym : {true, false}) {
      gptq::quantize_options minmax{.grid = {.mse = 0}};
      check<B>(l, {.bits = bits, .group_size = 128, .sym = sym}, minmax);
      check<B>(l, {.bits = bits, .group_size = 32, .sym = sym}, minmax);
      check<B>(l, {.bits = bits, .group_size = -1, .sym = sym}, minmax);
      check<B>(l, {.bits = bits, .group_size = 64, .sym = sym, .order = column_order::group_aware}, {});
      check<B>(l, {.bits = bits, .group_size = 16, .sym = sym, .order = column_order::desc_act}, minmax);
      check<B>(l, {.bits = bits, .group_size = 64, .sym = sym, .order = column_order::desc_act, .static_groups = true},
               {});
    }
}

}  // namespace

TEST_CASE("solve: codes follow the oracle for every spec") {
  check_all<test::backend>(test::make_layer(24, 256, 700, 1));
}

TEST_CASE("solve: ragged blocks, ragged groups, few outputs") {
  gptq::quantize_options const minmax{.grid = {.mse = 0}};
  for (auto [out, in] :
       {std::pair{5, 172}, std::pair{1, 100}, std::pair{37, 300}, std::pair{65, 40}, std::pair{3, 16}}) {
    auto const l = test::make_layer(out, in, 3 * in, 7);
    CAPTURE(out, in);
    for (int g : {-1, 16, 128})
      for (auto order : {column_order::natural, column_order::desc_act, column_order::group_aware}) {
        check<test::backend>(l, {.bits = 4, .group_size = g, .order = order}, minmax);
        check<test::backend>(l, {.bits = 3, .group_size = g, .sym = false, .order = order}, minmax);
      }
  }
}

TEST_CASE("solve: groups wider than a block") {
  auto const l = test::make_layer(9, 560, 1200, 11);
  for (int g : {256, 384, 512})
    for (auto order : {column_order::natural, column_order::desc_act, column_order::group_aware})
      check<test::backend>(l, {.bits = 3, .group_size = g, .order = order}, {});
}

TEST_CASE("solve: many columns, so that several large products take part") {
  auto const l = test::make_layer(20, 650, 1300, 5);
  check<test::backend>(l, {.bits = 4, .group_size = 128, .order = column_order::group_aware}, {});
  check<test::backend>(l, {.bits = 4, .group_size = 64}, {.grid = {.mse = 0}});
}

TEST_CASE("solve: dead inputs, by the default rule and by the reference's") {
  auto const l = test::make_layer(16, 192, 800, 3, 11);
  gptq::quantize_options reference = gptq::parity_preset.options;
  for (auto order : {column_order::natural, column_order::desc_act, column_order::group_aware}) {
    check<test::backend>(l, {.bits = 4, .group_size = 64, .order = order}, {});
    check<test::backend>(l, {.bits = 4, .group_size = 64, .sym = false, .order = order}, reference);
    check<test::backend>(l, {.bits = 4, .group_size = -1, .sym = false, .order = order}, reference);
  }
}

TEST_CASE("solve: the reference's half range of groups without negative weights") {
  auto l = test::make_layer(8, 128, 400, 21);
  for (index_t k = 0; k < 64; ++k) l.w(2, k) = std::abs(l.w(2, k));
  for (index_t k = 0; k < 128; ++k) l.w(3, k) = 0;
  gptq::quantize_options options{.grid = {.mse = 0, .reference_range = true}};
  check<test::backend>(l, {.bits = 4, .group_size = 64}, options);
  check<test::backend>(l, {.bits = 4, .group_size = 64}, {.grid = {.mse = 0}});
}

TEST_CASE("solve: zero points are never 0 where version-1 files are asked for") {
  auto l = test::make_layer(16, 128, 400, 23);
  for (index_t i = 0; i < l.w.size(); ++i) l.w.data()[i] = std::abs(l.w.data()[i]);
  quant_spec const spec{.bits = 4, .group_size = 32, .sym = false};
  run const plain = solve_both<test::backend>(l, spec, {.grid = {.mse = 0}});
  run const safe = solve_both<test::backend>(l, spec, {.grid = {.mse = 0, .nonzero_zeros = true}});
  auto const least = [](run const& r) {
    return *std::min_element(r.linear.zeros.data(), r.linear.zeros.data() + r.linear.zeros.size());
  };
  CHECK(least(plain) == 0);
  CHECK(least(safe) == 1);
  check<test::backend>(l, spec, {.grid = {.mse = 0, .nonzero_zeros = true}});
}

#if !defined(__CUDACC__)
TEST_CASE("solve: in double, not one code differs from the oracle") {
  using fp64 = gptq::basic_host_backend<double>;
  auto const l = test::make_layer(12, 272, 600, 17);
  for (int bits : {2, 3, 4, 8})
    for (int g : {32, 128, 256, -1})
      for (auto order : {column_order::natural, column_order::desc_act, column_order::group_aware})
        for (float mse : {0.0f, 2.4f})
          for (bool sym : {true, false}) {
            if (mse > 0 && g != 128) continue;
            CAPTURE(bits, g, static_cast<int>(order), mse, sym);
            run const r = solve_both<fp64>(l, {.bits = bits, .group_size = g, .sym = sym, .order = order},
                                           {.grid = {.mse = mse}});
            CHECK(test::compare_codes<double>(r.linear, r.oracle, false).differing_outputs == 0);
            CHECK_THAT(r.linear.report.damped_loss, Catch::Matchers::WithinRel(r.oracle.damped_loss, 1e-9));
          }
}
#endif
