/// Codes of 2, 3, 4 or 8 bits as little-endian bit streams in 32-bit words: code k occupies bits [k·b, k·b + b), word w
/// holds bits [32w, 32w + 32), unused high bits of the last word are zero. For 3 bits, codes 10 and 21 of each 32
/// straddle two words.
///
/// Weights are packed down the columns of a [K × N] code matrix: a word row is an OR of shifted code rows, so all loops
/// run along rows and vectorise. Zero points are packed along the rows of a [G × N] matrix.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/core/unaligned.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Words that `codes` codes of `bits` bits take.
constexpr index_t word_count(index_t codes, int bits) { return (codes * bits + 31) / 32; }

/// The fewest codes that fill whole words.
constexpr int codes_of_whole_words(int bits) { return bits == 3 ? 32 : 32 / bits; }

namespace detail {

/// The shortest run of codes that fills whole words.
template <int Bits>
struct code_run {
  static constexpr int words = Bits == 3 ? 3 : 1;
  static constexpr int codes = 32 * words / Bits;
  static constexpr int first_of(int word) { return 32 * word / Bits; }  ///< the first code with a bit in the word
  static constexpr int count_of(int word) { return (32 * word + 31) / Bits + 1 - first_of(word); }
};

template <int Shift>
constexpr std::uint32_t shifted(std::uint8_t code) {
  if constexpr (Shift >= 0)
    return std::uint32_t{code} << Shift;
  else
    return std::uint32_t{code} >> -Shift;
}

template <int Bits, int Word, int... J>
void pack_word_row(std::uint8_t const* const* rows, std::int32_t* __restrict out, index_t n,
                   std::integer_sequence<int, J...>) {
  constexpr int first = code_run<Bits>::first_of(Word);
  std::uint8_t const* const in[] = {rows[first + J]...};
  for (index_t c = 0; c < n; ++c)
    out[c] = static_cast<std::int32_t>((shifted<(first + J) * Bits - 32 * Word>(in[J][c]) | ...));
}

template <int Bits, int... Word>
void pack_run(std::uint8_t const* const* rows, std::int32_t* const* out, index_t n,
              std::integer_sequence<int, Word...>) {
  (pack_word_row<Bits, Word>(rows, out[Word], n, std::make_integer_sequence<int, code_run<Bits>::count_of(Word)>{}),
   ...);
}

/// codes [K × N] → words [word_count(K) × N]; codes must be below 2^Bits.
template <int Bits>
void pack_rows(matrix_view<std::uint8_t const> codes, matrix_view<std::int32_t> words) {
  using run = code_run<Bits>;
  std::vector<std::uint8_t> const nothing(static_cast<std::size_t>(codes.cols));  // stands for the codes past the end
  std::vector<std::int32_t> unused;
  for (index_t k = 0, w = 0; k < codes.rows; k += run::codes, w += run::words) {
    std::array<std::uint8_t const*, run::codes> rows;
    for (int j = 0; j < run::codes; ++j)
      rows[static_cast<std::size_t>(j)] = k + j < codes.rows ? codes.row(k + j) : nothing.data();
    std::array<std::int32_t*, run::words> out;
    for (int j = 0; j < run::words; ++j) {
      if (w + j >= words.rows) unused.resize(static_cast<std::size_t>(codes.cols));
      out[static_cast<std::size_t>(j)] = w + j < words.rows ? words.row(w + j) : unused.data();
    }
    pack_run<Bits>(rows.data(), out.data(), codes.cols, std::make_integer_sequence<int, run::words>{});
  }
}

template <int Bits, int J>
void unpack_code_row(std::byte const* words, index_t stride, std::uint8_t* __restrict out, index_t n) {
  constexpr std::uint32_t mask = (1u << Bits) - 1;
  constexpr int word = J * Bits / 32;
  constexpr int shift = J * Bits % 32;
  std::byte const* const low = words + word * stride;
  if constexpr (shift + Bits <= 32) {
    for (index_t c = 0; c < n; ++c) out[c] = static_cast<std::uint8_t>(load<std::uint32_t>(low, c) >> shift & mask);
  } else {
    std::byte const* const high = low + stride;
    for (index_t c = 0; c < n; ++c)
      out[c] = static_cast<std::uint8_t>(
          (load<std::uint32_t>(low, c) >> shift | load<std::uint32_t>(high, c) << (32 - shift)) & mask);
  }
}

/// Rows [0, count) of a run; `count` stops short of words that a ragged end does not have.
template <int Bits, int... J>
void unpack_run(std::byte const* words, index_t stride, matrix_view<std::uint8_t> codes,
                std::integer_sequence<int, J...>) {
  ((J < codes.rows ? unpack_code_row<Bits, J>(words, stride, codes.row(J), codes.cols) : void()), ...);
}

/// Words → codes [K × N]. `words` is the first word of the first column, rows are `stride` bytes apart.
template <int Bits>
void unpack_rows(std::byte const* words, index_t stride, matrix_view<std::uint8_t> codes) {
  using run = code_run<Bits>;
  for (index_t k = 0; k < codes.rows; k += run::codes, words += run::words * stride)
    unpack_run<Bits>(words, stride, codes.row_range(k, std::min<index_t>(run::codes, codes.rows - k)),
                     std::make_integer_sequence<int, run::codes>{});
}

/// Calls f.template operator()<Bits>().
template <class F>
decltype(auto) with_bits(int bits, F&& f) {
  switch (bits) {
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    case 4: return f.template operator()<4>();
    case 8: return f.template operator()<8>();
    default: throw shape_error("bits must be 2, 3, 4 or 8, not " + std::to_string(bits));
  }
}

}  // namespace detail

