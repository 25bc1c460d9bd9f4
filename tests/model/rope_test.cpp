#include "support/catch.hpp"

#include <gptq/backend/host/forward.hpp>
#include <gptq/model/rope.hpp>
#include <gptq/run/rotary_tables.hpp>

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

TEST_CASE("rope: yarn keeps pairs that turn often, divides those that turn less than once, and blends between") {
  rope_config c{.type = rope_type::yarn, .dim = 128, .theta = 1e6, .factor = 4};
  c.low_frequency = 1;
  c.high_frequency = 32;
  c.original_positions = 32768;
  auto const scaled = gptq::rope_frequencies(c);
  c.type = rope_type::none;
  auto const plain = gptq::rope_frequencies(c);
  // 64·ln(32768/(2π·32))/ln(1e6) = 23.59… and 64·ln(32768/2π)/ln(1e6) = 39.65…, to whole pairs outwards.
  for (std::size_t i = 0; i < 64; ++i) {
    double const kept = i <= 23 ? 1 : i >= 40 ? 0 : 1 - (double(i) - 23) / 17;
    CHECK_THAT(scaled[i], WithinRel(plain[i] * (kept + (1 - kept) / 4), 1e-12));
  }
}

TEST_CASE("rope: longrope divides by one list up to the original length and by another beyond") {
  rope_config c{.type = rope_type::longrope, .dim = 4, .theta = 1e4};
  c.original_positions = 10;
  c.short_factors = {1, 2};
  c.long_factors = {4, 5};
  CHECK_THAT(gptq::rope_frequencies(c, 10)[1], WithinRel(0.01 / 2, 1e-14));
  CHECK_THAT(gptq::rope_frequencies(c, 11)[0], WithinRel(1.0 / 4, 1e-14));
  CHECK_THAT(gptq::rope_frequencies(c, 11)[1], WithinRel(0.01 / 5, 1e-14));
}

TEST_CASE("rope: TeleChat2's base grows with the length it was trained on, and beyond with the text") {
  rope_config c{.type = rope_type::telechat, .dim = 8, .theta = 1e4};
  c.original_positions = 8192;
  auto const growth = [&](gptq::index_t trained, gptq::index_t length) {
    c.trained_positions = trained;
    double const base = std::pow(gptq::rope_frequencies(c, length)[1], -4);
    return std::pow(base / 1e4, 6.0 / 8);
  };
  CHECK_THAT(growth(8192, 100), WithinRel(1.0, 1e-12));
  CHECK_THAT(growth(8192, 8192), WithinRel(1.0, 1e-12));
  CHECK_THAT(growth(4096, 1), WithinRel(1.0, 1e-12));
  CHECK_THAT(growth(32768, 100), WithinRel(7.0, 1e-12));
  CHECK_THAT(growth(32768, 32769), WithinRel(15.0, 1e-12));
  CHECK_THAT(growth(8192, 8193), WithinRel(3.0, 1e-12));
  CHECK(gptq::rope_scale(c, 8192) == 1);
  CHECK_THAT(gptq::rope_scale(c, 16384), WithinRel(0.1 * std::log(2.0) + 1, 1e-14));
}

TEST_CASE("rope: tables hold cosine and sine of position times frequency, times the scale") {
  gptq::host_forward b;
  double const scale = GENERATE(1.0, 1.5);
  gptq::rotary_tables<gptq::host_forward> const tables(b, {.dim = 6, .theta = 100, .scale = scale}, {3, 5});
  REQUIRE(tables.cosines().rows == 5);
  REQUIRE(tables.sines().cols == 3);
  CHECK(tables.first_row(3) == 0);
  CHECK(tables.first_row(5) == 0);
  CHECK_THROWS_AS(tables.first_row(4), gptq::shape_error);
  for (gptq::index_t p = 0; p < 5; ++p)
    for (gptq::index_t i = 0; i < 3; ++i) {
      double const angle = double(p) * std::pow(100.0, -double(i) / 3);
      CHECK_THAT(double(tables.cosines()(p, i)), WithinAbs(scale * std::cos(angle), 2e-7));
      CHECK_THAT(double(tables.sines()(p, i)), WithinAbs(scale * std::sin(angle), 2e-7));
    }
}

TEST_CASE("rope: dynamic scaling changes nothing up to the trained length; a longer text has a table of its own") {
  gptq::host_forward b;
  rope_config c{.type = rope_type::dynamic, .dim = 4, .factor = 2};
  c.original_positions = 10;
  gptq::rotary_tables<gptq::host_forward> const tables(b, c, {15, 10, 4, 15});
  gptq::rotary_tables<gptq::host_forward> const plain(b, {.dim = 4}, {10});
  CHECK(tables.cosines().rows == 25);
  CHECK(tables.first_row(4) == 0);
  CHECK(tables.first_row(10) == 0);
  REQUIRE(tables.first_row(15) == 10);
  CHECK(tables.sines()(9, 1) == plain.sines()(9, 1));
  double const base = 1e4 * std::pow(2.0 * 15 / 10 - 1, 2);
  CHECK_THAT(double(tables.sines()(10 + 9, 1)), WithinRel(std::sin(9 / std::sqrt(base)), 1e-6));
}

TEST_CASE("rope: how far a rule reaches, against the rules of all lengths") {
  rope_config c{.dim = 8, .theta = 1e4, .factor = 4, .low_frequency = 1, .high_frequency = 4};
  c.original_positions = 16;
  c.trained_positions = 24;
  c.short_factors = {1, 1, 1, 1};
  c.long_factors = {1, 2, 3, 4};
  for (rope_type const type : {rope_type::none, rope_type::linear, rope_type::dynamic, rope_type::llama3,
                               rope_type::yarn, rope_type::longrope, rope_type::telechat}) {
    c.type = type;
    CAPTURE(static_cast<int>(type));
    auto const same = [&](gptq::index_t a, gptq::index_t b) {
      return gptq::rope_frequencies(c, a) == gptq::rope_frequencies(c, b) &&
             gptq::rope_scale(c, a) == gptq::rope_scale(c, b);
    };
    for (gptq::index_t length = 1; length <= 40; ++length) {
      gptq::index_t last = length;
      while (last < 40 && same(length, last + 1)) ++last;
      CHECK(gptq::rope_reach(c, length, 40) == last);
    }
  }
}
