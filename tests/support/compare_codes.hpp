/// Compares codes with the oracle's. GPTQ feeds rounding errors forward: one tie broken the other way changes every
/// later column of that output. So a differing output counts as explained only if its *first* difference in processing
/// order is a tie of the rounding, or its grid a tie of the rounding to float16 or of the range search.
#pragma once

#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <gptq/core/quantized_linear.hpp>

namespace test {

struct code_comparison {
  std::size_t differing_outputs = 0;
  std::size_t unexplained = 0;
  std::size_t outputs = 0;
  [[nodiscard]] bool acceptable(double share) const {
    return unexplained == 0 &&
           static_cast<double>(differing_outputs) <= std::ceil(share * static_cast<double>(outputs));
  }
};

/// Distance of a scale to the nearest midpoint between two float16 values, relative to their spacing.
inline double float16_tie(double scale) {
  auto const down = gptq::to_float16(static_cast<float>(scale));
  double const a = static_cast<double>(gptq::to_float(down));
  double const up = static_cast<double>(gptq::to_float(gptq::float16{static_cast<std::uint16_t>(down.bits + 1)}));
  double const below = static_cast<double>(gptq::to_float(gptq::float16{static_cast<std::uint16_t>(down.bits - 1)}));
  return (std::min)(std::abs(scale - (a + up) / 2), std::abs(scale - (a + below) / 2)) / (up - a);
}

template <class T>
code_comparison compare_codes(gptq::quantized_linear const& ours, oracle_result const& oracle, bool searched) {
  code_comparison result;
  result.outputs = oracle.codes.size();
  for (std::size_t n = 0; n < result.outputs; ++n)
    for (std::int32_t stored : oracle.order) {
      auto const k = static_cast<std::size_t>(stored);
      auto const row = static_cast<gptq::index_t>(n);
      auto const g = static_cast<std::size_t>(oracle.g_idx[k]);
      auto const& grid = oracle.grids[n][g];
      double const scale = static_cast<double>(ours.scales(static_cast<gptq::index_t>(g), row));
      bool const same_grid = std::abs(scale - grid.scale) <= 1e-5 * grid.scale &&
                             static_cast<double>(ours.zeros(static_cast<gptq::index_t>(g), row)) == grid.zero;
      if (same_grid && static_cast<double>(ours.codes(stored, row)) == oracle.codes[n][k]) continue;
      ++result.differing_outputs;
      double const steps = oracle.steps[n][k];
      double const code_tie = std::abs(std::abs(steps - std::floor(steps)) - 0.5);
      bool const same_scale = std::abs(scale - grid.scale) <= 1e-5 * grid.scale;  // then an asymmetric zero point tied
      bool const explained = same_grid
                                 ? code_tie < tolerance<T>::tie
                                 : searched || same_scale || float16_tie(grid.unrounded) < tolerance<T>::scale_tie;
      if (!explained) ++result.unexplained;
      break;
    }
  return result;
}

}  // namespace test
