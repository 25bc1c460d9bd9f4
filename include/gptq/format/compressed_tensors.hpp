/// Layers as compressed-tensors ("pack-quantized") holds them: the words of GPTQ transposed.
///
///   X.weight_packed I32 [out × word_count(in)]        X.weight_scale [out × groups]    X.weight_shape I64 [2] = out, in
///   X.weight_zero_point I32 [word_count(out) × groups], asymmetric grids only         X.weight_g_idx, with act order
///
/// Codes are the same unsigned numbers, so for 2, 4 and 8 bits nothing is re-coded; versions disagree about 3 bits.
#pragma once

#include <gptq/io/tensor.hpp>
#include <gptq/io/writer.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The tensors of a layer in GPTQ's layout, made from others.
struct transposed_tensors {
  std::vector<std::byte> qweight, qzeros, scales;
};

namespace detail {

/// [rows × cols] elements of `size` bytes → [cols × rows].
inline std::vector<std::byte> transposed(std::byte const* from, index_t rows, index_t cols, std::size_t size) {
  std::vector<std::byte> out(static_cast<std::size_t>(rows * cols) * size);
  constexpr index_t tile = 32;
  for (index_t r0 = 0; r0 < rows; r0 += tile)
    for (index_t c0 = 0; c0 < cols; c0 += tile)
      for (index_t c = c0; c < cols && c < c0 + tile; ++c)
        for (index_t r = r0; r < rows && r < r0 + tile; ++r)
          std::memcpy(out.data() + static_cast<std::size_t>(c * rows + r) * size,
                      from + static_cast<std::size_t>(r * cols + c) * size, size);
  return out;
}

inline std::span<std::byte const> words_of(matrix<std::int32_t> const& m) {
  return {reinterpret_cast<std::byte const*>(m.data()), static_cast<std::size_t>(m.size()) * 4};
}

struct compressed_tensors_parts {
  tensor_view const* packed = nullptr;
  tensor_view const* scale = nullptr;
  tensor_view const* zero_point = nullptr;
  tensor_view const* shape = nullptr;
  tensor_view const* g_idx = nullptr;
};

/// Fills `view` and what it points to. Returns what is wrong, or nothing.
inline std::string transpose_compressed(compressed_tensors_parts const& t, int bits, bool sym, std::string const& name,
                                        packed_view& view, std::shared_ptr<transposed_tensors const>& own) {
  std::string missing;
  for (auto const& [tensor, suffix, needed] :
       {std::tuple(t.scale, ".weight_scale", true), std::tuple(t.shape, ".weight_shape", true),
        std::tuple(t.zero_point, ".weight_zero_point", !sym)})
    if (!tensor && needed) missing += (missing.empty() ? "" : ", ") + printable(name) + suffix;
  if (!missing.empty()) return "missing tensors: " + missing;
  if (bits == 3) return "3 bit codes, which versions of compressed-tensors pack differently, are not supported";
  bool const pair = t.shape->shape == std::vector<std::int64_t>{2} || t.shape->shape == std::vector<std::int64_t>{2, 1};
  if (!pair || (t.shape->type != dtype::i64 && t.shape->type != dtype::i32))
    return "weight_shape is " + std::string(to_string(t.shape->type)) + " " + to_string(t.shape->shape) +
           ", not two integers";
  auto const size = [&](index_t i) {
    return t.shape->type == dtype::i64 ? load<std::int64_t>(t.shape->bytes.data(), i)
                                       : std::int64_t{load<std::int32_t>(t.shape->bytes.data(), i)};
  };
  index_t const out = size(0), in = size(1);
  constexpr index_t most = index_t{1} << 31;
  bool const plausible = out > 0 && in > 0 && out < most && in < most;
  auto const is = [&](tensor_view const& x, index_t rows, index_t cols) {
    return x.shape == std::vector<std::int64_t>{rows, cols};
  };
  index_t const groups = t.scale->shape.size() == 2 ? t.scale->shape[1] : 0;
  if (!plausible || groups == 0 || groups > in || t.packed->type != dtype::i32 || !is_float(t.scale->type) ||
      !is(*t.packed, out, word_count(in, bits)) || !is(*t.scale, out, groups) ||
      (t.zero_point && (t.zero_point->type != dtype::i32 || !is(*t.zero_point, word_count(out, bits), groups))) ||
      (t.g_idx && (t.g_idx->type != dtype::i32 || t.g_idx->shape != std::vector<std::int64_t>{in})))
    return "shapes do not fit together at " + std::to_string(bits) + " bits: weight_packed " +
           to_string(t.packed->shape) + ", weight_scale " + to_string(t.scale->shape) +
           (t.zero_point ? ", weight_zero_point " + to_string(t.zero_point->shape) : std::string()) +
           ", weight_shape [" + std::to_string(out) + ", " + std::to_string(in) + "]";
  transposed_tensors made;
  made.qweight = transposed(t.packed->bytes.data(), out, word_count(in, bits), 4);
  made.scales = transposed(t.scale->bytes.data(), out, groups, size_of(t.scale->type));
  if (t.zero_point) {
    made.qzeros = transposed(t.zero_point->bytes.data(), word_count(out, bits), groups, 4);
  } else {
    matrix<std::uint8_t> middle(groups, out);
    for (index_t i = 0; i < middle.size(); ++i) middle.data()[i] = static_cast<std::uint8_t>(1 << (bits - 1));
    matrix<std::int32_t> const words = pack_columns(middle, bits);
    auto const bytes = words_of(words);
    made.qzeros.assign(bytes.begin(), bytes.end());
  }
  own = std::make_shared<transposed_tensors const>(std::move(made));
  view.spec.bits = bits;
  view.format = checkpoint_format::compressed_tensors;
  view.in_features = in;
  view.out_features = out;
  view.groups = groups;
  view.qweight = own->qweight.data();
  view.qzeros = own->qzeros.data();
  view.scales = own->scales.data();
  view.scales_type = t.scale->type == dtype::f16    ? scale_type::f16
                     : t.scale->type == dtype::bf16 ? scale_type::bf16
                                                    : scale_type::f32;
  view.g_idx = t.g_idx ? t.g_idx->bytes.data() : nullptr;
  return {};
}

}  // namespace detail

