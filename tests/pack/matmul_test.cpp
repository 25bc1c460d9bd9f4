#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/matmul.hpp>
#include <gptq/pack/pack.hpp>

#include "support/catch.hpp"
#include "support/random_linear.hpp"
#include "support/tolerance.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

// All paths that this build's flags allow: with AVX-512 all three.
#if defined(__AVX512F__)
#define GPTQ_MATMUL_PATHS gptq::portable_path, gptq::avx2_path, gptq::avx512_path
#elif defined(__AVX2__) && defined(__FMA__)
#define GPTQ_MATMUL_PATHS gptq::portable_path, gptq::avx2_path
#else
#define GPTQ_MATMUL_PATHS gptq::portable_path
#endif

namespace {

using gptq::index_t;

struct shape {
  index_t in, out, tokens;
  int group_size;
  bool scattered = false;
};

gptq::packed_linear random_layer(shape s, int bits, bool sym, gptq::checkpoint_format format) {
  gptq::quant_spec const spec{.bits = bits,
                              .group_size = s.group_size,
                              .sym = sym,
                              .order = s.scattered ? gptq::column_order::desc_act : gptq::column_order::natural};
  return gptq::pack(test::random_linear(s.in, s.out, spec, 1), format);
}

gptq::matrix<float> random_inputs(index_t rows, index_t cols) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  gptq::matrix<float> x(rows, cols);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = normal(random);
  return x;
}

/// The largest distance of y from the product in double with the dequantized weights, counted in roundings of float of
/// the sum of all terms at full range.
double roundings(gptq::packed_linear const& p, gptq::matrix<float> const& x, gptq::matrix<float> const& y) {
  auto const w = gptq::dequantize(p);
  double worst = 0;
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t n = 0; n < w.rows(); ++n) {
      double sum = 0, size = 0;
      for (index_t k = 0; k < x.cols(); ++k) {
        sum += double(x(t, k)) * double(w(n, k));
        size += std::abs(double(x(t, k))) * double(gptq::scale_at(gptq::view(p), p.g_idx[std::size_t(k)], n));
      }
      size *= double(1 << (p.spec.bits - 1)) * double(std::numeric_limits<float>::epsilon());
      worst = std::max(worst, std::abs(double(y(t, n)) - sum) / size);
    }
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("a product from codes is that with the dequantized weights", "[pack]", GPTQ_MATMUL_PATHS) {
  int const bits = GENERATE(2, 3, 4, 8);
  auto const s = GENERATE(values<shape>({
      {128, 64, 1, 128},         // one chunk, one tile
      {256, 130, 3, 64},         // a ragged tile
      {512, 16, 33, 256},        // a group of several chunks, an odd number of tokens
      {128, 7, 2, 32},           // fewer outputs than a vector has lanes
      {160, 1100, 5, 16},        // more than one block of outputs; groups that are half a run of 3 bits
      {100, 40, 9, 32},          // a ragged last word, run and group
      {77, 65, 4, -1},           // one group
      {256, 70, 1, 32, true},    // scattered groups
      {130, 300, 11, 16, true},  // the same, ragged and in several blocks
      {64, 33, 70, 64},          // more than one block of tokens
  }));
  bool const sym = GENERATE(true, false);
  auto const format = sym ? gptq::checkpoint_format::gptq : gptq::checkpoint_format::gptq_v2;
  CAPTURE(bits, s.in, s.out, s.tokens, s.group_size, s.scattered, sym);
  auto const p = random_layer(s, bits, sym, format);
  auto const x = random_inputs(s.tokens, s.in);
  gptq::matrix<float> y(s.tokens, s.out);
  gptq::matmul<TestType>(gptq::view(p), x, y);
  CHECK(roundings(p, x, y) < test::tolerance<float>::product_roundings);
}

TEMPLATE_TEST_CASE("inputs of any size keep float's precision: outliers, tiny and huge ones", "[pack]",
                   GPTQ_MATMUL_PATHS) {
  int const bits = GENERATE(2, 3, 4, 8);
  bool const scattered = GENERATE(false, true);
  shape const s{256, 70, 7, 64, scattered};
  auto const p = random_layer(s, bits, false, gptq::checkpoint_format::gptq_v2);
  auto x = random_inputs(s.tokens, s.in);
  x(0, 3) = 4e3f, x(0, 200) = -3e5f;                                                    // outliers
  for (index_t k = 0; k < s.in; ++k) x(1, k) *= 1e-20f, x(2, k) *= 1e20f, x(3, k) = 0;  // and nothing at all
  for (index_t k = 0; k < s.in; ++k) x(4, k) = k % 2 ? 1.99999988f : -1.99999988f;      // just below a power of two
  for (index_t k = 0; k < s.in; ++k) x(5, k) = k % 64 == 63 ? 1e-4f : 0.0f;
  for (index_t k = 0; k < s.in; ++k) x(6, k) = k % 2 ? std::nextafter(1.984375f, 0.0f) : -1.984375f;
  gptq::matrix<float> y(s.tokens, s.out);
  gptq::matmul<TestType>(gptq::view(p), x, y);
  CAPTURE(bits, scattered);
  for (index_t t = 0; t < s.tokens; ++t) {
    CAPTURE(t);
    if (t == 3) {
      for (index_t n = 0; n < s.out; ++n) REQUIRE(y(3, n) == 0.0f);
      continue;
    }
    gptq::matrix<float> one_x(1, s.in), one_y(1, s.out);
    std::copy_n(x.row(t), s.in, one_x.data());
    std::copy_n(y.row(t), s.out, one_y.data());
    CHECK(roundings(p, one_x, one_y) <
          (t == 0 ? test::tolerance<float>::outlier_roundings : test::tolerance<float>::product_roundings));
  }
}

