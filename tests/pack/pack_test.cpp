#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/histogram.hpp>
#include <gptq/pack/pack.hpp>

#include "support/catch.hpp"
#include "support/random_linear.hpp"

#include <cstdint>
#include <limits>
#include <vector>

namespace {

using gptq::checkpoint_format;
using gptq::index_t;

template <class T>
bool equal(gptq::matrix<T> const& a, gptq::matrix<T> const& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && std::equal(a.data(), a.data() + a.size(), b.data());
}

gptq::quantized_linear with_zeros(int bits, std::vector<std::uint8_t> const& zeros, bool sym) {
  auto q = test::random_linear(32, static_cast<index_t>(zeros.size()), {.bits = bits, .group_size = 32, .sym = sym});
  std::copy(zeros.begin(), zeros.end(), q.zeros.data());
  return q;
}

std::vector<std::uint32_t> zero_words(gptq::quantized_linear const& q, checkpoint_format format) {
  auto const p = gptq::pack(q, format);
  return {p.qzeros.data(), p.qzeros.data() + p.qzeros.size()};
}

}  // namespace

TEST_CASE("symmetric zeros pack to the words of the two formats", "[pack]") {
  struct row {
    int bits;
    std::vector<std::uint32_t> v1, v2;
  };
  std::vector<row> const table = {
      {2, {0x55555555, 0x55555555}, {0xAAAAAAAA, 0xAAAAAAAA}},
      {3, {0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D}, {0x24924924, 0x49249249, 0x92492492}},
      {4, std::vector<std::uint32_t>(4, 0x77777777), std::vector<std::uint32_t>(4, 0x88888888)},
      {8, std::vector<std::uint32_t>(8, 0x7F7F7F7F), std::vector<std::uint32_t>(8, 0x80808080)}};
  for (row const& r : table) {
    CAPTURE(r.bits);
    auto const q =
        with_zeros(r.bits, std::vector<std::uint8_t>(32, static_cast<std::uint8_t>(1 << (r.bits - 1))), true);
    CHECK(zero_words(q, checkpoint_format::gptq) == r.v1);
    CHECK(zero_words(q, checkpoint_format::gptq_v2) == r.v2);
  }
}

TEST_CASE("a zero point of 0 is written by v2 and refused by v1", "[pack]") {
  auto const q = with_zeros(4, {0, 8, 8, 8, 8, 8, 8, 8}, false);
  CHECK(zero_words(q, checkpoint_format::gptq_v2) == std::vector<std::uint32_t>{0x88888880});
  CHECK_THROWS_AS(gptq::pack(q, checkpoint_format::gptq), gptq::numeric_error);
  CHECK_THROWS_WITH(gptq::pack(q, checkpoint_format::gptq),
                    test::contains("group 0, output 0") && test::contains("gptq_v2"));
  CHECK(zero_words(with_zeros(4, {1, 15, 8, 8, 8, 8, 8, 8}, false), checkpoint_format::gptq) ==
        std::vector<std::uint32_t>{0x777777E0});
}

TEST_CASE("a v1 field of all ones, which this library never writes, reads as zero point 0", "[pack]") {
  auto p = gptq::pack(with_zeros(4, {1, 8, 8, 8, 8, 8, 8, 8}, false), checkpoint_format::gptq);
  p.qzeros(0, 0) = 0x7777777F;
  CHECK(gptq::unpack(p).zeros(0, 0) == 0);
  CHECK(gptq::unpack(p).zeros(0, 1) == 8);
}

TEST_CASE("unpacking undoes packing in both formats", "[pack]") {
  int const bits = GENERATE(2, 3, 4, 8);
  bool const sym = GENERATE(true, false);
  index_t const in = GENERATE(32, 80, 129);
  index_t const out = GENERATE(1, 33, 96);
  auto const format = GENERATE(checkpoint_format::gptq, checkpoint_format::gptq_v2);
  int const group_size = GENERATE(-1, 16, 128);
  CAPTURE(bits, sym, in, out, static_cast<int>(format), group_size);
  auto const q = test::random_linear(
      in, out, {.bits = bits, .group_size = group_size, .sym = sym, .order = gptq::column_order::desc_act},
      format == checkpoint_format::gptq ? 1 : 0);
  auto const p = gptq::pack(q, format);
  CHECK(p.in_features == in);
  CHECK(p.out_features == out);
  auto const back = gptq::unpack(p);
  CHECK(equal(back.codes, q.codes));
  CHECK(equal(back.scales, q.scales));
  CHECK(equal(back.zeros, q.zeros));
  CHECK(back.g_idx == q.g_idx);
  CHECK(back.spec == q.spec);
}

TEST_CASE("a range of outputs packs as if it had been a layer of its own", "[pack]") {
  int const bits = GENERATE(2, 3, 4, 8);
  auto const q = test::random_linear(64, 50, {.bits = bits, .group_size = 32, .sym = false}, 1);
  auto const part = gptq::unpack(gptq::pack(q, checkpoint_format::gptq, 13, 21));
  REQUIRE(part.out_features() == 21);
  for (index_t n = 0; n < 21; ++n) {
    for (index_t k = 0; k < 64; ++k) REQUIRE(part.codes(k, n) == q.codes(k, n + 13));
    for (index_t g = 0; g < 2; ++g) {
      REQUIRE(part.zeros(g, n) == q.zeros(g, n + 13));
      REQUIRE(part.scales(g, n) == q.scales(g, n + 13));
    }
  }
  CHECK_THROWS_AS(gptq::pack(q, checkpoint_format::gptq, 40, 11), gptq::shape_error);
  CHECK_THROWS_AS(gptq::pack(q, checkpoint_format::gptq, -1, 2), gptq::shape_error);
}

