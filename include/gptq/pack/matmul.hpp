/// The product of activations with a packed layer, straight from its codes: y = x · Wᵀ with W as dequantize() gives it,
/// in float. For engines: no other library, no allocation but for scattered groups, no threads of its own, the vector
/// path chosen by the compiler's flags (AVX-512, with VNNI in whole numbers; AVX2 with FMA; else vectors of 128 bits).
#pragma once

#include <gptq/core/flags.hpp>
#include <gptq/pack/bits.hpp>
#include <gptq/pack/matmul/tile.hpp>
#include <gptq/pack/matmul/whole.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {
inline namespace GPTQ_FLAGS {

inline constexpr index_t matmul_outputs = 1024;           ///< of a block: long enough to read rows of words as streams
inline constexpr index_t matmul_scattered_outputs = 256;  ///< the same where grids of all groups are kept
inline constexpr index_t matmul_tokens = 64;  ///< of a block: its inputs of a chunk stay in the first-level cache

inline void prefetch(std::byte const* from, index_t bytes) {
  for (index_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
}

inline std::int32_t group_of(packed_view const& p, index_t k) {
  if (p.g_idx) return load<std::int32_t>(p.g_idx, k);
  return p.spec.group_size == -1 ? 0 : static_cast<std::int32_t>(k / p.spec.group_size);
}

/// How many of the inputs [k, k + most) have the group of the first.
inline index_t same_group(packed_view const& p, index_t k, index_t most) {
  if (!p.g_idx) return p.spec.group_size == -1 ? most : std::min(most, p.spec.group_size - k % p.spec.group_size);
  index_t same = 1;
  while (same < most && load<std::int32_t>(p.g_idx, k + same) == load<std::int32_t>(p.g_idx, k)) ++same;
  return same;
}

/// Whether a run of codes, and with it some chunk, may have inputs of several groups. Throws shape_error if g_idx names
/// a group that does not exist, or groups are missing.
template <int Run>
bool several_groups(packed_view const& p) {
  if (!p.g_idx) {
    if (p.in_features > 0 && group_of(p, p.in_features - 1) >= p.groups)
      throw shape_error("matmul: " + std::to_string(p.groups) + " groups are too few for " +
                        std::to_string(p.in_features) + " inputs");
    return p.spec.group_size != -1 && p.spec.group_size % Run != 0;
  }
  bool several = false;
  std::int32_t before = 0;
  for (index_t k = 0; k < p.in_features; ++k) {
    auto const g = load<std::int32_t>(p.g_idx, k);
    if (g < 0 || g >= p.groups)
      throw shape_error("g_idx[" + std::to_string(k) + "] = " + std::to_string(g) + " is outside the " +
                        std::to_string(p.groups) + " groups");
    if (k % Run != 0) several |= g != before;
    before = g;
  }
  return several;
}

/// A block of outputs times a block of tokens, chunk by chunk of inputs. Sums of a chunk of one group are
/// scale · (Σ x · code' − zero' · Σ x), with codes and zero points centred at 2^(bits−1); they are taken in whole
/// numbers where the path can, whatever the number of tokens.
template <class Path, int Bits>
class matmul_block {
  using run = code_run<Bits>;
  static constexpr int tile = matmul_tile;

  packed_view const& p_;
  index_t first_;  ///< output
  matrix_view<float const> in_;
  matrix_view<float> y_;
  std::int32_t group_ = -1;   ///< whose grid is in scales_ and zeros_
  std::vector<float> grids_;  ///< of all groups, where a chunk has several: scales, then zero points

  alignas(64) float x_[matmul_chunk<Bits> * matmul_tokens];
  alignas(64) std::int32_t digits_[Path::whole_numbers ? split_size(matmul_chunk<Bits>) * matmul_tokens : 1];
  alignas(64) float scales_[matmul_outputs] = {};
  alignas(64) float zeros_[matmul_outputs] = {};
  alignas(64) float ragged_[Path::tokens * tile] = {};  ///< outputs of a tile at an end
  alignas(64) std::int32_t words_[static_cast<std::size_t>(matmul_chunk<Bits> * Bits / 32 * tile)];
  std::uint8_t fields_[matmul_outputs];
  float x_sums_[matmul_tokens + Path::tokens] = {};
  float units_[matmul_tokens + Path::tokens] = {};  ///< that a token's sums are counted in
  std::int32_t groups_[matmul_chunk<Bits>];

  /// Scales and centred zero points of the block's outputs in group g.
  void read_grid(index_t g, float* scales, float* zeros) {
    index_t const n = y_.cols, scale_bytes = p_.scales_type == scale_type::f32 ? 4 : 2;
    auto const scales_of = [&](index_t group) { return p_.scales + scale_bytes * (group * p_.out_features + first_); };
    auto const zeros_of = [&](index_t group) { return p_.qzeros + 4 * group * word_count(p_.out_features, Bits); };
    if (g + 1 < p_.groups) {  // most likely the next
      prefetch(scales_of(g + 1), n * scale_bytes);
      prefetch(zeros_of(g + 1) + first_ * Bits / 8, n * Bits / 8);
    }
    switch (p_.scales_type) {
      case scale_type::f16:
        for (index_t i = 0; i < n; ++i) scales[i] = to_float(load<float16>(scales_of(g), i));
        break;
      case scale_type::bf16:
        for (index_t i = 0; i < n; ++i) scales[i] = to_float(load<bfloat16>(scales_of(g), i));
        break;
      default:
        for (index_t i = 0; i < n; ++i) scales[i] = load<float>(scales_of(g), i);
    }
    unpack_columns<Bits>(zeros_of(g), first_, n, fields_);
    int const one = zero_offset(p_.format);
    for (index_t i = 0; i < n; ++i)
      zeros[i] = static_cast<float>(((fields_[i] + one) & ((1 << Bits) - 1)) - (1 << (Bits - 1)));
  }

  /// How inputs go to the kernels.
  template <bool Grouped>
  static constexpr bool whole = Path::whole_numbers && !Grouped;

  /// Tokens of a pass of the kernels.
  template <bool Grouped>
  static constexpr int pass = whole<Grouped> ? whole_tokens : Path::tokens;

  /// Tokens that are computed together when `left` are left: rather some of nothing than many by themselves.
  template <bool Grouped>
  static index_t width(index_t left) {
    return 2 * left >= pass<Grouped> ? pass<Grouped> : 1;
  }

  template <bool Grouped>
  auto const* inputs() const {
    if constexpr (whole<Grouped>)
      return digits_;
    else
      return x_;
  }

  /// Copies inputs [k, k + count) to [token tile][input][token], zeros past the ends.
  template <bool Grouped>
  void read_floats(index_t k, index_t count, index_t padded) {
    float* to = x_;
    for (index_t t = 0; t < in_.rows; t += width<Grouped>(in_.rows - t)) {
      index_t const wide = width<Grouped>(in_.rows - t);
      for (index_t j = 0; j < wide; ++j) {
        bool const real = t + j < in_.rows;
        float const* const from = real ? in_.row(t + j) + k : nullptr;
        float sum = 0;
        for (index_t i = 0; i < padded; ++i) {
          float const value = real && i < count ? from[i] : 0.0f;
          to[i * wide + j] = value;
          sum += value;
        }
        if (real) x_sums_[t + j] = sum, units_[t + j] = Path::template unit<Bits>;
      }
      to += wide * padded;
    }
  }

  /// The same as whole numbers.
  void read_digits(index_t k, index_t count, index_t padded) {
    std::int32_t* to = digits_;
    for (index_t t = 0; t < in_.rows; t += width<false>(in_.rows - t)) {
      index_t const wide = width<false>(in_.rows - t);
      for (index_t j = 0; j < wide; ++j) {
        bool const real = t + j < in_.rows;
        auto const in = split_inputs<Bits>(real ? in_.row(t + j) + k : nullptr, real ? count : 0, padded, to + j, wide);
        if (real) x_sums_[t + j] = in.sum, units_[t + j] = in.unit;
      }
      to += wide * split_size(padded);
    }
  }

  template <int Tokens, bool Grouped, class X>
  void add_tile(std::byte const* words, index_t stride, index_t runs, X const* x, index_t t, index_t n) {
    index_t const tokens = std::min<index_t>(Tokens, in_.rows - t), cols = std::min<index_t>(tile, y_.cols - n);
    matmul_output out{y_.row(t) + n, y_.stride, units_ + t, x_sums_ + t, scales_ + n, zeros_ + n};
    bool const ragged = tokens < Tokens || cols < tile;
    if (ragged) {
      for (index_t j = 0; j < tokens; ++j) std::copy_n(y_.row(t + j) + n, cols, ragged_ + j * tile);
      out.y = ragged_, out.stride = tile;
    }
    if constexpr (whole<Grouped>) {
      multiply_tile<Path, Bits, Tokens>(words, stride, static_cast<int>(runs), x, out);
    } else {
      matmul_groups groups;
      if constexpr (Grouped) groups = {grids_.data() + n, grids_.data() + p_.groups * y_.cols + n, y_.cols, groups_};
      multiply_tile<Path, Bits, Tokens, Grouped>(words, stride, static_cast<int>(runs), x, groups, out);
    }
    if (ragged)
      for (index_t j = 0; j < tokens; ++j) std::copy_n(ragged_ + j * tile, cols, y_.row(t + j) + n);
  }

  template <bool Grouped>
  void add_chunk(index_t k, index_t count) {
    index_t const runs = (count + run::codes - 1) / run::codes, padded = runs * run::codes;
    index_t const stride = 4 * p_.out_features, row = k * Bits / 32;
    index_t const rows = std::min<index_t>(runs * run::words, word_count(p_.in_features, Bits) - row);
    if constexpr (whole<Grouped>)
      read_digits(k, count, padded);
    else
      read_floats<Grouped>(k, count, padded);
    if constexpr (Grouped)
      for (index_t i = 0; i < padded; ++i) groups_[i] = group_of(p_, k + std::min(i, count - 1));
    for (index_t n = 0; n < y_.cols; n += tile) {
      std::byte const* words = p_.qweight + row * stride + 4 * (first_ + n);
      index_t words_stride = stride;
      if (index_t const cols = std::min<index_t>(tile, y_.cols - n); cols < tile || rows < runs * run::words) {
        std::fill_n(words_, runs * run::words * tile, 0);  // a ragged end is completed with zeros
        for (index_t r = 0; r < rows; ++r)
          std::memcpy(words_ + r * tile, words + r * stride, static_cast<std::size_t>(4 * cols));
        words = reinterpret_cast<std::byte const*>(words_);
        words_stride = 4 * tile;
      }
      auto const* x = inputs<Grouped>();
      for (index_t t = 0; t < in_.rows;) {
        index_t const wide = width<Grouped>(in_.rows - t);
        if (wide == 1)
          add_tile<1, Grouped>(words, words_stride, runs, x, t, n);
        else
          add_tile<pass<Grouped>, Grouped>(words, words_stride, runs, x, t, n);
        x += wide * (whole<Grouped> ? split_size(padded) : padded);
        t += wide;
      }
    }
  }

 public:
  matmul_block(packed_view const& p, index_t first, matrix_view<float const> x, matrix_view<float> y)
      : p_(p), first_(first), in_(x), y_(y) {}

  void run_all() {
    for (index_t k = 0; k < p_.in_features;) {
      index_t const most = std::min<index_t>(matmul_chunk<Bits>, p_.in_features - k);
      std::int32_t const g = group_of(p_, k);
      index_t same = same_group(p_, k, most);
      if (same < most) same -= same % run::codes;  // chunks begin where a word does
      if (same > 0) {
        if (g != group_) read_grid(group_ = g, scales_, zeros_);
        add_chunk<false>(k, same);
        k += same;
        continue;
      }
      if (grids_.empty()) {
        // A tile reads whole vectors: behind the last row there is room for a tile.
        grids_.resize(static_cast<std::size_t>(2 * p_.groups * y_.cols + tile));
        for (index_t i = 0; i < p_.groups; ++i)
          read_grid(i, grids_.data() + i * y_.cols, grids_.data() + (p_.groups + i) * y_.cols);
      }
      add_chunk<true>(k, most);
      k += most;
    }
  }
};

}  // namespace GPTQ_FLAGS
}  // namespace detail

