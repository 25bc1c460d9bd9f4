/// Factors, the Hessian accumulator, orders and the failure ladder.
#include "support/backend_under_test.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"
#include "support/tolerance.hpp"

#include <limits>

namespace {

using backend = test::backend;
using scalar = backend::scalar;
using gptq::index_t;
using gptq::outcome;

/// A Hessian whose Gram matrix is given, symmetric, [in × in].
gptq::hessian<backend> hessian_of(backend& b, test::table const& gram, index_t tokens) {
  auto const in = static_cast<index_t>(gram.size());
  gptq::hessian<backend> h(b, in);
  gptq::matrix<scalar> m(in, in);
  for (index_t r = 0; r < in; ++r)
    for (index_t c = 0; c < in; ++c)
      m(r, c) = static_cast<scalar>(gram[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)]);
  b.upload(gptq::matrix_view<scalar const>(m), h.gram());
  h.set_counts(tokens, 1);
  return h;
}

double relative_difference(test::table const& a, test::table const& b) {
  double difference = 0, norm = 0;
  for (std::size_t r = 0; r < a.size(); ++r)
    for (std::size_t c = 0; c < a.size(); ++c) {
      difference += (a[r][c] - b[r][c]) * (a[r][c] - b[r][c]);
      norm += b[r][c] * b[r][c];
    }
  return std::sqrt(difference / norm);
}

test::table damped(test::layer const& l, double damp) {
  auto h = test::scaled(l.gram, 2.0 / static_cast<double>(l.x.rows()));
  double mean = 0;
  for (std::size_t i = 0; i < h.size(); ++i) mean += h[i][i] / static_cast<double>(h.size());
  for (std::size_t i = 0; i < h.size(); ++i) h[i][i] += damp * mean;
  return h;
}

}  // namespace

TEMPLATE_TEST_CASE("hessian: the Gram matrix of every input type, in batches of any size", "", float, gptq::float16,
                   gptq::bfloat16) {
  backend b;
  for (index_t in : {1, 7, 130, 300}) {
    auto l = test::make_layer(1, in, 501, 41);
    gptq::matrix<TestType> narrow(l.x.rows(), in);
    for (index_t i = 0; i < l.x.size(); ++i) {
      narrow.data()[i] = gptq::from_float<TestType>(l.x.data()[i]);
      l.x.data()[i] = gptq::to_float(narrow.data()[i]);
    }
    auto const x = test::to_backend(b, narrow);
    gptq::view_of<backend, TestType const> const all = x;
    gptq::hessian<backend> h(b, in);
    h.add(all.row_range(0, 1));
    h.add(all.row_range(1, 0));
    h.add(all.row_range(1, 500), 3);
    CHECK(h.tokens() == 501);
    CHECK(h.sequences() == 4);
    auto const ours = test::to_host<scalar>(b, h.gram());
    auto const exact = test::exact_gram(l.x.view());
    double difference = 0, norm = 0;
    for (index_t r = 0; r < in; ++r)
      for (index_t c = 0; c <= r; ++c) {
        double const e = exact[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)];
        difference += std::pow(static_cast<double>(ours(r, c)) - e, 2);
        norm += e * e;
      }
    CHECK(std::sqrt(difference / norm) <= test::tolerance<scalar>::gram(501));
  }
}

TEST_CASE("hessian: batches with NaN or Inf are refused by number, or dropped and counted") {
  backend b;
  auto l = test::make_layer(4, 32, 64, 1);
  auto const good = test::to_backend(b, l.x);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    l.x(63, 31) = bad;
    auto const poisoned = test::to_backend(b, l.x);
    gptq::hessian<backend> strict(b, 32);
    strict.add(good);
    CHECK_THROWS_WITH(strict.add(poisoned), test::contains("batch 1"));
    CHECK(strict.tokens() == 64);
    gptq::hessian<backend> lenient(b, 32, gptq::hessian<backend>::non_finite::drop);
    lenient.add(poisoned);
    lenient.add(good);
    CHECK(lenient.dropped_batches() == 1);
    CHECK(lenient.tokens() == 64);
    auto const w = test::to_backend(b, l.w);
    gptq::view_of<backend, float const> const view = w;
    CHECK(gptq::quantize_stack(b, view, lenient, gptq::w4g128).linear.report.dropped_chunks == 1);
  }
  gptq::hessian<backend> h(b, 31);
  CHECK_THROWS_AS(h.add(good), gptq::shape_error);
}

