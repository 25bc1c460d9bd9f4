/// Rows of indices, flags and numbers that start out on the host.
#pragma once

#include <gptq/core/quantize_backend.hpp>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// 0, 1, …, n − 1
inline std::vector<std::int32_t> counting(index_t n) {
  std::vector<std::int32_t> v(static_cast<std::size_t>(n));
  std::iota(v.begin(), v.end(), 0);
  return v;
}

/// The values as [1 × n] in the backend's memory.
template <class B, class T>
matrix_of<B, T> upload_row(B& b, std::vector<T> const& values) {
  auto m = b.template make<T>(1, static_cast<index_t>(values.size()));
  b.upload(matrix_view<T const>(values.data(), 1, static_cast<index_t>(values.size())), m);
  return m;
}

template <class B, class T>
matrix_of<B, T> upload_row(B& b, index_t n, T value) {
  return upload_row(b, std::vector<T>(static_cast<std::size_t>(n), value));
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