inline namespace GPTQ_FLAGS {

/// Outputs [first, first + y.cols) of a packed layer: y = x · Wᵀ + bias, x [tokens × in], y [tokens × those outputs],
/// bias empty or of those outputs. Ranges can be done in parallel; multiples of 64 outputs, best of 1024 or more, leave
/// no lanes idle. Sums are taken chunk by chunk of inputs and agree with the product of the dequantized weights to float
/// rounding: with VNNI a chunk's sums are exact, of inputs that are rounded by about float's epsilon times the largest of
/// the chunk (or by 2^-127). They do not depend on how outputs are cut into ranges, nor on the other tokens. An input that is not finite
/// leaves no finite output of its token. `y` must not overlap `x`.
/// Throws shape_error if sizes do not fit, groups are missing or g_idx names a group that does not exist.
template <class Path = matmul_path>
void matmul(packed_view const& p, index_t first, matrix_view<float const> x, matrix_view<float> y,
            std::span<float const> bias = {}) {
  if (first < 0 || y.cols < 0 || first > p.out_features - y.cols || x.cols != p.in_features || x.rows != y.rows ||
      (!bias.empty() && static_cast<index_t>(bias.size()) != y.cols))
    throw shape_error("matmul: inputs " + std::to_string(x.rows) + " x " + std::to_string(x.cols) + ", outputs [" +
                      std::to_string(first) + ", +" + std::to_string(y.cols) + ") in " + std::to_string(y.rows) +
                      " rows and " + std::to_string(bias.size()) + " biases for a " + std::to_string(p.out_features) +
                      " x " + std::to_string(p.in_features) + " layer");
  for (index_t t = 0; t < y.rows; ++t)
    for (index_t n = 0; n < y.cols; ++n) y(t, n) = bias.empty() ? 0.0f : bias[static_cast<std::size_t>(n)];
  detail::with_bits(p.spec.bits, [&]<int Bits>() {
    bool const several = detail::several_groups<detail::code_run<Bits>::codes>(p);
    index_t const outputs = several ? detail::matmul_scattered_outputs : detail::matmul_outputs;
    for (index_t t = 0; t < y.rows; t += detail::matmul_tokens)
      for (index_t n = 0; n < y.cols; n += outputs) {
        index_t const rows = std::min(detail::matmul_tokens, y.rows - t);
        index_t const cols = std::min(outputs, y.cols - n);
        detail::matmul_block<Path, Bits>(p, first + n, x.row_range(t, rows), y.block(t, n, rows, cols)).run_all();
      }
  });
}

/// All outputs.
template <class Path = matmul_path>
void matmul(packed_view const& p, matrix_view<float const> x, matrix_view<float> y, std::span<float const> bias = {}) {
  if (y.cols != p.out_features)
    throw shape_error("matmul: " + std::to_string(y.cols) + " outputs for a layer with " +
                      std::to_string(p.out_features));
  matmul<Path>(p, 0, x, y, bias);
}

}  // namespace GPTQ_FLAGS
}  // namespace v0
}  // namespace gptq
