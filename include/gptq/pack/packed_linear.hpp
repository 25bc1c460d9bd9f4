/// A quantized linear layer as GPTQ files hold it.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/core/spec.hpp>
#include <gptq/core/unaligned.hpp>
#include <gptq/pack/bits.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How a file holds quantized layers. v1 ("gptq") stores zero − 1, so it can't store zero = 0; v2 ("gptq_v2") stores the
/// zero itself; compressed-tensors holds the words of v2 transposed, under other names.
enum class checkpoint_format : unsigned char { gptq, gptq_v2, compressed_tensors };

/// What a format takes off zero points before it stores them: the lowest zero point that it can hold.
constexpr int zero_offset(checkpoint_format f) { return f == checkpoint_format::gptq ? 1 : 0; }

/// The tensors of one layer, owned; always in the layout of GPTQ files. `format` says what is stored for a zero point.
struct packed_linear {
  layer_format spec;
  checkpoint_format format = checkpoint_format::gptq;
  index_t in_features = 0;
  index_t out_features = 0;
  matrix<std::int32_t> qweight;     ///< [word_count(in) × out], packed along inputs
  matrix<std::int32_t> qzeros;      ///< [groups × word_count(out)], packed along outputs
  matrix<float16> scales;           ///< [groups × out]
  std::vector<std::int32_t> g_idx;  ///< [in], the group of each input
};

/// How scales are stored.
enum class scale_type : unsigned char { f16, bf16, f32 };

/// The same tensors wherever they lie, at any alignment: in a packed_linear, in a mapped file, in an engine's buffers.
struct packed_view {
  layer_format spec;
  checkpoint_format format = checkpoint_format::gptq;
  index_t in_features = 0;
  index_t out_features = 0;
  index_t groups = 0;
  std::byte const* qweight = nullptr;  ///< int32 [word_count(in) × out]
  std::byte const* qzeros = nullptr;   ///< int32 [groups × word_count(out)]
  std::byte const* scales = nullptr;   ///< [groups × out]
  scale_type scales_type = scale_type::f16;
  std::byte const* g_idx = nullptr;  ///< int32 [in], or null for in / group_size
};

/// Valid while `p` is.
inline packed_view view(packed_linear const& p) {
  return {.spec = p.spec,
          .format = p.format,
          .in_features = p.in_features,
          .out_features = p.out_features,
          .groups = p.scales.rows(),
          .qweight = reinterpret_cast<std::byte const*>(p.qweight.data()),
          .qzeros = reinterpret_cast<std::byte const*>(p.qzeros.data()),
          .scales = reinterpret_cast<std::byte const*>(p.scales.data()),
          .scales_type = scale_type::f16,
          .g_idx = p.g_idx.empty() ? nullptr : reinterpret_cast<std::byte const*>(p.g_idx.data())};
}

/// The scale of group g, output n.
inline float scale_at(packed_view const& p, index_t g, index_t n) {
  index_t const at = g * p.out_features + n;
  switch (p.scales_type) {
    case scale_type::f16: return to_float(load<float16>(p.scales, at));
    case scale_type::bf16: return to_float(load<bfloat16>(p.scales, at));
    default: return load<float>(p.scales, at);
  }
}

/// The zero point of group g, output n. In v1 it is the stored field plus one, field by field and masked to `bits`, so
/// a field of all ones reads as 0. Readers disagree there and no writer can serve them all: pack() never writes such a
/// field.
inline std::uint8_t zero_at(packed_view const& p, index_t g, index_t n) {
  index_t const row_bytes = 4 * word_count(p.out_features, p.spec.bits);
  unsigned const stored = code_at(p.qzeros + g * row_bytes, n, p.spec.bits);
  return static_cast<std::uint8_t>((stored + static_cast<unsigned>(zero_offset(p.format))) & ((1u << p.spec.bits) - 1));
}

/// The group of each input, in any case spelled out.
inline std::vector<std::int32_t> group_index(packed_view const& p) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(p.in_features));
  for (index_t k = 0; k < p.in_features; ++k)
    out[static_cast<std::size_t>(k)] = p.g_idx                   ? load<std::int32_t>(p.g_idx, k)
                                       : p.spec.group_size == -1 ? 0
                                                                 : static_cast<std::int32_t>(k / p.spec.group_size);
  return out;
}

/// Whether inputs belong to other groups than their position says: then files declare desc_act, and readers need g_idx.
inline bool scattered(std::span<std::int32_t const> g_idx, int group_size) {
  for (std::size_t k = 0; k < g_idx.size(); ++k)
    if (g_idx[k] != (group_size == -1 ? 0 : static_cast<std::int32_t>(k / static_cast<std::size_t>(group_size))))
      return true;
  return false;
}

}  // namespace v0
}  // namespace gptq
