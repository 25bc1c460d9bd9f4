/// How often a layer uses each code: whether a grid is used up or wasted.
#pragma once

#include <gptq/pack/bits.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {

/// [2^bits], codes in the order of their values. Cost about a nanosecond a code.
inline std::vector<std::uint64_t> count_codes(packed_view const& p) {
  constexpr index_t run = 32;       // whole words at every width
  constexpr std::size_t lanes = 4;  // neighbours are often equal: their increments would wait for each other
  std::array<std::array<std::uint64_t, 256>, lanes> counts{};
  matrix<std::uint8_t> codes(run, p.out_features);
  index_t const row_bytes = 4 * p.out_features;
  for (index_t k = 0; k < p.in_features; k += run) {
    auto const part = codes.view().row_range(0, (std::min)(run, p.in_features - k));
    unpack_rows(p.qweight + k * p.spec.bits / 32 * row_bytes, row_bytes, p.spec.bits, part);
    for (index_t r = 0; r < part.rows; ++r)
      for (index_t n = 0; n < part.cols; ++n) ++counts[static_cast<std::size_t>(n) % lanes][part(r, n)];
  }
  std::vector<std::uint64_t> total(std::size_t{1} << p.spec.bits);
  for (std::size_t c = 0; c < total.size(); ++c)
    for (auto const& lane : counts) total[c] += lane[c];
  return total;
}

}  // namespace v0
}  // namespace gptq
