/// The inner loop of the product from packed codes in whole numbers: codes as bytes, inputs as three signed bytes each,
/// whose products and sums are exact. It takes a third of the operations that floats take.
#pragma once

#include <gptq/core/flags.hpp>
#include <gptq/pack/bits.hpp>
#include <gptq/pack/matmul/tile.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

inline constexpr int matmul_digits = 3;  ///< of an input, to the base of 256
inline constexpr int whole_tokens = 4;   ///< that share the codes of a pass; with one vector of outputs 12 sums

/// Which input of a run is byte `byte` of quad `quad`: fields that lie bytes apart in a word, at 3 bits neighbours.
template <int Bits>
constexpr int input_of(int quad, int byte) {
  constexpr int quads = Bits == 3 ? 8 : 8 / Bits;  // of a run, which is a word but at 3 bits
  return Bits == 3 ? 4 * quad + byte : quads * byte + quad;
}

/// Elements that split_inputs() writes for a token.
constexpr index_t split_size(index_t padded) { return matmul_digits * (1 + padded / 4); }

struct split_result {
  float unit;  ///< NaN if an input is not finite
  float sum;   ///< of the inputs as they were rounded; 0 if one is not finite
};

/// Inputs x ≈ unit · (d₀ + 256 d₁ + 65536 d₂), unit a power of two and the d signed bytes: the error is at most 1.01 of
/// float's epsilons of the largest input, or 2^-127 if that is more. Inputs [count, padded) are zeros, padded being whole runs and at most a chunk.
/// Element i of the output is to[i · stride]: first −2^(Bits−1) · Σ d for each digit, then [quad][digit], four inputs in
/// each.
template <int Bits>
split_result split_inputs(float const* x, index_t count, index_t padded, std::int32_t* to, index_t stride) {
  constexpr std::int32_t infinity = 0x7F800000;
  std::int32_t largest = 0;  // absolute values order as their bit patterns do
  for (index_t i = 0; i < count; ++i) largest = std::max(largest, std::bit_cast<std::int32_t>(x[i]) & 0x7FFFFFFF);
  bool const finite = largest < infinity;
  // The largest input becomes 2^22 to 127 · 65536, so that the top digit stays below 128: from 127/64 of a power of two on
  // (the 1 << 17 carries into the exponent) it counts as of the next.
  std::int32_t const exponent = finite ? std::max((largest + (1 << 17)) >> 23, 23) : 127;
  float const unit = std::bit_cast<float>((exponent - 22) << 23),
              per_unit = std::bit_cast<float>((276 - exponent) << 23);

  float inputs[matmul_chunk<Bits>] = {};
  if (finite) std::copy_n(x, count, inputs);
  std::int8_t digits[matmul_digits][matmul_chunk<Bits>];
  std::int32_t sums[matmul_digits] = {}, sum = 0;
  for (int i = 0; i < matmul_chunk<Bits>; ++i) {
    float const value = inputs[i] * per_unit;
    auto const whole = static_cast<std::int32_t>(value + (value < 0 ? -0.5f : 0.5f));
    auto const low = static_cast<std::int8_t>(whole);
    std::int32_t const rest = (whole - low) >> 8;
    auto const middle = static_cast<std::int8_t>(rest);
    std::int32_t const top = (rest - middle) >> 8;
    digits[0][i] = low, digits[1][i] = middle, digits[2][i] = static_cast<std::int8_t>(top);
    sums[0] += low, sums[1] += middle, sums[2] += top, sum += whole;
  }
  for (int d = 0; d < matmul_digits; ++d) to[d * stride] = -(1 << (Bits - 1)) * sums[d];
  to += matmul_digits * stride;
  for (int run = 0; run < matmul_chunk<Bits> && run < padded; run += code_run<Bits>::codes)
    for (int quad = 0; quad < code_run<Bits>::codes / 4; ++quad)
      for (int d = 0; d < matmul_digits; ++d, to += stride) {
        std::uint32_t four = 0;
        for (int byte = 0; byte < 4; ++byte)
          four |= std::uint32_t{static_cast<std::uint8_t>(digits[d][run + input_of<Bits>(quad, byte)])} << (8 * byte);
        *to = static_cast<std::int32_t>(four);
      }
  return {finite ? unit : std::numeric_limits<float>::quiet_NaN(), unit * static_cast<float>(sum)};
}

