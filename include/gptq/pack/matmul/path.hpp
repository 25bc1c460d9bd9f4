/// The vector operations that a product from packed codes needs, once for each instruction set. A path extracts codes
/// from 32-bit words, one output a lane: `code<Bits, Shift>(w)` is (code − 2^(Bits−1)) / unit<Bits> in float, exact, of
/// words that went through `prepare`. Where a path has `whole_numbers`, `bytes<Bits, Shift>(w)` are four codes as they
/// are, a byte each, and `dot` adds their products with four signed bytes to 32-bit sums.
#pragma once

#include <gptq/core/flags.hpp>
#include <gptq/core/matrix.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// 2^(Bits−1) in every field of word `Word` of a run: as an XOR it makes codes signed, centred at zero.
template <int Bits, int Word>
constexpr std::int32_t top_bits() {
  std::uint32_t bits = 0;
  for (int at = Bits - 1; at < 32 * (Word + 1); at += Bits)
    if (at >= 32 * Word) bits |= 1u << (at - 32 * Word);
  return static_cast<std::int32_t>(bits);
}

/// The field at the top of a word.
template <int Bits>
inline constexpr std::int32_t top_field = static_cast<std::int32_t>(~0u << (32 - Bits));

/// A code that was shifted to the top of its word and counts as a signed number is off by this factor.
template <int Bits>
inline constexpr float top_unit = 1.0f / static_cast<float>(1ull << (32 - Bits));

/// A code of every byte.
template <int Bits>
inline constexpr std::int32_t byte_fields = static_cast<std::int32_t>(0x01010101u * ((1u << Bits) - 1));

}  // namespace GPTQ_FLAGS
}  // namespace detail

