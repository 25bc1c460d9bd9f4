#include <gptq/pack/dequantize.hpp>

#include "support/catch.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace {

using gptq::index_t;

gptq::quantized_linear sample(index_t in, index_t out, int bits, int group_size) {
  std::mt19937 random(static_cast<unsigned>(in + out + bits));
  gptq::quantized_linear q;
  q.spec = {.bits = bits, .group_size = group_size, .sym = false};
  index_t const groups = gptq::group_count(in, group_size);
  q.codes = gptq::matrix<std::uint8_t>(in, out);
  q.scales = gptq::matrix<float>(groups, out);
  q.zeros = gptq::matrix<std::uint8_t>(groups, out);
  unsigned const top = (1u << bits) - 1;
  for (index_t i = 0; i < q.codes.size(); ++i) q.codes.data()[i] = static_cast<std::uint8_t>(random() & top);
  for (index_t i = 0; i < q.scales.size(); ++i) {
    q.scales.data()[i] = gptq::to_float(gptq::to_float16(static_cast<float>(random() % 997 + 1) * 1e-4f));
    q.zeros.data()[i] = static_cast<std::uint8_t>(1 + random() % top);
  }
  for (index_t k = 0; k < in; ++k) q.g_idx.push_back(static_cast<std::int32_t>(k / group_size));
  std::shuffle(q.g_idx.begin(), q.g_idx.end(), random);
  return q;
}

float expected(gptq::quantized_linear const& q, index_t n, index_t k) {
  index_t const g = q.g_idx[static_cast<std::size_t>(k)];
  return q.scales(g, n) * static_cast<float>(int(q.codes(k, n)) - int(q.zeros(g, n)));
}

}  // namespace

TEST_CASE("weights are scale times code minus zero, outputs in rows", "[pack]") {
  int const bits = GENERATE(2, 3, 4, 8);
  index_t const in = GENERATE(5, 64, 130);
  index_t const out = GENERATE(3, 64, 97);
  auto const format = GENERATE(gptq::checkpoint_format::gptq, gptq::checkpoint_format::gptq_v2);
  CAPTURE(bits, in, out);
  auto const q = sample(in, out, bits, 16);
  auto const from_codes = gptq::dequantize(q);
  auto const from_words = gptq::dequantize(gptq::pack(q, format));
  REQUIRE(from_words.rows() == out);
  REQUIRE(from_words.cols() == in);
  for (index_t n = 0; n < out; ++n)
    for (index_t k = 0; k < in; ++k) {
      REQUIRE(from_codes(n, k) == expected(q, n, k));
      REQUIRE(from_words(n, k) == expected(q, n, k));
    }
}

TEST_CASE("a range of outputs is dequantized alone", "[pack]") {
  auto const q = sample(96, 80, 3, 32);
  auto const p = gptq::pack(q, gptq::checkpoint_format::gptq_v2);
  gptq::matrix<float> part(17, 96);
  gptq::dequantize(gptq::view(p), 41, part);
  for (index_t n = 0; n < 17; ++n)
    for (index_t k = 0; k < 96; ++k) REQUIRE(part(n, k) == expected(q, n + 41, k));
  CHECK_THROWS_AS(gptq::dequantize(gptq::view(p), 70, part), gptq::shape_error);
}

TEST_CASE("tensors are read at any alignment and with scales of any float type", "[pack]") {
  auto const q = sample(64, 24, 4, 32);
  auto const p = gptq::pack(q, gptq::checkpoint_format::gptq);
  auto const weight = gptq::dequantize(p);
  gptq::packed_view v = gptq::view(p);

  auto const misaligned = [](void const* from, std::size_t bytes) {
    std::vector<std::byte> copy(bytes + 1);
    std::memcpy(copy.data() + 1, from, bytes);
    return copy;
  };
  auto const qweight = misaligned(p.qweight.data(), static_cast<std::size_t>(p.qweight.size()) * 4);
  auto const qzeros = misaligned(p.qzeros.data(), static_cast<std::size_t>(p.qzeros.size()) * 4);
  auto const scales = misaligned(p.scales.data(), static_cast<std::size_t>(p.scales.size()) * 2);
  auto const g_idx = misaligned(p.g_idx.data(), p.g_idx.size() * 4);
  v.qweight = qweight.data() + 1;
  v.qzeros = qzeros.data() + 1;
  v.scales = scales.data() + 1;
  v.g_idx = g_idx.data() + 1;
  auto const same = gptq::dequantize(v);
  CHECK(std::equal(weight.data(), weight.data() + weight.size(), same.data()));

  auto const wide = misaligned(q.scales.data(), static_cast<std::size_t>(q.scales.size()) * 4);
  v.scales = wide.data() + 1;
  v.scales_type = gptq::scale_type::f32;
  auto const from_float = gptq::dequantize(v);
  CHECK(std::equal(weight.data(), weight.data() + weight.size(), from_float.data()));

  std::vector<gptq::bfloat16> rounded;
  for (index_t i = 0; i < q.scales.size(); ++i) rounded.push_back(gptq::to_bfloat16(q.scales.data()[i]));
  v.scales = reinterpret_cast<std::byte const*>(rounded.data());
  v.scales_type = gptq::scale_type::bf16;
  auto const from_bfloat = gptq::dequantize(v);
  index_t const g = q.g_idx[9];
  float const scale = gptq::to_float(gptq::to_bfloat16(q.scales(g, 5)));
  CHECK(from_bfloat(5, 9) == scale * static_cast<float>(int(q.codes(9, 5)) - int(q.zeros(g, 5))));
}