TEST_CASE("group sizes that the solver does not make pack all the same: files hold them", "[pack]") {
  int const group_size = GENERATE(1, 5, 48);
  auto const q = test::random_linear(96, 8, {.bits = 4, .group_size = group_size, .sym = false});
  auto const p = gptq::pack(q, checkpoint_format::gptq_v2);
  auto const again = gptq::pack(gptq::unpack(p), checkpoint_format::gptq_v2);
  CHECK(equal(again.qweight, p.qweight));
  CHECK(equal(again.qzeros, p.qzeros));
  CHECK(again.g_idx == p.g_idx);
}

TEST_CASE("widths and group sizes that nothing has are refused", "[pack]") {
  auto q = test::random_linear(96, 8, {.bits = 4, .group_size = 48});
  q.spec.bits = 5;
  CHECK_THROWS_WITH(gptq::pack(q, checkpoint_format::gptq), test::contains("bits"));
  q.spec = {.bits = 4, .group_size = 0};
  CHECK_THROWS_WITH(gptq::pack(q, checkpoint_format::gptq), test::contains("group_size"));
}

TEST_CASE("scales are rounded to float16, and refused where that loses them", "[pack]") {
  auto q = test::random_linear(32, 4, {.bits = 4, .group_size = 32});
  q.scales(0, 1) = 0.1f;
  CHECK(gptq::to_float(gptq::pack(q, checkpoint_format::gptq).scales(0, 1)) == gptq::to_float(gptq::to_float16(0.1f)));
  float const bad = GENERATE(0.0f, 1e-9f, 70000.0f, -0.5f, std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN());
  q.scales(0, 2) = bad;
  CHECK_THROWS_AS(gptq::pack(q, checkpoint_format::gptq), gptq::numeric_error);
  CHECK_THROWS_WITH(gptq::pack(q, checkpoint_format::gptq), test::contains("group 0, output 2"));
}

TEST_CASE("a missing g_idx means position / group_size", "[pack]") {
  auto q = test::random_linear(96, 8, {.bits = 4, .group_size = 32});
  auto const expected = q.g_idx;
  q.g_idx.clear();
  auto p = gptq::pack(q, checkpoint_format::gptq);
  CHECK(p.g_idx == expected);
  auto const weight = gptq::dequantize(p);
  p.g_idx.clear();
  CHECK(gptq::unpack(p).g_idx == expected);
  CHECK(equal(gptq::dequantize(p), weight));
  CHECK(equal(gptq::dequantize(q), weight));
}

TEST_CASE("sizes and groups that do not fit are refused", "[pack]") {
  auto q = test::random_linear(64, 8, {.bits = 4, .group_size = 32});
  SECTION("a group that does not exist") {
    q.g_idx[5] = 2;
    CHECK_THROWS_WITH(gptq::pack(q, checkpoint_format::gptq), test::contains("g_idx[5] = 2"));
    CHECK_THROWS_AS(gptq::dequantize(q), gptq::shape_error);
  }
  SECTION("g_idx of another length") {
    q.g_idx.pop_back();
    CHECK_THROWS_AS(gptq::pack(q, checkpoint_format::gptq), gptq::shape_error);
  }
  SECTION("scales of another layer") {
    q.scales = gptq::matrix<float>(3, 8);
    CHECK_THROWS_AS(gptq::pack(q, checkpoint_format::gptq), gptq::shape_error);
  }
  SECTION("a zero point above the top code") {
    q.zeros(1, 3) = 16;
    CHECK_THROWS_AS(gptq::pack(q, checkpoint_format::gptq_v2), gptq::shape_error);
  }
  SECTION("a packed g_idx out of range") {
    auto p = gptq::pack(q, checkpoint_format::gptq);
    p.g_idx[0] = -1;
    CHECK_THROWS_AS(gptq::unpack(p), gptq::shape_error);
    CHECK_THROWS_AS(gptq::dequantize(p), gptq::shape_error);
  }
}

TEST_CASE("scattered is true exactly where g_idx is not position / group_size", "[pack]") {
  CHECK_FALSE(gptq::scattered(std::vector<std::int32_t>{0, 0, 1, 1, 2}, 2));
  CHECK(gptq::scattered(std::vector<std::int32_t>{0, 1, 0, 1, 2}, 2));
  CHECK_FALSE(gptq::scattered(std::vector<std::int32_t>{0, 0, 0}, -1));
  CHECK(gptq::scattered(std::vector<std::int32_t>{0, 1, 0}, -1));
}

TEST_CASE("codes are counted as they are packed, ragged ends too", "[pack]") {
  int const bits = GENERATE(2, 3, 4, 8);
  index_t const in = GENERATE(16, 96, 112);
  auto q = test::random_linear(in, 37, {.bits = bits, .group_size = 16});
  for (index_t n = 0; n < 37; ++n) q.codes(in - 1, n) = 1;
  std::vector<std::uint64_t> expected(std::size_t{1} << bits);
  for (index_t i = 0; i < q.codes.size(); ++i) ++expected[q.codes.data()[i]];
  auto const packed = gptq::pack(q, checkpoint_format::gptq);
  CHECK(gptq::count_codes(view(packed)) == expected);
}