TEMPLATE_TEST_CASE("an input that is no number leaves no output of its token a number", "[pack]", GPTQ_MATMUL_PATHS) {
  int const bits = GENERATE(2, 3, 4, 8);
  float const bad = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  shape const s{160, 40, 3, 32};
  auto const p = random_layer(s, bits, true, gptq::checkpoint_format::gptq);
  auto x = random_inputs(s.tokens, s.in);
  gptq::matrix<float> before(s.tokens, s.out), after(s.tokens, s.out);
  gptq::matmul<TestType>(gptq::view(p), x, before);
  x(1, 77) = bad;
  gptq::matmul<TestType>(gptq::view(p), x, after);
  for (index_t n = 0; n < s.out; ++n) {
    CHECK_FALSE(std::isfinite(after(1, n)));
    CHECK(after(0, n) == before(0, n));
    CHECK(after(2, n) == before(2, n));
  }
}

TEMPLATE_TEST_CASE("both formats of zero points give the same product", "[pack]", GPTQ_MATMUL_PATHS) {
  int const bits = GENERATE(2, 3, 4, 8);
  shape const s{192, 67, 2, 64};
  auto const x = random_inputs(s.tokens, s.in);
  auto const v1 = random_layer(s, bits, false, gptq::checkpoint_format::gptq);
  auto const v2 = random_layer(s, bits, false, gptq::checkpoint_format::gptq_v2);
  gptq::matrix<float> y1(s.tokens, s.out), y2(s.tokens, s.out);
  gptq::matmul<TestType>(gptq::view(v1), x, y1);
  gptq::matmul<TestType>(gptq::view(v2), x, y2);
  CHECK(std::equal(y1.data(), y1.data() + y1.size(), y2.data()));
}

TEMPLATE_TEST_CASE("a range of outputs has the values of the whole, and its bias", "[pack]", GPTQ_MATMUL_PATHS) {
  int const bits = GENERATE(3, 4);
  bool const scattered = GENERATE(false, true);
  shape const s{256, 200, 3, 32, scattered};
  auto const p = random_layer(s, bits, false, gptq::checkpoint_format::gptq_v2);
  auto const x = random_inputs(s.tokens, s.in);
  auto const bias = random_inputs(1, s.out);
  gptq::matrix<float> whole(s.tokens, s.out), part(s.tokens, 91), plain(s.tokens, s.out);
  gptq::matmul<TestType>(gptq::view(p), x, plain);
  gptq::matmul<TestType>(gptq::view(p), x, whole, std::span(bias.data(), std::size_t(s.out)));
  gptq::matmul<TestType>(gptq::view(p), 37, x, part, std::span(bias.data() + 37, 91));
  for (index_t t = 0; t < s.tokens; ++t) {
    for (index_t n = 0; n < 91; ++n) REQUIRE(part(t, n) == whole(t, 37 + n));
    for (index_t n = 0; n < s.out; ++n) REQUIRE(std::abs(whole(t, n) - plain(t, n) - bias(0, n)) < 1e-4f);
  }
}

TEMPLATE_TEST_CASE("a token has the values it has alone; views may have strides", "[pack]", GPTQ_MATMUL_PATHS) {
  shape const s{192, 80, 13, 64};
  auto const p = random_layer(s, 4, false, gptq::checkpoint_format::gptq);
  auto const x = random_inputs(s.tokens, s.in + 5);
  gptq::matrix<float> y(s.tokens, s.out + 3), alone(1, s.out);
  gptq::matmul<TestType>(gptq::view(p), x.view().col_range(2, s.in), y.view().col_range(1, s.out));
  for (index_t t = 0; t < s.tokens; ++t) {
    gptq::matmul<TestType>(gptq::view(p), x.view().block(t, 2, 1, s.in), alone);
    for (index_t n = 0; n < s.out; ++n) REQUIRE(y(t, n + 1) == alone(0, n));
  }
}

