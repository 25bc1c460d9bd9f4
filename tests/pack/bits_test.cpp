#include <gptq/pack/bits.hpp>

#include "support/catch.hpp"

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace {

using codes_t = std::vector<std::uint8_t>;
using words_t = std::vector<std::uint32_t>;

gptq::matrix<std::uint8_t> random_codes(gptq::index_t rows, gptq::index_t cols, int bits) {
  std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols * 10 + bits));
  gptq::matrix<std::uint8_t> codes(rows, cols);
  for (gptq::index_t i = 0; i < codes.size(); ++i)
    codes.data()[i] = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
  return codes;
}

words_t words_of(gptq::matrix<std::int32_t> const& m) { return {m.data(), m.data() + m.size()}; }

std::byte const* bytes_of(gptq::matrix<std::int32_t> const& m) { return reinterpret_cast<std::byte const*>(m.data()); }

/// The definition, bit by bit.
words_t bit_stream(codes_t const& codes, int bits) {
  words_t words((codes.size() * static_cast<std::size_t>(bits) + 31) / 32);
  for (std::size_t k = 0; k < codes.size(); ++k)
    for (std::size_t b = 0; b < static_cast<std::size_t>(bits); ++b) {
      std::size_t const at = k * static_cast<std::size_t>(bits) + b;
      words[at / 32] |= (static_cast<std::uint32_t>(codes[k]) >> b & 1u) << at % 32;
    }
  return words;
}

struct worked_words {
  int bits;
  codes_t codes;
  words_t words;
};

codes_t all_zero_but(std::vector<std::pair<std::size_t, std::uint8_t>> const& set) {
  codes_t codes(32);
  for (auto const& [k, code] : set) codes[k] = code;
  return codes;
}

std::vector<worked_words> worked_examples() {
  codes_t modulo8;
  for (unsigned k = 0; k < 32; ++k) modulo8.push_back(static_cast<std::uint8_t>(k % 8));
  return {{2, {0, 1, 2, 3, 3, 2, 1, 0, 1, 1, 2, 2, 0, 3, 0, 3}, {0xCCA51BE4}},
          {4, {1, 2, 3, 4, 5, 6, 7, 8}, {0x87654321}},
          {8, {1, 2, 254, 255}, {0xFFFE0201}},
          {3, modulo8, {0x88FAC688, 0xC688FAC6, 0xFAC688FA}},
          {3, all_zero_but({{10, 7}}), {0xC0000000, 0x00000001, 0x00000000}},
          {3, all_zero_but({{21, 7}}), {0x00000000, 0x80000000, 0x00000003}},
          {3, all_zero_but({{10, 6}, {21, 5}}), {0x80000000, 0x80000001, 0x00000002}},
          {4, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {0x87654321, 0x00000BA9}},
          {3, {1, 2, 3, 4, 5}, {0x000058D1}}};
}

}  // namespace

TEST_CASE("codes pack to the worked words, down columns and along rows", "[pack]") {
  for (worked_words const& example : worked_examples()) {
    CAPTURE(example.bits, example.codes.size());
    auto const n = static_cast<gptq::index_t>(example.codes.size());
    gptq::matrix_view<std::uint8_t const> const column(example.codes.data(), n, 1);
    gptq::matrix_view<std::uint8_t const> const row(example.codes.data(), 1, n);
    CHECK(words_of(gptq::pack_rows(column, example.bits)) == example.words);
    CHECK(words_of(gptq::pack_columns(row, example.bits)) == example.words);
  }
}

TEST_CASE("unpacking undoes packing for every width and odd sizes", "[pack]") {
  int const bits = GENERATE(2, 3, 4, 8);
  gptq::index_t const rows = GENERATE(1, 7, 10, 11, 21, 22, 32, 33, 64, 95);
  gptq::index_t const cols = GENERATE(1, 5, 32, 67);
  CAPTURE(bits, rows, cols);
  auto const codes = random_codes(rows, cols, bits);

  auto const words = gptq::pack_rows(codes, bits);
  REQUIRE(words.rows() == gptq::word_count(rows, bits));
  for (gptq::index_t c = 0; c < cols; ++c) {
    codes_t column;
    words_t packed;
    for (gptq::index_t r = 0; r < rows; ++r) column.push_back(codes(r, c));
    for (gptq::index_t w = 0; w < words.rows(); ++w) packed.push_back(static_cast<std::uint32_t>(words(w, c)));
    REQUIRE(packed == bit_stream(column, bits));
  }
  gptq::matrix<std::uint8_t> back(rows, cols);
  gptq::unpack_rows(bytes_of(words), 4 * cols, bits, back);
  CHECK(std::memcmp(back.data(), codes.data(), static_cast<std::size_t>(codes.size())) == 0);

  auto const along = gptq::pack_columns(codes, bits);
  REQUIRE(along.cols() == gptq::word_count(cols, bits));
  for (gptq::index_t r = 0; r < rows; ++r)
    for (gptq::index_t c = 0; c < cols; ++c)
      REQUIRE(gptq::code_at(bytes_of(along) + 4 * r * along.cols(), c, bits) == codes(r, c));

  gptq::index_t const first = cols / 3, count = cols - first;  // a part of a row, from anywhere in a word on
  codes_t part(static_cast<std::size_t>(count));
  for (gptq::index_t r = 0; r < rows; ++r) {
    gptq::detail::with_bits(bits, [&]<int Bits>() {
      gptq::detail::unpack_columns<Bits>(bytes_of(along) + 4 * r * along.cols(), first, count, part.data());
    });
    REQUIRE(std::equal(part.begin(), part.end(), codes.row(r) + first));
  }
}

TEST_CASE("words are read at any alignment", "[pack]") {
  int const bits = GENERATE(2, 3, 4, 8);
  auto const codes = random_codes(43, 19, bits);
  auto const words = gptq::pack_rows(codes, bits);
  std::vector<std::byte> shifted(static_cast<std::size_t>(words.size()) * 4 + 3);
  std::memcpy(shifted.data() + 3, words.data(), static_cast<std::size_t>(words.size()) * 4);
  gptq::matrix<std::uint8_t> back(43, 19);
  gptq::unpack_rows(shifted.data() + 3, 4 * 19, bits, back);
  CHECK(std::memcmp(back.data(), codes.data(), static_cast<std::size_t>(codes.size())) == 0);
}

TEST_CASE("a code that does not fit into the width is refused", "[pack]") {
  codes_t const codes = {1, 2, 16};
  CHECK_THROWS_AS(gptq::pack_rows(gptq::matrix_view<std::uint8_t const>(codes.data(), 3, 1), 4), gptq::shape_error);
  CHECK_THROWS_WITH(gptq::pack_rows(gptq::matrix_view<std::uint8_t const>(codes.data(), 3, 1), 5),
                    test::contains("bits must be 2, 3, 4 or 8, not 5"));
}
