/// Views and owners of dense matrices. Everything is row-major: element (r, c) lies at data[r * stride + c].
/// The memory space is part of a view's type, so a host pointer handed to a device function does not compile.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/macros.hpp>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gptq {
inline namespace v0 {

/// Sizes and positions; signed, as in Eigen, BLAS and OpenMP.
using index_t = std::ptrdiff_t;

/// Memory that this process reads and writes as it is. A backend whose matrices lie elsewhere has a tag of its own, so
/// that its views don't pass for another's.
struct host_space {};

/// A non-owning view of rows × cols elements.
///   Space  the tag of the memory that it lies in
template <class T, class Space = host_space>
struct matrix_view {
  using value_type = T;
  using space = Space;

  T* data = nullptr;
  index_t rows = 0;
  index_t cols = 0;
  index_t stride = 0;  ///< elements from one row to the next, at least cols

  constexpr matrix_view() = default;
  GPTQ_HD constexpr matrix_view(T* d, index_t r, index_t c) : data(d), rows(r), cols(c), stride(c) {}
  GPTQ_HD constexpr matrix_view(T* d, index_t r, index_t c, index_t s) : data(d), rows(r), cols(c), stride(s) {}

  /// A view of mutable elements serves where one of const elements is asked for.
  template <class U>
  requires(std::is_same_v<T, U const> && !std::is_same_v<T, U>) GPTQ_HD constexpr matrix_view(matrix_view<U, Space> v)
      : data(v.data), rows(v.rows), cols(v.cols), stride(v.stride) {}

  [[nodiscard]] GPTQ_HD constexpr T* row(index_t r) const { return data + r * stride; }
  [[nodiscard]] GPTQ_HD constexpr T& operator()(index_t r, index_t c) const { return data[r * stride + c]; }
  [[nodiscard]] GPTQ_HD constexpr index_t size() const { return rows * cols; }
  [[nodiscard]] GPTQ_HD constexpr matrix_view block(index_t r, index_t c, index_t nr, index_t nc) const {
    return {data + r * stride + c, nr, nc, stride};
  }
  [[nodiscard]] GPTQ_HD constexpr matrix_view row_range(index_t r, index_t n) const { return block(r, 0, n, cols); }
  [[nodiscard]] GPTQ_HD constexpr matrix_view col_range(index_t c, index_t n) const { return block(0, c, rows, n); }
};

/// An owning host matrix, 64-byte aligned, contiguous (stride == cols). Elements are *not* initialised.
template <class T>
class matrix {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  using value_type = T;

  matrix() = default;
  matrix(index_t rows, index_t cols) : rows_(rows), cols_(cols), data_(allocate(rows, cols)) {}
  matrix(matrix&& other) noexcept
      : rows_(std::exchange(other.rows_, 0)), cols_(std::exchange(other.cols_, 0)), data_(std::move(other.data_)) {}
  matrix& operator=(matrix&& other) noexcept {
    rows_ = std::exchange(other.rows_, 0);
    cols_ = std::exchange(other.cols_, 0);
    data_ = std::move(other.data_);
    return *this;
  }

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  [[nodiscard]] index_t size() const { return rows_ * cols_; }
  [[nodiscard]] T* data() { return data_.get(); }
  [[nodiscard]] T const* data() const { return data_.get(); }
  [[nodiscard]] T* row(index_t r) { return data_.get() + r * cols_; }
  [[nodiscard]] T const* row(index_t r) const { return data_.get() + r * cols_; }
  [[nodiscard]] T& operator()(index_t r, index_t c) { return data_[static_cast<std::size_t>(r * cols_ + c)]; }
  [[nodiscard]] T const& operator()(index_t r, index_t c) const {
    return data_[static_cast<std::size_t>(r * cols_ + c)];
  }
  [[nodiscard]] matrix_view<T> view() { return {data(), rows_, cols_}; }
  [[nodiscard]] matrix_view<T const> view() const { return {data(), rows_, cols_}; }
  operator matrix_view<T>() { return view(); }
  operator matrix_view<T const>() const { return view(); }

 private:
  struct release {
    void operator()(T* p) const { std::free(p); }
  };
  static constexpr std::size_t large = std::size_t(16) << 20;

  static T* allocate(index_t rows, index_t cols) {
    if (rows < 0 || cols < 0) throw shape_error("matrix: negative size");
    if (rows == 0 || cols == 0) return nullptr;
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(static_cast<std::size_t>(rows), static_cast<std::size_t>(cols), &bytes) ||
        __builtin_mul_overflow(bytes, sizeof(T), &bytes) || bytes > static_cast<std::size_t>(PTRDIFF_MAX) - 64)
      throw shape_error("matrix: " + std::to_string(rows) + " x " + std::to_string(cols) + " overflows");
    std::size_t const alignment = bytes >= large ? std::size_t(2) << 20 : 64;
    std::size_t const whole = (bytes + alignment - 1) / alignment * alignment;
    void* p = std::aligned_alloc(alignment, whole);
    if (!p) throw std::bad_alloc();
#if defined(__linux__)
    if (bytes >= large)
      ::madvise(p, whole, MADV_HUGEPAGE);  // a wish: small pages of a large matrix cost more than a copy
#endif
    return static_cast<T*>(p);
  }

  index_t rows_ = 0;
  index_t cols_ = 0;
  std::unique_ptr<T[], release> data_;
};

}  // namespace v0
}  // namespace gptq
