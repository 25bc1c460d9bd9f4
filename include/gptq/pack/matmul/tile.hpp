/// The inner loop of the product from packed codes: a chunk of inputs times a tile of outputs, sums in registers.
#pragma once

#include <gptq/core/flags.hpp>
#include <gptq/pack/bits.hpp>
#include <gptq/pack/matmul/path.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

inline constexpr int matmul_tile = 64;  ///< outputs of a tile, a multiple of all vectors

/// Inputs at most of a chunk, whole runs of codes: as many rows of words as memory delivers well at the same time.
template <int Bits>
inline constexpr int matmul_chunk = Bits == 3 ? 96 : 256 / Bits;

/// Where the sums of a chunk go: y += scale · (unit · sum − zero · x_sum), zero being centred at 2^(bits−1).
struct matmul_output {
  float* y;             ///< [tokens × …], at the tile's first output
  index_t stride;       ///< of y, in elements
  float const* units;   ///< of the tokens: what their sums are counted in
  float const* x_sums;  ///< of the tokens: Σ x
  float const* scales;  ///< of the outputs, like zeros
  float const* zeros;
};

/// Scales and centred zero points of a chunk whose inputs are of several groups.
struct matmul_groups {
  float const* scales = nullptr;           ///< [groups × …], at the tile's first output
  float const* zeros = nullptr;            ///< likewise
  index_t stride = 0;                      ///< of both, in elements
  std::int32_t const* of_input = nullptr;  ///< the group of each input of the chunk
};

inline matmul_output from_output(matmul_output out, index_t n) {
  out.y += n, out.scales += n, out.zeros += n;
  return out;
}

/// The sums of a vector of outputs, from the n-th on.
template <class Path>
void add_to(matmul_output const& out, index_t t, index_t n, typename Path::floats sum) {
  float* const y = out.y + t * out.stride + n;
  auto const zeros = Path::load(out.zeros + n) * Path::broadcast(out.x_sums[t]);
  Path::store(y, Path::load(y) + Path::load(out.scales + n) * (sum * Path::broadcast(out.units[t]) - zeros));
}

/// Adds Σ_k x[k · Tokens + t] · (code(k, n) − 2^(Bits−1)) / unit to the Vectors · lanes outputs from `words` on; with
/// groups Σ_k x · scale · (code − zero), as it is. `words` are those of `runs` runs of codes, rows being `stride` bytes
/// apart.
template <class Path, int Bits, int Tokens, int Vectors, bool Grouped>
struct matmul_kernel {
  using run = code_run<Bits>;
  using ints = typename Path::ints;
  using floats = typename Path::floats;

  static constexpr auto tokens = static_cast<std::size_t>(Tokens), vectors = static_cast<std::size_t>(Vectors);

  floats sums[tokens][vectors];
  ints words[vectors][static_cast<std::size_t>(run::words)];

  /// Input J of a run, x its values for the tokens.
  template <int J>
  void add(float const* x, matmul_groups const& groups, std::int32_t const* group) {
    constexpr int word = J * Bits / 32, shift = J * Bits % 32;
    floats weight[vectors];
    for (int v = 0; v < Vectors; ++v) {
      if constexpr (shift + Bits <= 32)
        weight[v] = Path::template code<Bits, shift>(words[v][word]);
      else
        weight[v] = Path::template code<Bits, 0>(Path::template join<shift>(words[v][word], words[v][word + 1]));
      if constexpr (Grouped) {
        index_t const at = group[J] * groups.stride + v * Path::lanes;
        weight[v] = Path::scaled_difference(weight[v], Path::template unit<Bits>, Path::load(groups.zeros + at),
                                            Path::load(groups.scales + at));
      }
    }
    for (int t = 0; t < Tokens; ++t) {
      floats const value = Path::broadcast(x[J * Tokens + t]);
      for (int v = 0; v < Vectors; ++v) sums[t][v] = Path::multiply_add(weight[v], value, sums[t][v]);
    }
  }

  template <int... Word>
  void load(std::byte const* from, index_t stride, std::integer_sequence<int, Word...>) {
    for (int v = 0; v < Vectors; ++v)
      ((words[v][Word] = Path::template prepare<Bits, Word>(Path::load(from + Word * stride + v * Path::lanes * 4))),
       ...);
  }

  template <int... J>
  void add_run(float const* x, matmul_groups const& groups, std::int32_t const* group,
               std::integer_sequence<int, J...>) {
    (add<J>(x, groups, group), ...);
  }

  void operator()(std::byte const* from, index_t stride, int runs, float const* x, matmul_groups const& groups,
                  matmul_output const& out) {
    for (int t = 0; t < Tokens; ++t)
      for (int v = 0; v < Vectors; ++v) sums[t][v] = Path::broadcast(0.0f);
    for (int r = 0; r < runs; ++r) {
      load(from + r * run::words * stride, stride, std::make_integer_sequence<int, run::words>{});
      add_run(x + r * run::codes * Tokens, groups, Grouped ? groups.of_input + r * run::codes : nullptr,
              std::make_integer_sequence<int, run::codes>{});
    }
    for (int t = 0; t < Tokens; ++t)
      for (int v = 0; v < Vectors; ++v) {
        if constexpr (Grouped) {
          float* const y = out.y + t * out.stride + v * Path::lanes;
          Path::store(y, Path::load(y) + sums[t][v]);
        } else {
          add_to<Path>(out, t, v * Path::lanes, sums[t][v]);
        }
      }
  }
};

/// The same for all outputs of a tile.
template <class Path, int Bits, int Tokens, bool Grouped>
void multiply_tile(std::byte const* words, index_t stride, int runs, float const* x, matmul_groups groups,
                   matmul_output const& out) {
  constexpr int vectors = Tokens == 1 ? 4 : Path::vectors;
  for (int n = 0; n < matmul_tile; n += vectors * Path::lanes) {
    matmul_kernel<Path, Bits, Tokens, vectors, Grouped> kernel;
    kernel(words + 4 * n, stride, runs, x, groups, from_output(out, n));
    if constexpr (Grouped) {
      groups.scales += vectors * Path::lanes;
      groups.zeros += vectors * Path::lanes;
    }
  }
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
