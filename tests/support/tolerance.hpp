/// Every tolerance of the numeric tests, in one place; tests hold no literals.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

namespace test {

template <class T>
struct tolerance {
  static constexpr double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  static double gram(std::size_t tokens) { return 4 * eps * std::sqrt(static_cast<double>(tokens)); }
  static double factor(std::size_t in) { return 8 * eps * std::sqrt(static_cast<double>(in)); }
  static constexpr double objective = 1e-3;  ///< relative, tr(E·H·Eᵀ) of a whole layer at damp ≥ 1e-3
  /// The same for an output that goes another way after a tie: as many roundings drawn anew, three sigma at 256 inputs.
  static constexpr double objective_after_tie = 0.25;
  static constexpr double tie = std::numeric_limits<T>::digits > 30 ? 1e-12 : 1e-4;  ///< of a half-integer, in steps
  static constexpr double scale_tie =
      std::numeric_limits<T>::digits > 30 ? 1e-9 : 1e-2;  ///< of a float16 midpoint, in float16 steps
  static constexpr double product_roundings = 2;   ///< of a product from codes, in roundings of the sum of all terms
  static constexpr double outlier_roundings = 10;  ///< the same where one input is most of that sum
  static constexpr double differing_rows = 0.1;    ///< share of outputs that may differ, each from a tie on
};

}  // namespace test
