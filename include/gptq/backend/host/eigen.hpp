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

/// c += alpha·op(a)·op(b). Every product of the host backend is one of these: each further form of Eigen expression
/// costs a program two seconds of compile time.
template <bool TransposeA, bool TransposeB, class S>
void add_product(S alpha, matrix_view<S const> a, matrix_view<S const> b, matrix_view<S> c) {
  if constexpr (TransposeA)
    eigen(c).noalias() += alpha * (eigen(a).transpose() * eigen(b));
  else if constexpr (TransposeB)
    eigen(c).noalias() += alpha * (eigen(a) * eigen(b).transpose());
  else
    eigen(c).noalias() += alpha * (eigen(a) * eigen(b));
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
