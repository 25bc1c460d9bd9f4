/// Reading from memory that need not be aligned, such as a tensor inside a mapped file.
#pragma once

#include <gptq/core/matrix.hpp>

#include <cstddef>
#include <cstring>
#include <type_traits>

namespace gptq {
inline namespace v0 {

/// Element `i` of an array of T that starts at `data`, at any alignment. Loops over it vectorise.
template <class T>
T load(std::byte const* data, index_t i) {
  static_assert(std::is_trivially_copyable_v<T>);
  T x;
  std::memcpy(&x, data + i * static_cast<index_t>(sizeof(T)), sizeof(T));
  return x;
}

}  // namespace v0
}  // namespace gptq
