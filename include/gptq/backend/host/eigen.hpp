/// Eigen seen through matrix_view: the only place of the quantizing backend that spells Eigen types.
#pragma once

#include <gptq/core/matrix.hpp>

#include <Eigen/Core>

#include <type_traits>

namespace gptq {
inline namespace v0 {
namespace detail {

template <class T>
using eigen_matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A row-major Eigen map of a view; const if the view is.
template <class T>
auto eigen(matrix_view<T> v) {
  using plain = eigen_matrix<std::remove_const_t<T>>;
  using mapped = std::conditional_t<std::is_const_v<T>, plain const, plain>;
  return Eigen::Map<mapped, Eigen::Unaligned, Eigen::OuterStride<>>(v.data, v.rows, v.cols,
                                                                    Eigen::OuterStride<>(v.stride));
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