TEMPLATE_TEST_CASE("a product reads tensors at any alignment, without g_idx, with scales of any type", "[pack]",
                   GPTQ_MATMUL_PATHS) {
  shape const s{128, 72, 2, 32};
  auto const p = random_layer(s, 4, false, gptq::checkpoint_format::gptq_v2);
  auto const x = random_inputs(s.tokens, s.in);
  gptq::matrix<float> y(s.tokens, s.out), same(s.tokens, s.out);
  gptq::matmul<TestType>(gptq::view(p), x, y);
  auto const misaligned = [](void const* from, std::size_t bytes) {
    std::vector<std::byte> copy(bytes + 1);
    std::memcpy(copy.data() + 1, from, bytes);
    return copy;
  };
  auto const qweight = misaligned(p.qweight.data(), std::size_t(p.qweight.size()) * 4);
  auto const qzeros = misaligned(p.qzeros.data(), std::size_t(p.qzeros.size()) * 4);
  std::vector<float> wide;
  for (index_t i = 0; i < p.scales.size(); ++i) wide.push_back(gptq::to_float(p.scales.data()[i]));
  auto const scales = misaligned(wide.data(), wide.size() * 4);
  auto v = gptq::view(p);
  v.qweight = qweight.data() + 1;
  v.qzeros = qzeros.data() + 1;
  v.scales = scales.data() + 1;
  v.scales_type = gptq::scale_type::f32;
  v.g_idx = nullptr;
  gptq::matmul<TestType>(v, x, same);
  CHECK(std::equal(y.data(), y.data() + y.size(), same.data()));

  std::vector<gptq::bfloat16> rounded;
  for (float const scale : wide) rounded.push_back(gptq::to_bfloat16(scale));
  v.scales = reinterpret_cast<std::byte const*>(rounded.data());
  v.scales_type = gptq::scale_type::bf16;
  gptq::matmul<TestType>(v, x, same);
  auto const w = gptq::dequantize(v);
  double sum = 0;
  for (index_t k = 0; k < s.in; ++k) sum += double(x(1, k)) * double(w(70, k));
  CHECK(std::abs(double(same(1, 70)) - sum) < 1e-4);
}

TEMPLATE_TEST_CASE("a product without g_idx is that with a trivial one", "[pack]", GPTQ_MATMUL_PATHS) {
  int const bits = GENERATE(2, 3, 4, 8);
  auto const s = GENERATE(values<shape>({{100, 40, 9, 32}, {77, 65, 4, -1}, {160, 1100, 5, 16}}));
  auto const p = random_layer(s, bits, false, gptq::checkpoint_format::gptq);
  auto const x = random_inputs(s.tokens, s.in);
  auto v = gptq::view(p);
  v.g_idx = nullptr;
  gptq::matrix<float> y(s.tokens, s.out);
  gptq::matmul<TestType>(v, x, y);
  CHECK(roundings(p, x, y) < test::tolerance<float>::product_roundings);
}

TEST_CASE("a product of nothing is the bias, and sizes that do not fit are refused", "[pack]") {
  shape const s{64, 32, 1, 32};
  auto p = random_layer(s, 4, true, gptq::checkpoint_format::gptq);
  auto const x = random_inputs(2, s.in);
  gptq::matrix<float> y(2, 32), few(2, 8), nothing(0, 32);
  gptq::matmul(gptq::view(p), gptq::matrix<float>(0, 64), nothing);
  CHECK_THROWS_AS(gptq::matmul(gptq::view(p), x, few), gptq::shape_error);
  CHECK_THROWS_AS(gptq::matmul(gptq::view(p), 25, x, few), gptq::shape_error);
  CHECK_THROWS_AS(gptq::matmul(gptq::view(p), -1, x, few), gptq::shape_error);
  CHECK_THROWS_AS(gptq::matmul(gptq::view(p), x.view().col_range(0, 63), y), gptq::shape_error);
  CHECK_THROWS_AS(gptq::matmul(gptq::view(p), x.view().row_range(0, 1), y), gptq::shape_error);
  CHECK_THROWS_AS(gptq::matmul(gptq::view(p), x, y, std::vector<float>(31)), gptq::shape_error);
  p.g_idx[63] = 2;
  CHECK_THROWS_WITH(gptq::matmul(gptq::view(p), x, y), "g_idx[63] = 2 is outside the 2 groups");
  p.g_idx[63] = 1;
  auto v = gptq::view(p);
  v.g_idx = nullptr;
  v.groups = 1;
  CHECK_THROWS_WITH(gptq::matmul(v, x, y), "matmul: 1 groups are too few for 64 inputs");
  p.spec.bits = 5;
  CHECK_THROWS_AS(gptq::matmul(gptq::view(p), x, y), gptq::shape_error);
}
