/// From codes and grids to the tensors of a GPTQ file, and back.
#pragma once

#include <gptq/core/quantized_linear.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

inline void check_sizes(quantized_linear const& q) {
  index_t const in = q.in_features();
  index_t const out = q.out_features();
  if (q.groups() != group_count(in, q.spec.group_size) || q.scales.cols() != out || q.zeros.rows() != q.groups() ||
      q.zeros.cols() != out)
    throw shape_error("pack: codes " + std::to_string(in) + " x " + std::to_string(out) + ", scales " +
                      std::to_string(q.groups()) + " x " + std::to_string(q.scales.cols()) + " and zeros " +
                      std::to_string(q.zeros.rows()) + " x " + std::to_string(q.zeros.cols()) +
                      " do not fit together at group_size " + std::to_string(q.spec.group_size));
  if (!q.g_idx.empty() && static_cast<index_t>(q.g_idx.size()) != in)
    throw shape_error("pack: g_idx has " + std::to_string(q.g_idx.size()) + " entries for " + std::to_string(in) +
                      " inputs");
}

inline void check_groups(std::vector<std::int32_t> const& g_idx, index_t groups) {
  for (std::size_t k = 0; k < g_idx.size(); ++k)
    if (g_idx[k] < 0 || g_idx[k] >= groups)
      throw shape_error("g_idx[" + std::to_string(k) + "] = " + std::to_string(g_idx[k]) + " is outside the " +
                        std::to_string(groups) + " groups");
}

}  // namespace detail

/// Packs outputs [first, first + count) of a layer: siblings that were solved stacked are split here.
/// Throws numeric_error if a scale is not a positive finite number in float16, or if the format is v1 and a zero point
/// is 0 (which v1 can't express: use gptq_v2, or constrain the solver); shape_error if sizes do not fit.
inline packed_linear pack(quantized_linear const& q, checkpoint_format format, index_t first, index_t count) {
  check_layer_format(q.spec);
  detail::check_sizes(q);
  if (first < 0 || count < 0 || first > q.out_features() - count)
    throw shape_error("pack: outputs [" + std::to_string(first) + ", +" + std::to_string(count) + ") of " +
                      std::to_string(q.out_features()));
  packed_linear p;
  p.spec = q.spec;
  p.format = format;
  p.in_features = q.in_features();
  p.out_features = count;
  p.qweight = pack_rows(q.codes.view().col_range(first, count), q.spec.bits);

  unsigned const top = (1u << q.spec.bits) - 1;
  auto const one = static_cast<unsigned>(zero_offset(format));
  matrix<std::uint8_t> fields(q.groups(), count);
  p.scales = matrix<float16>(q.groups(), count);
  for (index_t g = 0; g < q.groups(); ++g)
    for (index_t n = 0; n < count; ++n) {
      auto const place = [&] { return "group " + std::to_string(g) + ", output " + std::to_string(n); };
      unsigned const zero = q.zeros(g, first + n);
      if (zero < one)
        throw numeric_error("pack: zero point 0 (" + place() + ") can't be stored in format gptq, but in gptq_v2",
                            remedy::format_gptq_v2);
      if (zero > top)
        throw shape_error("pack: zero point " + std::to_string(zero) + " (" + place() + ") is above " +
                          std::to_string(top));
      fields(g, n) = static_cast<std::uint8_t>(zero - one);
      float const scale = q.scales(g, first + n);
      float const rounded = to_float(p.scales(g, n) = to_float16(scale));
      if (!(rounded > 0) || !std::isfinite(rounded))
        throw numeric_error("pack: scale " + std::to_string(scale) + " (" + place() + ") becomes " +
                            std::to_string(rounded) + " in float16");
    }
  p.qzeros = pack_columns(fields, q.spec.bits);
  p.g_idx = q.g_idx;
  if (p.g_idx.empty()) p.g_idx = group_index(view(p));
  detail::check_groups(p.g_idx, q.groups());
  return p;
}

/// Packs a whole layer.
inline packed_linear pack(quantized_linear const& q, checkpoint_format format) {
  return pack(q, format, 0, q.out_features());
}

/// Codes, scales and zeros of packed tensors. Throws shape_error if g_idx names a group that does not exist.
inline quantized_linear unpack(packed_view const& p) {
  quantized_linear q;
  q.spec = p.spec;
  q.codes = matrix<std::uint8_t>(p.in_features, p.out_features);
  unpack_rows(p.qweight, 4 * p.out_features, p.spec.bits, q.codes);
  q.scales = matrix<float>(p.groups, p.out_features);
  q.zeros = matrix<std::uint8_t>(p.groups, p.out_features);
  for (index_t g = 0; g < p.groups; ++g)
    for (index_t n = 0; n < p.out_features; ++n) {
      q.scales(g, n) = scale_at(p, g, n);
      q.zeros(g, n) = zero_at(p, g, n);
    }
  q.g_idx = group_index(p);
  detail::check_groups(q.g_idx, p.groups);
  return q;
}

inline quantized_linear unpack(packed_linear const& p) { return unpack(view(p)); }

}  // namespace v0
}  // namespace gptq