/// Packs down the columns: codes [K × N] → [word_count(K) × N]. Throws shape_error if a code does not fit into `bits`.
inline matrix<std::int32_t> pack_rows(matrix_view<std::uint8_t const> codes, int bits) {
  unsigned highest = 0;
  for (index_t k = 0; k < codes.rows; ++k) {
    std::uint8_t seen = 0;
    for (index_t c = 0; c < codes.cols; ++c) seen = static_cast<std::uint8_t>(seen | codes(k, c));
    highest |= seen;
  }
  if (highest >> bits) throw shape_error("pack: a code is above " + std::to_string((1 << bits) - 1));
  matrix<std::int32_t> words(word_count(codes.rows, bits), codes.cols);
  if (words.size() > 0) detail::with_bits(bits, [&]<int Bits>() { detail::pack_rows<Bits>(codes, words); });
  return words;
}

/// The reverse, from words at any alignment: the first codes.rows codes of codes.cols columns. `stride` is in bytes
/// from one row of words to the next.
inline void unpack_rows(std::byte const* words, index_t stride, int bits, matrix_view<std::uint8_t> codes) {
  detail::with_bits(bits, [&]<int Bits>() { detail::unpack_rows<Bits>(words, stride, codes); });
}

/// Packs along the rows: codes [G × N] → [G × word_count(N)]. Codes must fit into `bits`.
inline matrix<std::int32_t> pack_columns(matrix_view<std::uint8_t const> codes, int bits) {
  matrix<std::int32_t> words(codes.rows, word_count(codes.cols, bits));
  for (index_t g = 0; g < codes.rows; ++g) {
    std::uint64_t pending = 0;
    int filled = 0;
    index_t w = 0;
    for (index_t c = 0; c < codes.cols; ++c) {
      pending |= std::uint64_t{codes(g, c)} << filled;
      filled += bits;
      if (filled >= 32) {
        words(g, w++) = static_cast<std::int32_t>(static_cast<std::uint32_t>(pending));
        pending >>= 32;
        filled -= 32;
      }
    }
    if (filled > 0) words(g, w) = static_cast<std::int32_t>(static_cast<std::uint32_t>(pending));
  }
  return words;
}

/// Code `i` of a row of words at any alignment.
inline std::uint8_t code_at(std::byte const* row, index_t i, int bits) {
  index_t const bit = i * bits;
  int const shift = static_cast<int>(bit % 32);
  std::uint64_t word = load<std::uint32_t>(row, bit / 32);
  if (shift + bits > 32) word |= std::uint64_t{load<std::uint32_t>(row, bit / 32 + 1)} << 32;
  return static_cast<std::uint8_t>(word >> shift & ((1u << bits) - 1));
}

namespace detail {

/// The reverse of pack_columns() for codes [first, first + n) of one row of words at any alignment.
template <int Bits>
void unpack_columns(std::byte const* row, index_t first, index_t n, std::uint8_t* out) {
  constexpr auto fields = [](int bits, int apart) {  // `bits` ones every `apart` bits
    std::uint64_t mask = 0;
    for (int at = 0; at < 64; at += apart) mask |= ((std::uint64_t{1} << bits) - 1) << at;
    return mask;
  };
  index_t const end = first + n;
  for (; first < end && first % 8 != 0; ++first) *out++ = code_at(row, first, Bits);
  for (; first + 8 <= end; first += 8, out += 8) {
    std::uint64_t eight = 0;  // codes side by side, then in fours, twos and ones at their places
    std::memcpy(&eight, row + first / 8 * Bits, Bits);
    if constexpr (Bits < 8) {
      eight = (eight | eight << (32 - 4 * Bits)) & fields(4 * Bits, 32);
      eight = (eight | eight << (16 - 2 * Bits)) & fields(2 * Bits, 16);
      eight = (eight | eight << (8 - Bits)) & fields(Bits, 8);
    }
    std::memcpy(out, &eight, 8);
  }
  for (; first < end; ++first) *out++ = code_at(row, first, Bits);
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
