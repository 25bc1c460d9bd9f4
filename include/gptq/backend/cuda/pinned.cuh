/// Matrices in host memory that the device copies from and to by itself.
#pragma once

#include <gptq/backend/cuda/memory.cuh>

#include <memory>
#include <utility>

namespace gptq {
inline namespace v0 {

/// An owning matrix in pinned host memory, contiguous; elements are not initialised. Before it goes it waits for the
/// copies of its arena's stream.
template <class T>
class pinned_matrix {
 public:
  using value_type = T;

  pinned_matrix() = default;
  pinned_matrix(std::shared_ptr<device_arena> arena, index_t rows, index_t cols)
      : arena_(std::move(arena)), rows_(rows), cols_(cols) {
    if (rows < 0 || cols < 0) throw shape_error("pinned_matrix: negative size");
    if (rows == 0 || cols == 0) return;
    void* p = nullptr;
    std::size_t const bytes = std::size_t(rows) * std::size_t(cols) * sizeof(T);
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) != cudaSuccess) {
      cudaGetLastError();
      throw device_error("pinned host memory: " + std::to_string(bytes >> 20) + " MiB can't be had");
    }
    data_ = static_cast<T*>(p);
  }
  pinned_matrix(pinned_matrix&& other) noexcept { swap(other); }
  pinned_matrix& operator=(pinned_matrix&& other) noexcept {
    pinned_matrix taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~pinned_matrix() {
    if (!data_) return;
    cudaStreamSynchronize(arena_->stream());
    cudaFreeHost(data_);
  }

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  [[nodiscard]] matrix_view<T> view() { return {data_, rows_, cols_}; }

 private:
  void swap(pinned_matrix& other) noexcept {
    std::swap(arena_, other.arena_);
    std::swap(data_, other.data_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
  }

  std::shared_ptr<device_arena> arena_;
  T* data_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

namespace detail {

/// Elements as they lie; both sides without gaps between rows.
template <class From, class To>
void copy_contiguous(From from, To to, cudaMemcpyKind kind, cudaStream_t stream) {
  if (from.rows != to.rows || from.cols != to.cols || from.stride != from.cols || to.stride != to.cols)
    throw shape_error("copies beside the work are of contiguous matrices of the same size");
  if (from.rows == 0 || from.cols == 0) return;
  std::size_t const bytes = std::size_t(from.rows) * std::size_t(from.cols) * sizeof(typename To::value_type);
  check(cudaMemcpyAsync(to.data, from.data, bytes, kind, stream), "cudaMemcpyAsync");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
