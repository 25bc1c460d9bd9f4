// The vocabulary in device code, with a memory space of its own. Runs where there is no device too: nothing is launched.
#include <gptq/core/float16.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/core/spec.hpp>

namespace {
struct device_space {};

__global__ void halve(gptq::matrix_view<gptq::float16, device_space> m) {
  m(0, threadIdx.x) = gptq::to_float16(0.5f * gptq::to_float(m(0, threadIdx.x)));
}
}  // namespace

int main(int count, char**) {
  if (count > 1) halve<<<1, 32>>>({nullptr, 1, 32});
  return gptq::to_float(gptq::to_float16(0.5f)) == 0.5f ? 0 : 1;
}
