/// The backend that a test file is built for: the host's in a .cpp, the device's in a .cu (which includes the .cpp).
#pragma once

#include <gptq/gptq.hpp>

#if defined(__CUDACC__)
#include <gptq/backend/cuda.cuh>
namespace test {
using backend = gptq::cuda_backend;
}
#else
#include <gptq/backend/host.hpp>
namespace test {
using backend = gptq::host_backend;
}
#endif

namespace test {

/// Copies between the host and the backend under test.
template <class B, class T>
gptq::matrix_of<B, T> to_backend(B& b, gptq::matrix<T> const& m) {
  auto result = b.template make<T>(m.rows(), m.cols());
  b.upload(m.view(), result);
  return result;
}
template <class T, class B, class Matrix>
gptq::matrix<T> to_host(B& b, Matrix const& m) {
  gptq::matrix<T> result(m.rows(), m.cols());
  b.download(gptq::view_of<B, T const>(m), result.view());
  return result;
}

}  // namespace test
