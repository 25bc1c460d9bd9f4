/// Every status of CUDA, cuBLAS and cuSOLVER becomes a device_error that names the call, the status and the place.
#pragma once

#if !defined(__CUDACC__)
#error "gptq: this header holds device code; include it from a .cu file compiled by nvcc 12 or later"
#endif

#include <gptq/core/error.hpp>

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include <string>

namespace gptq {
inline namespace v0 {

namespace detail {

[[noreturn]] inline void fail(char const* call, std::string const& status, char const* file, int line) {
  throw device_error(std::string(call) + ": " + status + " (" + file + ":" + std::to_string(line) + ")");
}

inline void check(cudaError_t status, char const* call, char const* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the error is ours now
  std::string const text = std::string(cudaGetErrorName(status)) + ", " + cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) throw device_memory_error(std::string(call) + ": " + text);
  fail(call, text, file, line);
}

inline void check(cublasStatus_t status, char const* call, char const* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(call, cublasGetStatusString(status), file, line);
}

inline void check(cusolverStatus_t status, char const* call, char const* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (status != CUSOLVER_STATUS_SUCCESS) fail(call, "cuSOLVER status " + std::to_string(int(status)), file, line);
}

/// After a launch; errors of the kernel itself show at the next synchronisation.
inline void check_launch(char const* kernel, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  check(cudaGetLastError(), kernel, file, line);
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