inline namespace GPTQ_FLAGS {

/// Vectors of 128 bits as g++ and clang have them on any processor.
struct portable_path {
  using ints = std::int32_t __attribute__((vector_size(16)));
  using words = std::uint32_t __attribute__((vector_size(16)));
  using floats = float __attribute__((vector_size(16)));
  static constexpr int lanes = 4;
  static constexpr int tokens = 4;   ///< that share the codes of a pass
  static constexpr int vectors = 2;  ///< of outputs, with that many tokens

  template <int Bits>
  static constexpr float unit = detail::top_unit<Bits>;
  static constexpr bool whole_numbers = false;

  static ints load(std::byte const* p) {
    ints w;
    std::memcpy(&w, p, sizeof w);
    return w;
  }
  static floats load(float const* p) {
    floats x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(float* p, floats x) { std::memcpy(p, &x, sizeof x); }
  static floats broadcast(float x) { return floats{x, x, x, x}; }
  static floats multiply_add(floats a, floats b, floats c) { return a * b + c; }
  static floats scaled_difference(floats a, float unit, floats b, floats scale) { return (a * unit - b) * scale; }

  template <int Bits, int Word>
  static ints prepare(ints w) {
    return w ^ detail::top_bits<Bits, Word>();
  }
  template <int Bits, int Shift>
  static floats code(ints w) {
    return __builtin_convertvector(
        reinterpret_cast<ints>(reinterpret_cast<words>(w) << (32 - Bits - Shift)) & detail::top_field<Bits>, floats);
  }
  /// Words whose lowest bits are those from bit `Shift` of `low` on, followed by those of `high`.
  template <int Shift>
  static ints join(ints low, ints high) {
    return reinterpret_cast<ints>(reinterpret_cast<words>(low) >> Shift | reinterpret_cast<words>(high)
                                                                              << (32 - Shift));
  }
};

#if defined(__AVX2__) && defined(__FMA__)
struct avx2_path {
  using ints = __m256i;
  using floats = __m256;
  static constexpr int lanes = 8;
  static constexpr int tokens = 4;
  static constexpr int vectors = 2;

  template <int Bits>
  static constexpr float unit = detail::top_unit<Bits>;
  static constexpr bool whole_numbers = false;

  static ints load(std::byte const* p) { return _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p)); }
  static floats load(float const* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, floats x) { _mm256_storeu_ps(p, x); }
  static floats broadcast(float x) { return _mm256_set1_ps(x); }
  static floats multiply_add(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
  static floats scaled_difference(floats a, float unit, floats b, floats scale) {
    return _mm256_mul_ps(_mm256_fmsub_ps(a, _mm256_set1_ps(unit), b), scale);
  }

  template <int Bits, int Word>
  static ints prepare(ints w) {
    return _mm256_xor_si256(w, _mm256_set1_epi32(detail::top_bits<Bits, Word>()));
  }
  template <int Bits, int Shift>
  static floats code(ints w) {
    return _mm256_cvtepi32_ps(
        _mm256_and_si256(_mm256_slli_epi32(w, 32 - Bits - Shift), _mm256_set1_epi32(detail::top_field<Bits>)));
  }
  template <int Shift>
  static ints join(ints low, ints high) {
    return _mm256_or_si256(_mm256_srli_epi32(low, Shift), _mm256_slli_epi32(high, 32 - Shift));
  }
};
#endif

#if defined(__AVX512F__)
/// Codes of up to 4 bits are looked up: a permutation by the low four bits of each lane takes one operation where
/// masking and converting take two.
struct avx512_path {
  using ints = __m512i;
  using floats = __m512;
  static constexpr int lanes = 16;
  static constexpr int tokens = 8;
  static constexpr int vectors = 2;

  template <int Bits>
  static constexpr float unit = Bits == 8 ? detail::top_unit<8> : 1.0f;
#if defined(__AVX512VNNI__)
  static constexpr bool whole_numbers = true;
#else
  static constexpr bool whole_numbers = false;
#endif

  static ints load(std::byte const* p) { return _mm512_loadu_si512(p); }
  static floats load(float const* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, floats x) { _mm512_storeu_ps(p, x); }
  static floats broadcast(float x) { return _mm512_set1_ps(x); }
  static floats multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
  static floats scaled_difference(floats a, float unit, floats b, floats scale) {
    return _mm512_mul_ps(_mm512_fmsub_ps(a, _mm512_set1_ps(unit), b), scale);
  }

  template <int Bits, int Word>
  static ints prepare(ints w) {
    if constexpr (Bits == 8)
      return _mm512_xor_si512(w, _mm512_set1_epi32(detail::top_bits<8, Word>()));
    else
      return w;
  }
  template <int Bits, int Shift>
  static floats code(ints w) {
    if constexpr (Bits == 8) {
      return _mm512_cvtepi32_ps(
          _mm512_and_si512(_mm512_slli_epi32(w, 24 - Shift), _mm512_set1_epi32(detail::top_field<8>)));
    } else {
      return _mm512_permutexvar_ps(_mm512_srli_epi32(w, Shift), values<Bits>());
    }
  }
  template <int Shift>
  static ints join(ints low, ints high) {
    return _mm512_or_si512(_mm512_srli_epi32(low, Shift), _mm512_slli_epi32(high, 32 - Shift));
  }

#if defined(__AVX512VNNI__)
  static ints broadcast(std::int32_t x) { return _mm512_set1_epi32(x); }
  static floats to_floats(ints x) { return _mm512_cvtepi32_ps(x); }
  template <int Bits, int Shift>
  static ints bytes(ints w) {
    w = _mm512_srli_epi32(w, Shift);
    if constexpr (Bits == 3) {  // 12 bits in a row: two codes to the upper half, then one of each half to the next byte
      w = select<0x0000FFFF>(w, _mm512_slli_epi32(w, 10));
      w = select<0x00FF00FF>(w, _mm512_slli_epi32(w, 5));
    }
    return _mm512_and_si512(w, _mm512_set1_epi32(detail::byte_fields<Bits>));
  }
  static ints dot(ints sum, ints codes, ints digits) { return _mm512_dpbusd_epi32(sum, codes, digits); }
#endif

 private:
  /// The bits of a that the mask has, the others of b.
  template <std::int32_t Mask>
  static ints select(ints a, ints b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(Mask), a, b, 0xCA);
  }

  /// The value of each pattern of four bits, of which the low `Bits` count.
  template <int Bits>
  static floats values() {
    constexpr auto v = [](int i) { return static_cast<float>((i & ((1 << Bits) - 1)) - (1 << (Bits - 1))); };
    return _mm512_setr_ps(v(0), v(1), v(2), v(3), v(4), v(5), v(6), v(7), v(8), v(9), v(10), v(11), v(12), v(13), v(14),
                          v(15));
  }
};
#endif

/// The widest path that the compiler's flags allow.
#if defined(__AVX512F__)
using matmul_path = avx512_path;
#elif defined(__AVX2__) && defined(__FMA__)
using matmul_path = avx2_path;
#else
using matmul_path = portable_path;
#endif

}  // namespace GPTQ_FLAGS
}  // namespace v0
}  // namespace gptq