TEST_CASE("factor: V·Vᵀ is the damped Hessian, and its inverse the published factor") {
  backend b;
  for (index_t in : {1, 2, 100, 128, 129, 400}) {
    auto const l = test::make_layer(1, in, 2 * in + 10, 43);
    gptq::hessian<backend> h(b, in);
    auto const x = test::to_backend(b, l.x);
    h.add(x);
    auto const f = gptq::factorize(b, h, {.group_size = -1}, {.damp_percent = 0.01});
    REQUIRE(f.report.status == outcome::ok);
    auto const propagation = test::to_host<scalar>(b, f.propagation);
    auto const pivots = test::to_host<scalar>(b, f.pivots);
    auto const n = static_cast<std::size_t>(in);
    test::table v = test::zeros(n, n), product = test::zeros(n, n);
    for (index_t j = 0; j < in; ++j)
      for (index_t i = 0; i < in; ++i) {
        CHECK((i <= j || propagation(j, i) == 0));
        v[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] =
            static_cast<double>(propagation(j, i)) * static_cast<double>(pivots(0, j));
      }
    for (std::size_t r = 0; r < n; ++r)
      for (std::size_t c = 0; c < n; ++c)
        for (std::size_t k = (std::max)(r, c); k < n; ++k) product[r][c] += v[r][k] * v[c][k];
    auto const expected = damped(l, 0.01);
    CHECK(relative_difference(product, expected) <= test::tolerance<scalar>::factor(n));

    auto const u = test::to_host<scalar>(b, gptq::cholesky_inverse(b, f));
    test::table ours = test::zeros(n, n);
    for (index_t r = 0; r < in; ++r)
      for (index_t c = 0; c < in; ++c)
        ours[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)] = static_cast<double>(u(r, c));
    // U inherits the condition of H: a thousand times the rounding of one product is still a thousandth of its size.
    CHECK(relative_difference(ours, test::inverse_factor(expected)) <= 1e3 * test::tolerance<scalar>::factor(n));
  }
}