/// Writes the tensors of a layer in a format; the codes and scales stay as they are, to the bit.
/// Throws format_error naming the layer for what the format can't say: zero points of 0 in gptq; 3 bits and a scattered
/// g_idx in compressed-tensors.
inline void write_quantized(checkpoint_writer& writer, std::string const& name, packed_view const& p,
                            checkpoint_format format) {
  auto const refuse = [&](std::string const& why) { throw format_error(name + ": " + why); };
  index_t const words_in = word_count(p.in_features, p.spec.bits);
  index_t const words_out = word_count(p.out_features, p.spec.bits);
  index_t const out = p.out_features;
  std::vector<std::int32_t> const g_idx = group_index(p);
  std::size_t const scale_size = p.scales_type == scale_type::f32 ? 4 : 2;
  dtype const scale_dtype = p.scales_type == scale_type::f16    ? dtype::f16
                            : p.scales_type == scale_type::bf16 ? dtype::bf16
                                                                : dtype::f32;
  matrix<std::uint8_t> fields(p.groups, out);
  int const minus = format == checkpoint_format::gptq ? 1 : 0;
  for (index_t g = 0; g < p.groups; ++g)
    for (index_t n = 0; n < out; ++n) {
      int const zero = zero_at(p, g, n);
      if (zero < minus) refuse("a zero point is 0, which format gptq can't store: use gptq_v2");
      fields(g, n) = static_cast<std::uint8_t>(zero - minus);
    }
  matrix<std::int32_t> const zeros = pack_columns(fields, p.spec.bits);
  if (format != checkpoint_format::compressed_tensors) {
    writer.add(name + ".qweight", dtype::i32, {words_in, out},
               {p.qweight, static_cast<std::size_t>(4 * words_in * out)});
    writer.add(name + ".qzeros", dtype::i32, {p.groups, words_out}, detail::words_of(zeros));
    writer.add(name + ".scales", scale_dtype, {p.groups, out},
               {p.scales, static_cast<std::size_t>(p.groups * out) * scale_size});
    writer.add(name + ".g_idx", dtype::i32, {p.in_features}, std::as_bytes(std::span(g_idx)));
    return;
  }
  if (p.spec.bits == 3) refuse("3 bit codes have no settled form in compressed-tensors");
  if (scattered(g_idx, p.spec.group_size))
    refuse("a scattered g_idx (desc_act) is not written as compressed-tensors: quantize with --order group_aware");
  std::int64_t const shape[] = {out, p.in_features};
  writer.add(name + ".weight_packed", dtype::i32, {out, words_in}, detail::transposed(p.qweight, words_in, out, 4));
  writer.add(name + ".weight_scale", scale_dtype, {out, p.groups},
             detail::transposed(p.scales, p.groups, out, scale_size));
  writer.add(name + ".weight_shape", dtype::i64, {2}, std::as_bytes(std::span(shape)));
  if (!p.spec.sym)
    writer.add(name + ".weight_zero_point", dtype::i32, {words_out, p.groups},
               detail::transposed(reinterpret_cast<std::byte const*>(zeros.data()), p.groups, words_out, 4));
}

}  // namespace v0
}  // namespace gptq
