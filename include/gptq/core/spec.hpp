/// What a linear layer is quantized to. `layer_format` is what a file says of it; `quant_spec` adds what only the solve
/// needs to know, as one structural value that is a template argument or a run-time value:
///
///   constexpr gptq::quant_spec spec{.bits = 4, .group_size = 128, .order = gptq::column_order::group_aware};
///   auto q = gptq::quantize<spec>(backend, weight, hessian);
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/macros.hpp>

#include <string>

namespace gptq {
inline namespace v0 {

/// The order in which input columns are quantized.
enum class column_order : unsigned char {
  natural,      ///< as stored
  desc_act,     ///< by falling diagonal of the Hessian; groups follow that order, so g_idx is scattered
  group_aware,  ///< by falling diagonal inside each group and group by group (arXiv 2505.14638); g_idx stays trivial
};

/// The codes and grids of one quantized linear layer, as files declare them.
struct layer_format {
  int bits = 4;          ///< 2, 3, 4 or 8
  int group_size = 128;  ///< inputs that share scale and zero point; -1 is one group a row
  bool sym = true;       ///< the zero point is fixed at 2^(bits-1)

  friend constexpr bool operator==(layer_format const&, layer_format const&) = default;
};

/// Zero point of a symmetric grid: 2, 4, 8, 128.
GPTQ_HD constexpr int sym_zero(int bits) { return 1 << (bits - 1); }

/// What one linear layer is quantized to, and in which order of its columns.
struct quant_spec {
  int bits = 4;  ///< these three: see layer_format
  int group_size = 128;
  bool sym = true;
  column_order order = column_order::natural;
  bool static_groups = false;  ///< groups and their grids are fixed before the pass, in stored order

  /// What a file says of the result.
  [[nodiscard]] constexpr layer_format format() const { return {bits, group_size, sym}; }

  friend constexpr bool operator==(quant_spec const&, quant_spec const&) = default;
};

/// Columns between two refreshes of the group grids (the "lazy block" of the public reference).
inline constexpr int grid_block = 128;

/// What the solver can make.
constexpr bool valid_bits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }
constexpr bool valid_group_size(int g) { return g == -1 || (g >= 16 && (grid_block % g == 0 || g % grid_block == 0)); }
constexpr bool valid_static_groups(quant_spec s) {
  return !s.static_groups || (s.group_size != -1 && s.order != column_order::group_aware);
}

/// Refuses an invalid spec at compile time, and says why.
template <quant_spec Spec>
struct checked_spec {
  static_assert(valid_bits(Spec.bits), "gptq: bits must be 2, 3, 4 or 8");
  static_assert(valid_group_size(Spec.group_size),
                "gptq: group_size must be -1, or at least 16 and a divisor or a multiple of 128");
  static_assert(valid_static_groups(Spec),
                "gptq: static_groups needs a group_size other than -1 and an order other than group_aware");
  static constexpr quant_spec value = Spec;
};

/// Refuses widths that no code has and group sizes that are neither -1 nor positive: all that packing needs. Files may
/// hold group sizes that the solver does not make. Throws shape_error.
inline void check_layer_format(layer_format const& f) {
  if (!valid_bits(f.bits)) throw shape_error("bits must be 2, 3, 4 or 8, not " + std::to_string(f.bits));
  if (f.group_size != -1 && f.group_size < 1)
    throw shape_error("group_size must be -1 or positive, not " + std::to_string(f.group_size));
}

/// The check of checked_spec at run time. Throws shape_error.
inline void check_spec(quant_spec const& s) {
  if (!valid_bits(s.bits)) throw shape_error("bits must be 2, 3, 4 or 8, not " + std::to_string(s.bits));
  if (!valid_group_size(s.group_size))
    throw shape_error("group_size must be -1, or at least 16 and a divisor or a multiple of 128, not " +
                      std::to_string(s.group_size));
  if (!valid_static_groups(s))
    throw shape_error("static_groups needs a group_size other than -1 and an order other than group_aware");
}

/// Whether files need a scattered g_idx: only dynamic groups that follow a data-dependent order do.
constexpr bool scattered_groups(quant_spec const& s) {
  return s.order == column_order::desc_act && !s.static_groups && s.group_size != -1;
}

/// Groups along `in_features` inputs; the last one may be ragged.
template <class Int>
constexpr Int group_count(Int in_features, int group_size) {
  return group_size == -1 ? (in_features > 0 ? 1 : 0) : (in_features + group_size - 1) / group_size;
}

/// Common choices, by width and group size.
inline constexpr quant_spec w2g64{.bits = 2, .group_size = 64};
inline constexpr quant_spec w3g128{.bits = 3};
inline constexpr quant_spec w4g128{.bits = 4};
inline constexpr quant_spec w8g128{.bits = 8};

/// Calls f.template operator()<Bits, Sym>() for the runtime pair: the one place where a runtime spec becomes code.
template <class F>
decltype(auto) dispatch(quant_spec const& s, F&& f) {
  check_spec(s);
  switch (s.bits) {
    case 2: return s.sym ? f.template operator()<2, true>() : f.template operator()<2, false>();
    case 3: return s.sym ? f.template operator()<3, true>() : f.template operator()<3, false>();
    case 4: return s.sym ? f.template operator()<4, true>() : f.template operator()<4, false>();
    default: return s.sym ? f.template operator()<8, true>() : f.template operator()<8, false>();
  }
}

}  // namespace v0
}  // namespace gptq
