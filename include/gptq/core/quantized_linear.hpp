/// The result of quantizing one linear layer.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/core/report.hpp>
#include <gptq/core/spec.hpp>

#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Integer codes and their grids: weight(n, k) = scales(g, n) · (codes(k, n) − zeros(g, n)) with g = g_idx[k].
/// Rows of `codes` are inputs in stored order, columns are outputs: the layout that packed words have.
template <class Codes, class Scales>
struct basic_quantized_linear {
  layer_format spec;
  Codes codes;                      ///< [in × out], 0 … 2^bits − 1
  Scales scales;                    ///< [groups × out], positive
  Codes zeros;                      ///< [groups × out]
  std::vector<std::int32_t> g_idx;  ///< [in], the group of each input
  linear_report report;

  [[nodiscard]] index_t in_features() const { return codes.rows(); }
  [[nodiscard]] index_t out_features() const { return codes.cols(); }
  [[nodiscard]] index_t groups() const { return scales.rows(); }
};

/// In host memory.
using quantized_linear = basic_quantized_linear<matrix<std::uint8_t>, matrix<float>>;

/// The same in a backend's memory. (Not a template on the backend's matrix template: to clang, an alias of `matrix` is
/// another template than `matrix`.)
template <class B>
using quantized_linear_of =
    basic_quantized_linear<typename B::template matrix_type<std::uint8_t>, typename B::template matrix_type<float>>;

}  // namespace v0
}  // namespace gptq
