/// The entry points: problems one by one and many at a time, and the table of kernels behind them.
#include "support/backend_under_test.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using backend = test::backend;
using gptq::index_t;
using problem = gptq::solve_problem<backend, float>;

/// A few experts: layers of one shape, with inputs of their own.
struct experts {
  explicit experts(backend& b, std::vector<index_t> const& tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      auto const l = test::make_layer(24, 96, std::max(tokens[i], index_t(1)), static_cast<unsigned>(50 + i));
      weights.push_back(test::to_backend(b, l.w));
      hessians.emplace_back(b, 96);
      if (tokens[i] > 0) hessians.back().add(test::to_backend(b, l.x));
    }
  }
  [[nodiscard]] std::vector<problem> problems() const {
    std::vector<problem> p;
    for (std::size_t i = 0; i < weights.size(); ++i) p.push_back({.weight = weights[i], .hessian = &hessians[i]});
    return p;
  }
  std::vector<gptq::matrix_of<backend, float>> weights;
  std::vector<gptq::hessian<backend>> hessians;
};

bool same_codes(backend& b, gptq::quantized_stack<backend> const& x, gptq::quantized_stack<backend> const& y) {
  auto const a = test::to_host<std::uint8_t>(b, x.linear.codes), c = test::to_host<std::uint8_t>(b, y.linear.codes);
  return a.size() == c.size() && std::equal(a.data(), a.data() + a.size(), c.data());
}

gptq::solver_settings const settings{.spec = {.bits = 4, .group_size = 32, .order = gptq::column_order::group_aware}};

}  // namespace

TEST_CASE("quantize: many problems give what each gives alone, in their order") {
  backend b;
  experts const e(b, {200, 0, 150, 20});
  auto const problems = e.problems();
  auto const all = gptq::quantize_stacks<backend, float>(b, problems, settings);
  REQUIRE(all.size() == 4);
  for (std::size_t i = 0; i < all.size(); ++i) {
    auto const alone = gptq::quantize_stack(b, problems[i], settings);
    CHECK(same_codes(b, all[i], alone));
    CHECK(all[i].linear.report.tokens == e.hessians[i].tokens());
  }
  CHECK_FALSE(same_codes(b, all[0], all[2]));
  CHECK(all[1].linear.report.status == gptq::outcome::rtn_no_data);  // an expert that no token reached
  CHECK(all[3].linear.report.status == gptq::outcome::few_tokens);
  CHECK(gptq::quantize_stacks<backend, float>(b, {}, settings).empty());
}

TEST_CASE("quantize: what is wrong with one of many problems names it") {
  backend b;
  experts e(b, {100, 100, 100});
  auto problems = e.problems();
  auto const solve = [&] { return gptq::quantize_stacks<backend, float>(b, problems, settings); };
  SECTION("neither Hessian nor factor") {
    problems[2].hessian = nullptr;
    CHECK_THROWS_WITH(solve(), test::contains("problem 2: ") && test::contains("Hessian"));
    CHECK_THROWS_AS(solve(), gptq::shape_error);
  }
  SECTION("NaN") {
    gptq::view_of<backend, float> const w = e.weights[1];
    b.fill(w.block(3, 3, 1, 1), std::numeric_limits<float>::quiet_NaN());
    CHECK_THROWS_WITH(solve(), test::contains("problem 1: ") && test::contains("NaN"));
    CHECK_THROWS_AS(solve(), gptq::numeric_error);
  }
  SECTION("a target of another size") {
    problems[0].target = gptq::view_of<backend, float const>(e.weights[0]).row_range(0, 23);
    CHECK_THROWS_WITH(solve(), test::contains("problem 0: ") && test::contains("target"));
  }
}

TEST_CASE("quantize: a target takes the place of the weights, and losses are told against both") {
  backend b;
  experts const e(b, {200, 200});
  auto problems = e.problems();
  problems[0].target = e.weights[1];
  auto const aimed = gptq::quantize_stack(b, problems[0], settings);
  problems[1].hessian = problems[0].hessian;
  CHECK(same_codes(b, aimed, gptq::quantize_stack(b, problems[1], settings)));
  CHECK(aimed.linear.report.pass_loss < 0.1);
  CHECK(aimed.linear.report.rel_loss > 0.5);  // the other expert's weights have nothing to do with these
}

TEST_CASE("quantize: a factor serves many stacks, and one of another width is refused") {
  backend b;
  experts const e(b, {200});
  auto const f = gptq::factorize(b, e.hessians[0], settings.spec, settings.options);
  problem with_factor{.weight = e.weights[0], .factor = &f};
  CHECK(same_codes(b, gptq::quantize_stack(b, with_factor, settings),
                   gptq::quantize_stack(b, e.problems()[0], settings)));
  with_factor.weight = with_factor.weight.col_range(0, 64);
  CHECK_THROWS_AS(gptq::quantize_stack(b, with_factor, settings), gptq::shape_error);
}

TEST_CASE("quantize: the table of kernels is that of the width and the kind of grid") {
  backend b;
  auto const l = test::make_layer(8, 32, 40, 9);
  auto const values = test::to_backend(b, l.w);  // as one group of 8 rows for 32 outputs
  auto const fitted = [&](gptq::column_kernels<backend> const& k) {
    auto scales = b.make<float>(1, 32);
    auto zeros = b.make<std::uint8_t>(1, 32);
    k.fit_grid(b, values, {.mse = 0}, scales, zeros);
    auto const z = test::to_host<std::uint8_t>(b, zeros);
    return std::pair(test::to_host<float>(b, scales)(0, 0), int(*std::max_element(z.data(), z.data() + 32)));
  };
  for (int bits : {2, 3, 4, 8}) {
    auto const sym = fitted(gptq::kernels_for<backend>({.bits = bits}));
    auto const asym = fitted(gptq::kernels_for<backend>({.bits = bits, .sym = false}));
    CHECK(sym.second == 1 << (bits - 1));
    CHECK(asym.first < sym.first);
  }
  CHECK(fitted(gptq::kernels_for<3, true, backend>()) == fitted(gptq::kernels_for<backend>({.bits = 3})));
  CHECK_THROWS_AS(gptq::kernels_for<backend>({.bits = 5}), gptq::shape_error);
}
