/// What is the host backend's own: the fast power, tiles at odd sizes.
#include "support/catch.hpp"
#include "support/synthetic.hpp"

#include <gptq/backend/host.hpp>
#include <gptq/gptq.hpp>

#include <cmath>
#include <limits>

using gptq::index_t;
using gptq::matrix;

TEST_CASE("host: the fast power is within 2e-5 of the exact one over all sizes of errors") {
  double worst = 0;
  for (float exponent : {2.0f, 2.4f, 3.0f})
    for (double x = 1e-12; x < 1e6; x *= 1.0009) {
      if (std::pow(x, static_cast<double>(exponent)) < 1e-35) continue;
      double const exact = std::pow(static_cast<double>(static_cast<float>(x)), static_cast<double>(exponent));
      worst = (std::max)(
          worst, std::abs(static_cast<double>(gptq::detail::fast_power(static_cast<float>(x), exponent)) / exact - 1));
    }
  CHECK(worst < 2e-5);
  CHECK(gptq::detail::fast_power(0.0f, 2.4f) < 1e-37f);
}

TEST_CASE("host: the search with the fast power chooses ranges as good as with the exact one") {
  gptq::host_backend fast;
  gptq::basic_host_backend<double> exact;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  matrix<float> x(128, 500);
  matrix<double> wide(128, 500), scales_exact(1, 500);
  for (index_t i = 0; i < x.size(); ++i) wide.data()[i] = static_cast<double>(x.data()[i] = normal(random));
  matrix<float> scales(1, 500);
  matrix<std::uint8_t> zeros(1, 500);
  auto const error = [&](index_t n, double scale) {
    double sum = 0;
    for (index_t r = 0; r < 128; ++r)
      sum += std::pow(std::abs(scale * gptq::quantize_value<3>(wide(r, n), gptq::grid<double>{scale, 4}) - wide(r, n)),
                      2.4);
    return sum;
  };
  fast.fit_grid<3, true>(gptq::matrix_view<float const>(x), {}, scales.view(), zeros.view());
  exact.fit_grid<3, true>(gptq::matrix_view<double const>(wide), {}, scales_exact.view(), zeros.view());
  int different = 0;
  for (index_t n = 0; n < 500; ++n) {
    different += static_cast<double>(scales(0, n)) != scales_exact(0, n);
    CHECK(error(n, static_cast<double>(scales(0, n))) <= error(n, scales_exact(0, n)) * (1 + 1e-5));
  }
  CHECK(different <= 5);  // near-ties only
}

TEST_CASE("host: factors of Hessians at sizes around its tiles, and matrices it must refuse") {
  gptq::host_backend b;
  for (index_t n : {1, 127, 128, 129, 511, 512, 640, 1030}) {
    auto const x = test::make_layer(1, n, n + 50, 4).x;
    matrix<float> gram(n, n), f(n, n), pivots(1, n), diagonal(1, n);
    matrix<std::int32_t> order(1, n);
    b.fill(gram, 0.0f);
    b.add_gram(gptq::matrix_view<float const>(x), gram.view());
    double trace = 0;
    for (index_t i = 0; i < n; ++i) trace += static_cast<double>(gram(i, i));
    for (index_t i = 0; i < n; ++i) {
      order(0, i) = static_cast<std::int32_t>((i + n / 3) % n);
      diagonal(0, i) = gram(order(0, i), order(0, i)) + 0.01f * static_cast<float>(trace / static_cast<double>(n));
    }
    auto const factorize = [&](gptq::precision p) {
      return b.factorize_hessian(gram, order, 1.0, diagonal, p, f, pivots);
    };
    REQUIRE(factorize(gptq::precision::native));
    double difference = 0, norm = 0;
    index_t const step = n > 300 ? 37 : 1;  // a sample of rows of the large ones
    for (index_t r = n - 1; r >= 0; r -= step)
      for (index_t c = 0; c <= r; ++c) {
        double s = 0;  // of V·Vᵀ, V(i, j) = F(j, i)·pivots(j)
        for (index_t k = r; k < n; ++k) s += static_cast<double>(f(k, r)) * f(k, c) * std::pow(pivots(0, k), 2);
        index_t const i = (std::max)(order(0, r), order(0, c)), j = (std::min)(order(0, r), order(0, c));
        double const expected = static_cast<double>(r == c ? diagonal(0, r) : gram(i, j));
        difference += std::pow(s - expected, 2);
        norm += std::pow(expected, 2);
      }
    CAPTURE(n);
    CHECK(std::sqrt(difference / norm) < 1e-5);

    diagonal(0, 0) = -1.0f;
    CHECK_FALSE(factorize(gptq::precision::native));
    diagonal(0, 0) = 1.0f;
    if (n > 1) gram(n / 2, 0) = std::nanf("");
    if (n > 1) CHECK_FALSE(factorize(gptq::precision::fp64));
  }
}

TEST_CASE("host: NaN and Inf are seen wherever they are") {
  gptq::host_backend b;
  for (index_t rows : {1, 255, 256, 300})
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
      for (index_t at : {index_t(0), rows * 17 - 1, rows * 17 / 2}) {
        matrix<float> x(rows, 17);
        matrix<gptq::bfloat16> narrow(rows, 17);
        matrix<gptq::float16> half(rows, 17);
        for (index_t i = 0; i < x.size(); ++i) {
          x.data()[i] = i % 2 ? 3e38f : -1e-40f;
          narrow.data()[i] = gptq::to_bfloat16(1e38f);
          half.data()[i] = gptq::to_float16(65504.0f);
        }
        CHECK(b.all_finite(gptq::matrix_view<float const>(x)));
        CHECK(b.all_finite(gptq::matrix_view<gptq::bfloat16 const>(narrow)));
        CHECK(b.all_finite(gptq::matrix_view<gptq::float16 const>(half)));
        x.data()[at] = bad;
        narrow.data()[at] = gptq::to_bfloat16(bad);
        half.data()[at] = gptq::to_float16(bad);
        CHECK_FALSE(b.all_finite(gptq::matrix_view<float const>(x)));
        CHECK_FALSE(b.all_finite(gptq::matrix_view<gptq::bfloat16 const>(narrow)));
        CHECK_FALSE(b.all_finite(gptq::matrix_view<gptq::float16 const>(half)));
      }
}
