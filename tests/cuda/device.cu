/// Without a GPU these tests can't run: the program says so and ends as skipped.
#include <gptq/backend/cuda.cuh>

#include <cstdio>
#include <cstdlib>

namespace {
[[maybe_unused]] bool const device_is_there = [] {
  if (gptq::cuda_available()) return true;
  std::puts("skipped: no CUDA device");
  std::fflush(stdout);
  std::_Exit(77);
}();
}
