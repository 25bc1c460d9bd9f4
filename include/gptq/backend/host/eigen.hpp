/// Eigen seen through matrix_view: the only place of the quantizing backend that spells Eigen types.
#pragma once

#include <gptq/core/flags.hpp>
#include <gptq/core/matrix.hpp>

// The backend shares out its work itself, in pieces that do not depend on the number of threads: Eigen must not.
#if !defined(EIGEN_DONT_PARALLELIZE)
#define EIGEN_DONT_PARALLELIZE
#endif

// With GPTQ_PRIVATE_EIGEN defined a unit has an Eigen of its own, in a namespace named after its flags.
#if defined(GPTQ_PRIVATE_EIGEN)
#if defined(EIGEN_WORLD_VERSION)
#error "gptq: with GPTQ_PRIVATE_EIGEN nothing else of the file may include Eigen"
#endif
#define Eigen GPTQ_JOIN(gptq_eigen, GPTQ_FLAGS)
#endif
#include <Eigen/Cholesky>
#include <Eigen/Core>
#if defined(GPTQ_PRIVATE_EIGEN)
#undef Eigen
namespace gptq {
namespace Eigen = ::GPTQ_JOIN(gptq_eigen, GPTQ_FLAGS);
}
#elif defined(EIGEN_HAS_OPENMP)
#error \
    "gptq: Eigen was included before gptq's host backend and would divide products by the number of threads; include gptq first, or define EIGEN_DONT_PARALLELIZE"
#endif

#include <type_traits>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

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

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
