/// Layers for the benchmarks: correlated inputs with channels of different strength (zeros or constants would run faster
/// and quantize trivially), and the machine's own rate of a plain product, which the others are compared with.
#pragma once

#include <gptq/backend/host.hpp>
#include <gptq/gptq.hpp>

#include <benchmark/benchmark.h>

#include <random>

namespace bench {

using gptq::index_t;
using gptq::matrix;

inline matrix<float> inputs(index_t tokens, index_t in) {
  matrix<float> x(tokens, in);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  matrix<float> noise(1, 1 << 20);
  for (index_t i = 0; i < noise.size(); ++i) noise.data()[i] = normal(random);
  for (index_t t = 0; t < tokens; ++t) {
    float const common = 0.5f * normal(random);
    auto const start = static_cast<index_t>(random() % 65536);
    for (index_t k = 0; k < in; ++k)
      x(t, k) = (common + noise.data()[start + k]) * (0.5f + static_cast<float>(k % 37) / 20.0f);
  }
  return x;
}

inline matrix<float> weights(index_t out, index_t in) {
  matrix<float> w(out, in);
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 0.02f);
  for (index_t i = 0; i < w.size(); ++i) w.data()[i] = normal(random);
  return w;
}

/// The Hessian of a layer with `in` inputs.
inline gptq::hessian<gptq::host_backend> hessian(gptq::host_backend& b, index_t in) {
  gptq::hessian h{b, in};
  auto const x = inputs(2048, in);
  for (index_t t = 0; t < in + 1024; t += 2048) h.add(x);
  return h;
}

inline void count_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

}  // namespace bench