TEST_CASE("order: falling diagonal, whole groups, ties and dead inputs by stored position") {
  using gptq::column_order;
  std::vector<double> const d{1, 5, 5, -1, 9, 2, 7, 3, 100};
  using order = std::vector<std::int32_t>;
  CHECK(gptq::processing_order({.order = column_order::natural}, d) == order{0, 1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(gptq::processing_order({.order = column_order::desc_act}, d) == order{8, 4, 6, 1, 2, 7, 5, 0, 3});
  gptq::quant_spec four{.group_size = 4, .order = column_order::group_aware};  // sizes below 16 only for this test
  CHECK(gptq::processing_order(four, d) == order{4, 6, 7, 5, 1, 2, 0, 3, 8});
  four.order = column_order::desc_act;
  CHECK(gptq::group_index(four, order{8, 4, 6, 1, 2, 7, 5, 0, 3}) == order{1, 0, 1, 2, 0, 1, 0, 1, 0});
  four.static_groups = true;
  CHECK(gptq::group_index(four, order{8, 4, 6, 1, 2, 7, 5, 0, 3}) == order{0, 0, 0, 0, 1, 1, 1, 1, 2});
}

TEST_CASE("order: one that is given must be a permutation, and a layer must have inputs") {
  backend b;
  gptq::hessian<backend> const h(b, 4);
  auto const factorize = [&](std::vector<std::int32_t> const& order) {
    return gptq::factorize(b, h, {.bits = 4, .group_size = -1}, {}, gptq::precision::native, order).host_order;
  };
  CHECK(factorize({3, 1, 0, 2}) == std::vector<std::int32_t>{3, 1, 0, 2});
  CHECK_THROWS_WITH(factorize({0, 1, 2, 2}), test::contains("no permutation: 2 is there twice"));
  CHECK_THROWS_WITH(factorize({0, 1, 2, 4}), test::contains("no permutation: 4 is no input"));
  CHECK_THROWS_WITH(factorize({0, 1, -2, 3}), test::contains("no permutation: -2 is no input"));
  CHECK_THROWS_AS(factorize({0, 1, 2}), gptq::shape_error);
  CHECK_THROWS_AS(gptq::hessian<backend>(b, 0), gptq::shape_error);
}

TEST_CASE("ladder: each repair is in the report") {
  backend b;
  auto const l = test::make_layer(8, 64, 300, 3);
  auto const w = test::to_backend(b, l.w);
  gptq::view_of<backend, float const> const view = w;
  gptq::quant_spec const spec{.group_size = 32};

  SECTION("no token: rounded to nearest") {
    gptq::hessian<backend> h(b, 64);
    auto const r = gptq::quantize_stack(b, view, h, spec).linear.report;
    CHECK(r.status == outcome::rtn_no_data);
    CHECK(gptq::is_fallback(r.status));
    CHECK(r.rel_loss < 0);
  }
  SECTION("only zeros: the same, and weights are not cleared") {
    gptq::hessian<backend> h(b, 64);
    gptq::matrix<float> nothing(3, 64);
    std::fill_n(nothing.data(), nothing.size(), 0.0f);
    h.add(test::to_backend(b, nothing));
    auto const q = gptq::quantize_stack(b, view, h, spec).linear;
    CHECK(q.report.status == outcome::rtn_no_data);
    auto const codes = test::to_host<std::uint8_t>(b, q.codes);
    CHECK(std::count(codes.data(), codes.data() + codes.size(), 8) < codes.size() / 2);
  }
  SECTION("fewer tokens than inputs: solved, with a warning") {
    gptq::hessian<backend> h(b, 64);
    auto const x = test::to_backend(b, l.x);
    h.add(gptq::view_of<backend, float const>(x).row_range(0, 20));
    auto const r = gptq::quantize_stack(b, view, h, spec).linear.report;
    CHECK(r.status == outcome::few_tokens);
    CHECK_FALSE(gptq::is_fallback(r.status));
    CHECK(r.detail.find("20 tokens") != std::string::npos);
    CHECK(r.rel_loss >= 0);
  }
  SECTION("a matrix at the edge of the precision: the factor in fp64") {
    test::table g = test::zeros(64, 64);
    for (std::size_t i = 0; i < 64; ++i)
      for (std::size_t j = 0; j < 64; ++j) g[i][j] = i == j ? 1.0 + 4e-7 : 1.0;
    auto h = hessian_of(b, g, 100);
    auto const r = gptq::factorize(b, h, spec, {.damp_percent = 0}).report;
    CHECK(r.status <= outcome::damp_raised);
    CHECK(r.factor_fp64 == (r.status >= outcome::factor_fp64));  // a backend may get through in its own precision
  }
#if !defined(__CUDACC__)
  SECTION("a factorization that fails in the backend's own precision: the factor in fp64") {
    struct stubborn : backend {  // what rounding would do, without leaning on how some machine rounds
      bool factorize_hessian(gptq::matrix_view<float const> gram, gptq::matrix_view<std::int32_t const> order,
                             double scale, gptq::matrix_view<float const> diagonal, gptq::precision p,
                             gptq::matrix_view<float> f, gptq::matrix_view<float> pivots) {
        return p == gptq::precision::fp64 && backend::factorize_hessian(gram, order, scale, diagonal, p, f, pivots);
      }
    } s;
    gptq::hessian<stubborn> h(s, 64);
    h.add(l.x);
    auto const q = gptq::quantize_stack(s, l.w.view(), h, spec).linear.report;
    CHECK(q.status == outcome::factor_fp64);
    CHECK(q.factor_fp64);
    CHECK(q.damp_used == q.damp_asked);
    CHECK(q.rel_loss < q.rel_loss_rtn);
  }
#endif
  SECTION("slightly indefinite: more damping") {
    test::table g = test::zeros(64, 64);
    for (std::size_t i = 0; i < 64; ++i)
      for (std::size_t j = 0; j < 64; ++j) g[i][j] = i == j ? 1.0 : 1.04;
    auto h = hessian_of(b, g, 100);
    auto const f = gptq::factorize(b, h, spec, {});
    CHECK(f.report.status == outcome::damp_raised);
    CHECK(f.report.damp_used > 0.035);
    CHECK(f.report.damp_used < 0.065);
    auto const q = gptq::quantize_stack(b, view, f, spec).linear.report;
    CHECK(q.status == outcome::damp_raised);
  }
  SECTION("far from definite: no factor, rounded to nearest") {
    test::table g = test::zeros(64, 64);
    for (std::size_t i = 0; i < 64; ++i)
      for (std::size_t j = 0; j < 64; ++j) g[i][j] = i == j ? 1.0 : -3.0;
    auto h = hessian_of(b, g, 100);
    auto const q = gptq::quantize_stack(b, view, h, spec).linear;
    CHECK(q.report.status == outcome::rtn_not_pd);
    CHECK(q.report.detail.find("diagonal") != std::string::npos);
    auto const codes = test::to_host<std::uint8_t>(b, q.codes);
    auto const scales = test::to_host<float>(b, q.scales);
    for (index_t k = 0; k < 64; ++k)  // each weight within half a step or at the end of the range
      for (index_t n = 0; n < 8; ++n) {
        float const s = scales(k / 32, n);
        float const value = s * (static_cast<float>(codes(k, n)) - 8.0f);
        bool const at_end = codes(k, n) == 0 || codes(k, n) == 15;
        CHECK((at_end || std::abs(value - l.w(n, k)) <= 0.5001f * s));
      }
  }
  SECTION("a negative diagonal: the diagonal is lifted, or no factor") {
    test::table g = test::zeros(64, 64);
    for (std::size_t i = 0; i < 64; ++i) g[i][i] = i == 5 ? -0.5 : 1.0;
    auto h = hessian_of(b, g, 100);
    CHECK(gptq::factorize(b, h, spec, {}).report.status >= outcome::damp_raised);
  }
  SECTION("NaN in a Hessian from elsewhere") {
    test::table g = test::zeros(64, 64);
    for (std::size_t i = 0; i < 64; ++i) g[i][i] = i == 5 ? std::nan("") : 1.0;
    auto h = hessian_of(b, g, 100);
    CHECK_THROWS_AS(gptq::factorize(b, h, spec, {}), gptq::numeric_error);
  }
}

TEST_CASE("quantize: weights that can't be quantized are refused; scales too small are lifted and counted") {
  backend b;
  auto l = test::make_layer(8, 64, 300, 3);
  gptq::hessian<backend> h(b, 64);
  h.add(test::to_backend(b, l.x));
  auto const status = [&](gptq::quantize_options const& o = {}) {
    auto const w = test::to_backend(b, l.w);
    gptq::view_of<backend, float const> const view = w;
    return gptq::quantize_stack(b, view, h, {.group_size = 32}, o).linear.report;
  };
  CHECK(status().scale_underflows == 0);
  SECTION("NaN") {
    l.w(3, 3) = std::nanf("");
    CHECK_THROWS_AS(status(), gptq::numeric_error);
  }
  SECTION("too large for a float16 scale") {
    l.w(3, 3) = 1e30f;
    CHECK_THROWS_WITH(status(), test::contains("output 3"));
  }
  SECTION("too small for a float16 scale") {
    for (index_t k = 0; k < 64; ++k) l.w(2, k) *= 1e-9f;
    CHECK(status().scale_underflows == 2);
  }
  SECTION("wrong width") {
    gptq::matrix<float> narrow(4, 63);
    std::fill_n(narrow.data(), narrow.size(), 0.0f);
    auto const w = test::to_backend(b, narrow);
    gptq::view_of<backend, float const> const view = w;
    CHECK_THROWS_AS(gptq::quantize_stack(b, view, h, gptq::w4g128), gptq::shape_error);
  }
}
