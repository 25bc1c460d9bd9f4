/// The two 16-bit floating-point types of model files, as bit patterns with exact conversions to and from float.
/// Rounding is to nearest, ties to even; NaN stays NaN; overflow gives infinity. The loops over arrays vectorise.
#pragma once

#include <gptq/core/macros.hpp>

#include <cstdint>
#include <cstring>

namespace gptq {
inline namespace v0 {

namespace detail {
template <class To, class From>
GPTQ_HD inline To bit_pun(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace detail

/// IEEE binary16: 5 bits of exponent, 10 of mantissa.
struct float16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(float16, float16) = default;
};

/// The upper half of a float: 8 bits of exponent, 7 of mantissa.
struct bfloat16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(bfloat16, bfloat16) = default;
};

/// The value as a float: exact for every type that elements of a matrix have.
GPTQ_HD inline float to_float(float x) { return x; }

/// The value as a float, exactly.
GPTQ_HD inline float to_float(bfloat16 x) { return detail::bit_pun<float>(std::uint32_t(x.bits) << 16); }

/// The value as a float, exactly; subnormal numbers, infinities and NaN too.
GPTQ_HD inline float to_float(float16 x) {
  // Shift exponent and mantissa into place, then multiply by 2^112 to move the exponent bias: exact for subnormals too.
  std::uint32_t const magnitude = std::uint32_t(x.bits & 0x7fffu) << 13;
  float const scaled = detail::bit_pun<float>(magnitude) * detail::bit_pun<float>(0x77800000u);
  std::uint32_t const special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // Inf and NaN keep an all-ones exponent
  return detail::bit_pun<float>(detail::bit_pun<std::uint32_t>(scaled) | special |
                                std::uint32_t(x.bits & 0x8000u) << 16);
}

/// The nearest bfloat16, ties to even; NaN stays NaN.
GPTQ_HD inline bfloat16 to_bfloat16(float x) {
  std::uint32_t const u = detail::bit_pun<std::uint32_t>(x);
  std::uint32_t const rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  std::uint32_t const quiet = (u >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

/// The nearest float16, ties to even; what is too large becomes infinite, NaN stays NaN.
GPTQ_HD inline float16 to_float16(float x) {
  std::uint32_t const u = detail::bit_pun<std::uint32_t>(x);
  std::uint32_t const magnitude = u & 0x7fffffffu;
  // Normal results: move the bias, round the 13 bits that fall away. Overflow runs into the pattern of infinity.
  std::uint32_t const normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal results: adding 0.5 leaves the rounded mantissa, a multiple of 2^-24, in the low bits.
  float const shifted = detail::bit_pun<float>(magnitude) + 0.5f;
  std::uint32_t const subnormal = detail::bit_pun<std::uint32_t>(shifted) - 0x3f000000u;
  std::uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x47800000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return {static_cast<std::uint16_t>(half | (u >> 16 & 0x8000u))};
}

/// Converts to the type named: from_float<float16>(x).
template <class T>
GPTQ_HD inline T from_float(float x);
template <>
GPTQ_HD inline float from_float<float>(float x) {
  return x;
}
template <>
GPTQ_HD inline float16 from_float<float16>(float x) {
  return to_float16(x);
}
template <>
GPTQ_HD inline bfloat16 from_float<bfloat16>(float x) {
  return to_bfloat16(x);
}

}  // namespace v0
}  // namespace gptq
