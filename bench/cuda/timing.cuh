/// Times on one device: warm-up runs, then the median of several with the least and the most, and inputs that look like
/// activations.
#pragma once

#include <gptq/backend/cuda.cuh>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace bench {

struct times {
  double median = 0, least = 0, most = 0;  ///< milliseconds
};

inline times summary(std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  return {ms[ms.size() / 2], ms.front(), ms.back()};
}

/// Wall time of f() until the device is idle.
template <class F>
times wall(gptq::cuda_backend& b, F&& f, int repeats = 10, int warm_up = 3) {
  std::vector<double> ms;
  for (int i = -warm_up; i < repeats; ++i) {
    b.synchronize();
    auto const begin = std::chrono::steady_clock::now();
    f();
    b.synchronize();
    double const t = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    if (i >= 0) ms.push_back(t);
  }
  return summary(ms);
}

/// Time on the device of `inner` runs of f(), each, by events on the working stream.
template <class F>
times on_device(gptq::cuda_backend& b, F&& f, int repeats = 10, int inner = 1, int warm_up = 3) {
  cudaEvent_t begin, end;
  gptq::detail::check(cudaEventCreate(&begin), "cudaEventCreate");
  gptq::detail::check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> ms;
  for (int i = -warm_up; i < repeats; ++i) {
    gptq::detail::check(cudaEventRecord(begin, b.stream()), "cudaEventRecord");
    for (int k = 0; k < inner; ++k) f();
    gptq::detail::check(cudaEventRecord(end, b.stream()), "cudaEventRecord");
    b.synchronize();
    float t = 0;
    gptq::detail::check(cudaEventElapsedTime(&t, begin, end), "cudaEventElapsedTime");
    if (i >= 0) ms.push_back(double(t) / inner);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return summary(ms);
}

__host__ __device__ inline std::uint32_t mix(std::uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

/// Roughly normal: the sum of four uniform numbers.
__device__ inline float noise(std::uint32_t a, std::uint32_t b) {
  std::uint32_t const x = mix(a * 0x9e3779b9u ^ mix(b));
  std::uint32_t const y = mix(x + 0x85ebca6bu);
  return (float(x & 0xffff) + float(x >> 16) + float(y & 0xffff) + float(y >> 16) - 131070.0f) / 37837.0f;
}

/// Correlated channels of uneven strength, one in 128 of them an outlier.
template <class T>
struct activation_element {
  gptq::device_view<T> x;
  std::uint32_t seed;
  __device__ void operator()(gptq::index_t t, gptq::index_t k) const {
    float v = noise(seed + std::uint32_t(t), std::uint32_t(k));
    for (std::uint32_t r = 0; r < 4; ++r)
      v += 0.5f * noise(seed + std::uint32_t(t) + 77777777u, r) * noise(r + 1234567u, std::uint32_t(k));
    float const strength = exp2f(noise(99u, std::uint32_t(k))) * (mix(std::uint32_t(k)) % 128 == 0 ? 20.0f : 1.0f);
    x(t, k) = gptq::from_float<T>(strength * v);
  }
};

template <class T>
struct weight_element {
  gptq::device_view<T> w;
  std::uint32_t seed;
  __device__ void operator()(gptq::index_t n, gptq::index_t k) const {
    w(n, k) = gptq::from_float<T>(0.02f * noise(seed + std::uint32_t(n), std::uint32_t(k)));
  }
};

template <class T>
gptq::device_matrix<T> activations(gptq::cuda_backend& b, gptq::index_t tokens, gptq::index_t in, std::uint32_t seed) {
  auto x = b.make<T>(tokens, in);
  gptq::detail::elementwise(*b.context(), tokens, in, activation_element<T>{x.view(), seed * 1000003u});
  return x;
}
template <class T>
gptq::device_matrix<T> weights(gptq::cuda_backend& b, gptq::index_t out, gptq::index_t in, std::uint32_t seed) {
  auto w = b.make<T>(out, in);
  gptq::detail::elementwise(*b.context(), out, in, weight_element<T>{w.view(), seed * 999983u});
  return w;
}

inline void print(char const* what, times t, double work = 0, char const* unit = "") {
  std::printf("%-58s %9.3f ms  [%8.3f %8.3f]", what, t.median, t.least, t.most);
  if (work > 0) std::printf("  %8.1f %s", work / (t.median * 1e-3), unit);
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace bench
