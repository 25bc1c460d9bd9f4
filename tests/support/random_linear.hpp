/// Layers of random codes.
#pragma once

#include <gptq/core/quantized_linear.hpp>

#include <algorithm>
#include <cstdint>
#include <random>

namespace test {

/// A layer with random codes, zeros from `lowest_zero` up and scales that float16 holds exactly.
inline gptq::quantized_linear random_linear(gptq::index_t in, gptq::index_t out, gptq::quant_spec spec,
                                            unsigned lowest_zero = 0) {
  std::mt19937 random(static_cast<unsigned>(in * 7 + out * 3 + spec.bits));
  unsigned const top = (1u << spec.bits) - 1;
  gptq::index_t const groups = gptq::group_count(in, spec.group_size);
  gptq::quantized_linear q;
  q.spec = spec.format();
  q.codes = gptq::matrix<std::uint8_t>(in, out);
  q.scales = gptq::matrix<float>(groups, out);
  q.zeros = gptq::matrix<std::uint8_t>(groups, out);
  for (gptq::index_t i = 0; i < q.codes.size(); ++i) q.codes.data()[i] = static_cast<std::uint8_t>(random() & top);
  for (gptq::index_t i = 0; i < q.scales.size(); ++i) {
    q.scales.data()[i] = static_cast<float>(random() % 1000 + 1) / 1024.0f;
    q.zeros.data()[i] =
        static_cast<std::uint8_t>(spec.sym ? (top + 1) / 2 : lowest_zero + random() % (top + 1 - lowest_zero));
  }
  for (gptq::index_t k = 0; k < in; ++k)
    q.g_idx.push_back(static_cast<std::int32_t>(spec.group_size == -1 ? 0 : k / spec.group_size));
  if (spec.order == gptq::column_order::desc_act) std::shuffle(q.g_idx.begin(), q.g_idx.end(), random);
  return q;
}

}  // namespace test
