/// The oracle itself, on cases that can be worked by hand.
#include "support/oracle.hpp"

#include "support/catch.hpp"

using test::table;

TEST_CASE("oracle: the factor of the inverse of a 2 x 2 matrix") {
  // a = [2 1; 1 2], a⁻¹ = [2 −1; −1 2]/3 = Uᵀ·U with U = [√(2/3) −1/√6; 0 1/√2]
  table const u = test::inverse_factor({{2, 1}, {1, 2}});
  CHECK_THAT(u[0][0], Catch::Matchers::WithinAbs(std::sqrt(2.0 / 3.0), 1e-15));
  CHECK_THAT(u[0][1], Catch::Matchers::WithinAbs(-1 / std::sqrt(6.0), 1e-15));
  CHECK_THAT(u[1][0], Catch::Matchers::WithinAbs(0.0, 0.0));
  CHECK_THAT(u[1][1], Catch::Matchers::WithinAbs(1 / std::sqrt(2.0), 1e-15));
}

TEST_CASE("oracle: the error of the first column moves the second") {
  // 2 bits, sym, one group: w = (1.2, 0.3), range ±1.2, s = 0.8, z = 2. First: 1.2/0.8 = 1.5 → 2 → code 3 (clamped), q
  // = 0.8. Error 0.4; H = [2 1; 1 2] without damping: w₂ += 0.4·U₁₂/−U₁₁ → 0.3 + 0.4·½ = 0.5; 0.5/0.8 → 1 → code 3, q =
  // 0.8. Rounded to nearest the second weight would be 0.3/0.8 → 0 → code 2.
  gptq::quantize_options options;
  options.damp_percent = 0;
  options.grid.mse = 0;
  options.grid.round_scales = false;
  gptq::quant_spec const spec{.bits = 2, .group_size = -1};
  auto const r = test::solve({{2, 1}, {1, 2}}, {{1.2, 0.3}}, spec, options, {0, 1});
  CHECK(r.codes == table{{3, 3}});
  CHECK_THAT(r.grids[0][0].scale, Catch::Matchers::WithinAbs(0.8, 1e-15));
  // Loss: 0.4²/U₁₁² + (0.5 − 0.8)²/U₂₂² = 0.16·1.5 + 0.09·2
  CHECK_THAT(r.damped_loss, Catch::Matchers::WithinAbs(0.42, 1e-12));
  CHECK_THAT(test::output_error({{1.2, 0.3}}, r.values, {{2, 1}, {1, 2}}), Catch::Matchers::WithinAbs(0.42, 1e-12));
}

TEST_CASE("oracle: asymmetric grids hold zero and the whole range") {
  gptq::grid_options options{.mse = 0, .round_scales = false};
  auto const g = test::fit({-0.5, 1.0, 0.25}, 4, false, options);
  CHECK_THAT(g.scale, Catch::Matchers::WithinAbs(0.1, 1e-15));
  CHECK(g.zero == 5);
  CHECK(test::quantized(1.0, g, 4) == 15);
  CHECK(test::quantized(-0.5, g, 4) == 0);
  CHECK(test::quantized(0.05, g, 4) == 5);  // half to even: 0.5 → 0
  auto const empty = test::fit({0, 0}, 4, true, options);
  CHECK_THAT(empty.scale, Catch::Matchers::WithinAbs(2.0 / 15, 1e-15));
}

TEST_CASE("oracle: five columns without correlation are rounded to nearest") {
  table h = test::zeros(5, 5);
  for (std::size_t i = 0; i < 5; ++i) h[i][i] = static_cast<double>(i + 1);
  gptq::quantize_options options;
  options.grid.mse = 0;
  auto const r =
      test::solve(h, {{0.75, -0.3, 0.1, 0.0, -0.75}}, {.bits = 4, .group_size = -1}, options, {0, 1, 2, 3, 4});
  // s = 1.5/15 = 0.1, as a float16 just below: 7.5 rounds up and is clamped, −7.5 rounds down to −8
  CHECK(r.codes == table{{15, 5, 9, 8, 0}});
}