/// Adds Σ_k (code(k, n) − 2^(Bits−1)) · x_k / unit to the Vectors · lanes outputs from `words` on; x as split_inputs()
/// wrote it, `Tokens` apart. The sums are exact until they are put together.
template <class Path, int Bits, int Tokens, int Vectors>
struct whole_kernel {
  using run = code_run<Bits>;
  using ints = typename Path::ints;

  static constexpr auto tokens = static_cast<std::size_t>(Tokens), vectors = static_cast<std::size_t>(Vectors);
  static constexpr int quads = run::codes / 4;

  ints sums[tokens][vectors][static_cast<std::size_t>(matmul_digits)];
  ints words[vectors][static_cast<std::size_t>(run::words)];

  template <int Quad>
  void add(std::int32_t const* x) {
    constexpr int at = Bits == 3 ? 12 * Quad : Bits * Quad, word = at / 32, shift = at % 32;
    ints codes[vectors];
    for (int v = 0; v < Vectors; ++v) {
      if constexpr (Bits == 3 && shift > 20)
        codes[v] = Path::template bytes<Bits, 0>(Path::template join<shift>(words[v][word], words[v][word + 1]));
      else
        codes[v] = Path::template bytes<Bits, shift>(words[v][word]);
    }
    for (int d = 0; d < matmul_digits; ++d)
      for (int t = 0; t < Tokens; ++t) {
        ints const four = Path::broadcast(x[(Quad * matmul_digits + d) * Tokens + t]);
        for (int v = 0; v < Vectors; ++v) sums[t][v][d] = Path::dot(sums[t][v][d], codes[v], four);
      }
  }

  template <int... Quad>
  void add_run(std::int32_t const* x, std::integer_sequence<int, Quad...>) {
    (add<Quad>(x), ...);
  }

  void operator()(std::byte const* from, index_t stride, int runs, std::int32_t const* x, matmul_output const& out) {
    for (int d = 0; d < matmul_digits; ++d)
      for (int t = 0; t < Tokens; ++t)
        for (int v = 0; v < Vectors; ++v) sums[t][v][d] = Path::broadcast(x[d * Tokens + t]);
    x += matmul_digits * Tokens;
    for (int r = 0; r < runs; ++r, from += run::words * stride, x += quads * matmul_digits * Tokens) {
      for (int v = 0; v < Vectors; ++v)
        for (int w = 0; w < run::words; ++w) {
          std::byte const* const at = from + w * stride + v * Path::lanes * 4;
          __builtin_prefetch(at + 2 * runs * run::words * stride, 0, 2);  // words of the next chunk but one
          words[v][w] = Path::load(at);
        }
      add_run(x, std::make_integer_sequence<int, quads>{});
    }
    for (int t = 0; t < Tokens; ++t)
      for (int v = 0; v < Vectors; ++v) {
        auto sum = Path::to_floats(sums[t][v][matmul_digits - 1]);
        for (int d = matmul_digits - 2; d >= 0; --d)
          sum = Path::multiply_add(sum, Path::broadcast(256.0f), Path::to_floats(sums[t][v][d]));
        add_to<Path>(out, t, v * Path::lanes, sum);
      }
  }
};

/// The same for all outputs of a tile.
template <class Path, int Bits, int Tokens>
void multiply_tile(std::byte const* words, index_t stride, int runs, std::int32_t const* x, matmul_output const& out) {
  constexpr int vectors = Tokens == 1 ? 4 : 1;
  for (int n = 0; n < matmul_tile; n += vectors * Path::lanes)
    whole_kernel<Path, Bits, Tokens, vectors>{}(words + 4 * n, stride, runs, x, from_output(out, n));
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
