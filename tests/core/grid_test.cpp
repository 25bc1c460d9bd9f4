#include "support/catch.hpp"
#include "support/oracle.hpp"

#include <gptq/core/grid.hpp>

#include <random>

TEST_CASE("grid: round_even is nearbyint in its range") {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> wide(-300, 300);
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    float const x = wide(random);
    wrong += gptq::round_even(x) != std::nearbyint(x);
    wrong += gptq::round_even(static_cast<double>(x)) != std::nearbyint(static_cast<double>(x));
  }
  for (int i = -600; i <= 600; ++i) {
    float const tie = static_cast<float>(i) / 2;
    wrong += gptq::round_even(tie) != std::nearbyint(tie);
  }
  CHECK(wrong == 0);
}

namespace {

template <int Bits, bool Sym>
int differences(gptq::grid_options const& o) {
  std::mt19937 random(Bits + Sym);
  std::normal_distribution<double> normal;
  int wrong = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    double low = normal(random), high = normal(random);
    if (trial % 10 == 0) low = 0;
    if (trial % 15 == 0) high = 0;
    test::oracle_grid const theirs = test::fit({low, high}, Bits, Sym, o);
    double a = (std::min)(low, high), b = (std::max)(low, high);
    gptq::complete_range<Sym>(a, b, o);
    auto const ours = gptq::range_grid<Bits, Sym>(a, b, o);
    wrong += ours.scale != theirs.scale || ours.zero != theirs.zero;
    for (double x : {low, high, 0.3 * low, 0.7 * high, 100 * high, -1e30, 1e30}) {
      double const code = gptq::quantize_value<Bits>(x, ours) + ours.zero;
      wrong += code != test::quantized(x, theirs, Bits);
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("grid: ranges, scales, zeros and codes are the oracle's") {
  for (bool rounded : {true, false})
    for (bool reference : {true, false})
      for (bool nonzero : {true, false}) {
        gptq::grid_options const o{
            .mse = 0, .round_scales = rounded, .nonzero_zeros = nonzero, .reference_range = reference};
        CAPTURE(rounded, reference, nonzero);
        CHECK(differences<2, true>(o) == 0);
        CHECK(differences<2, false>(o) == 0);
        CHECK(differences<3, true>(o) == 0);
        CHECK(differences<3, false>(o) == 0);
        CHECK(differences<4, true>(o) == 0);
        CHECK(differences<4, false>(o) == 0);
        CHECK(differences<8, true>(o) == 0);
        CHECK(differences<8, false>(o) == 0);
      }
}

TEST_CASE("grid: a scale is never zero and never flushed") {
  gptq::grid_options const o;
  CHECK(gptq::range_grid<4, true>(-1e-12f, 1e-12f, o).scale == gptq::smallest_float16);
  float const subnormal = gptq::range_grid<8, true>(-2e-4f, 2e-4f, o).scale;
  CHECK(subnormal == gptq::to_float(gptq::to_float16(4e-4f / 255)));
  CHECK(subnormal > 0);
}
