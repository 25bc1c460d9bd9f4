/// Element types and tensors of model files.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/float16.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/core/unaligned.hpp>
#include <gptq/io/message.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Element types of safetensors.
enum class dtype : unsigned char {
  boolean,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  i64,
  u64,
  f64
};

namespace detail {
struct dtype_fact {
  char const* name;
  std::size_t size;
};
inline constexpr std::array<dtype_fact, 15> dtype_facts = {{{"BOOL", 1},
                                                            {"U8", 1},
                                                            {"I8", 1},
                                                            {"F8_E5M2", 1},
                                                            {"F8_E4M3", 1},
                                                            {"I16", 2},
                                                            {"U16", 2},
                                                            {"F16", 2},
                                                            {"BF16", 2},
                                                            {"I32", 4},
                                                            {"U32", 4},
                                                            {"F32", 4},
                                                            {"I64", 8},
                                                            {"U64", 8},
                                                            {"F64", 8}}};
}  // namespace detail

/// Bytes of one element.
constexpr std::size_t size_of(dtype t) { return detail::dtype_facts[static_cast<std::size_t>(t)].size; }

/// The name in files, for example "BF16".
constexpr char const* to_string(dtype t) { return detail::dtype_facts[static_cast<std::size_t>(t)].name; }

/// The type of that name, if there is one.
inline std::optional<dtype> parse_dtype(std::string_view name) {
  for (std::size_t t = 0; t < detail::dtype_facts.size(); ++t)
    if (name == detail::dtype_facts[t].name) return static_cast<dtype>(t);
  return std::nullopt;
}

/// The types a weight may be stored in.
constexpr bool is_float(dtype t) { return t == dtype::f32 || t == dtype::f16 || t == dtype::bf16; }

/// "[768, 256]"
inline std::string to_string(std::vector<std::int64_t> const& shape) {
  std::string text = "[";
  for (std::size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

/// The bytes that a tensor takes; nothing if a size is negative or the product overflows. Shape [] is one element.
inline std::optional<std::uint64_t> byte_count(dtype type, std::vector<std::int64_t> const& shape) {
  std::uint64_t bytes = size_of(type);
  bool empty = false;
  for (std::int64_t const n : shape) {
    if (n < 0) return std::nullopt;
    if (n == 0) {
      empty = true;  // the other sizes still must be plausible
      continue;
    }
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(n), &bytes)) return std::nullopt;
  }
  if (bytes > static_cast<std::uint64_t>((std::numeric_limits<std::int64_t>::max)())) return std::nullopt;
  return empty ? 0 : bytes;
}

/// A tensor that is not there yet.
struct tensor_outline {
  std::string name;
  dtype type = dtype::i32;
  std::vector<std::int64_t> shape;

  /// Throws std::bad_optional_access for a shape that is impossible.
  [[nodiscard]] std::uint64_t bytes() const { return byte_count(type, shape).value(); }
};

/// One tensor of an open file. `bytes` points into a read-only mapping, row-major, little-endian and possibly
/// unaligned: read elements with load() or memcpy. Valid while the file it came from is open.
struct tensor_view {
  std::string name;
  dtype type = dtype::f32;
  std::vector<std::int64_t> shape;
  std::span<std::byte const> bytes;
  std::filesystem::path file;

  [[nodiscard]] index_t size() const { return static_cast<index_t>(bytes.size() / size_of(type)); }
};

namespace detail {
/// "file: tensor 'name': ", the start of every message about a tensor.
inline std::string tensor_place(tensor_view const& t) {
  return t.file.string() + ": tensor '" + printable(t.name) + "': ";
}

template <class T>
void widen(std::byte const* from, float* to, index_t n) {
  for (index_t i = 0; i < n; ++i) to[i] = gptq::to_float(load<T>(from, i));
}
}  // namespace detail

/// Converts elements [first, first + count) to float. Throws format_error for other types than F32, F16 and BF16.
inline void to_float(tensor_view const& t, index_t first, index_t count, float* out) {
  std::byte const* const from = t.bytes.data() + static_cast<std::size_t>(first) * size_of(t.type);
  switch (t.type) {
    case dtype::f32: detail::widen<float>(from, out, count); break;
    case dtype::f16: detail::widen<float16>(from, out, count); break;
    case dtype::bf16: detail::widen<bfloat16>(from, out, count); break;
    default: throw format_error(detail::tensor_place(t) + "F32, F16 or BF16 is needed, not " + to_string(t.type));
  }
}

/// The whole tensor as floats: two dimensions, or one as a single row. Throws format_error naming file and tensor.
inline matrix<float> to_float(tensor_view const& t) {
  if (t.shape.empty() || t.shape.size() > 2)
    throw format_error(detail::tensor_place(t) + "one or two dimensions are needed, not " + to_string(t.shape));
  if (!is_float(t.type))
    throw format_error(detail::tensor_place(t) + "F32, F16 or BF16 is needed, not " + to_string(t.type));
  matrix<float> out(t.shape.size() == 2 ? t.shape[0] : 1, t.shape.back());
  to_float(t, 0, out.size(), out.data());
  return out;
}

}  // namespace v0
}  // namespace gptq
