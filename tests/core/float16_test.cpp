#include <gptq/core/float16.hpp>

#include "support/catch.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

namespace {

/// The value of a pattern by the definition of the format.
double value(std::uint16_t bits, int exponent_bits, int mantissa_bits) {
  int const bias = (1 << (exponent_bits - 1)) - 1;
  int const exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  double const mantissa = bits & ((1 << mantissa_bits) - 1);
  double const sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + std::ldexp(1.0, mantissa_bits), exponent - bias - mantissa_bits);
}

template <class T>
void check_all_patterns(int exponent_bits, int mantissa_bits) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    T const x{static_cast<std::uint16_t>(bits)};
    double const expected = value(x.bits, exponent_bits, mantissa_bits);
    auto const wide = static_cast<double>(gptq::to_float(x));
    if (std::isnan(expected)) {
      wrong += !std::isnan(wide) || !std::isnan(gptq::to_float(gptq::from_float<T>(gptq::to_float(x))));
    } else {
      wrong += wide != expected || std::signbit(wide) != std::signbit(expected);
      wrong += gptq::from_float<T>(gptq::to_float(x)) != x;
    }
  }
  CHECK(wrong == 0);
}

/// Between two neighbours: below the middle rounds down, above it up, the middle itself to the even pattern.
template <class T>
void check_rounding(std::uint16_t largest_finite) {
  int wrong = 0;
  for (std::uint16_t bits = 0; bits < largest_finite; ++bits) {
    T const low{bits}, high{static_cast<std::uint16_t>(bits + 1)};
    float const middle = gptq::to_float(low) / 2 + gptq::to_float(high) / 2;
    T const even = bits % 2 == 0 ? low : high;
    wrong += gptq::from_float<T>(middle) != even;
    wrong += gptq::from_float<T>(std::nextafter(middle, 0.0f)) != low;
    wrong += gptq::from_float<T>(std::nextafter(middle, std::numeric_limits<float>::infinity())) != high;
    wrong += gptq::from_float<T>(-middle).bits != (even.bits | 0x8000);
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("float16: every pattern converts exactly, there and back") { check_all_patterns<gptq::float16>(5, 10); }
TEST_CASE("bfloat16: every pattern converts exactly, there and back") { check_all_patterns<gptq::bfloat16>(8, 7); }

TEST_CASE("float16: rounds to nearest, ties to even, up to infinity") {
  check_rounding<gptq::float16>(0x7bff);
  CHECK(gptq::to_float16(65519.996f).bits == 0x7bff);
  CHECK(gptq::to_float16(65520.0f).bits == 0x7c00);
  CHECK(gptq::to_float16(-1e30f).bits == 0xfc00);
  CHECK(gptq::to_float16(1e-30f).bits == 0);
}
TEST_CASE("bfloat16: rounds to nearest, ties to even") {
  check_rounding<gptq::bfloat16>(0x7f7f);
  CHECK(gptq::to_bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
}
