#include "support/catch.hpp"

#include <gptq/backend/host/forward.hpp>
#include <gptq/model/rope.hpp>

#include <cmath>

using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;
using gptq::rope_config;
using gptq::rope_type;

namespace {
constexpr double pi = 3.14159265358979323846;
}

TEST_CASE("rope: frequencies fall from 1 by powers of the base") {
  auto const f = gptq::rope_frequencies({.dim = 8, .theta = 1e4});
  REQUIRE(f.size() == 4);
  CHECK_THAT(f[0], WithinRel(1.0, 1e-14));
  CHECK_THAT(f[1], WithinRel(0.1, 1e-14));
  CHECK_THAT(f[2], WithinRel(0.01, 1e-14));
  CHECK_THAT(f[3], WithinRel(0.001, 1e-14));
}

TEST_CASE("rope: linear scaling divides every frequency") {
  auto const f = gptq::rope_frequencies({.type = rope_type::linear, .dim = 4, .theta = 1e4, .factor = 4});
  CHECK_THAT(f[0], WithinRel(0.25, 1e-14));
  CHECK_THAT(f[1], WithinRel(0.0025, 1e-14));
}

TEST_CASE("rope: llama3 scaling keeps short wavelengths, divides long ones and blends between") {
  rope_config c{.type = rope_type::llama3, .dim = 64, .theta = 5e5, .factor = 32};
  c.low_frequency = 1;
  c.high_frequency = 4;
  c.original_positions = 8192;
  auto const scaled = gptq::rope_frequencies(c);
  c.type = rope_type::none;
  auto const plain = gptq::rope_frequencies(c);
  int kept = 0;
  int divided = 0;
  int blended = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    double const wavelength = 2 * pi / plain[i];
    if (wavelength < 8192.0 / 4) {
      CHECK(scaled[i] == plain[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      CHECK_THAT(scaled[i], WithinRel(plain[i] / 32, 1e-14));
      ++divided;
    } else {
      double const t = (8192.0 / wavelength - 1) / 3;
      CHECK_THAT(scaled[i], WithinRel((1 - t) * plain[i] / 32 + t * plain[i], 1e-12));
      ++blended;
    }
  }
  CHECK(kept > 0);
  CHECK(divided > 0);
  CHECK(blended > 0);
}

TEST_CASE("rope: tables hold cosine and sine of position times frequency") {
  gptq::host_forward b;
  auto const tables = gptq::make_rotary_tables(b, {.dim = 6, .theta = 100}, 5);
  REQUIRE(tables.cosines.rows() == 5);
  REQUIRE(tables.sines.cols() == 3);
  for (gptq::index_t p = 0; p < 5; ++p)
    for (gptq::index_t i = 0; i < 3; ++i) {
      double const angle = double(p) * std::pow(100.0, -double(i) / 3);
      CHECK_THAT(double(tables.cosines(p, i)), WithinAbs(std::cos(angle), 1e-7));
      CHECK_THAT(double(tables.sines(p, i)), WithinAbs(std::sin(angle), 1e-7));
    }
}

TEST_CASE("rope: dynamic scaling changes nothing up to the trained length and is refused beyond") {
  gptq::host_forward b;
  rope_config c{.type = rope_type::dynamic, .dim = 4, .factor = 2};
  c.original_positions = 10;
  auto const tables = gptq::make_rotary_tables(b, c, 10);
  auto const plain = gptq::make_rotary_tables(b, {.dim = 4}, 10);
  CHECK(tables.cosines(9, 1) == plain.cosines(9, 1));
  CHECK_THROWS_AS(gptq::make_rotary_tables(b, c, 11), gptq::shape_error);
}
