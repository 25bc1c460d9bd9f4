/// Device memory: one arena for each backend object, and the matrices that take from it.
#pragma once

#include <gptq/backend/cuda/check.cuh>
#include <gptq/backend/cuda/offset_pool.hpp>
#include <gptq/core/matrix.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace gptq {
inline namespace v0 {

/// Memory of a CUDA device.
struct cuda_space {};

/// A matrix in device memory, seen: row-major, `stride` elements from row to row.
template <class T>
using device_view = matrix_view<T, cuda_space>;

/// Device memory and the stream in whose order it is handed out and taken back: what is released is reused by later work
/// without waiting for earlier work. With a budget, that much is taken at once and cut into pieces here, so that no more
/// is ever used; without one, a pool of the driver grows while warming up and keeps what it has.
class device_arena {
 public:
  /// Takes the device that is current. A budget of 0 is what is free now.
  explicit device_arena(std::size_t budget) {
    int device = 0;
    detail::check(cudaGetDevice(&device), "cudaGetDevice");
    int pools = 0;
    detail::check(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, device), "cudaDeviceGetAttribute");
    if (!pools) throw device_error("the driver of device " + std::to_string(device) + " has no memory pools");
    std::size_t free = 0;
    std::size_t total = 0;
    detail::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    if (budget > free)
      throw device_memory_error("device memory: " + mib(budget) + " were asked for, " + mib(free) + " are free");
    budget_ = budget ? budget : free;
    detail::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    try {
      budget ? take_all() : make_pool(device);
    } catch (...) {
      cudaStreamDestroy(stream_);
      throw;
    }
  }
  ~device_arena() {
    cudaStreamSynchronize(stream_);
    if (pool_) cudaMemPoolDestroy(pool_);
    cudaFree(slab_);
    cudaStreamDestroy(stream_);
  }
  device_arena(device_arena const&) = delete;
  device_arena& operator=(device_arena const&) = delete;

  /// These two in any thread: what another thread releases must not be in use any more.
  void* allocate(std::size_t bytes) {
    std::lock_guard const lock(mutex_);
    if (bytes > budget_ - (std::min)(used_, budget_)) refuse(bytes);
    void* const p = slab_ ? cut(bytes) : draw(bytes);
    used_ += bytes;
    peak_ = (std::max)(peak_, used_);
    return p;
  }
  void release(void* p, std::size_t bytes) noexcept {
    std::lock_guard const lock(mutex_);
    if (slab_)
      offsets_.give(std::size_t(static_cast<std::byte*>(p) - slab_), bytes);
    else
      cudaFreeAsync(p, stream_);
    used_ -= bytes;
  }

  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] std::size_t budget() const { return budget_; }
  [[nodiscard]] std::size_t used() const { return used_; }
  [[nodiscard]] std::size_t peak() const { return peak_; }  ///< the most that was in use at once, in bytes

  /// What was taken of the whole device at most: these matrices, contexts, libraries, and other programs as they are now.
  [[nodiscard]] std::size_t device_peak() const {
    std::size_t free = 0;
    std::size_t total = 0;
    detail::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    if (!pool_) return total - free;
    std::uint64_t now = 0;
    std::uint64_t high = 0;
    detail::check(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &now), "cudaMemPoolGetAttribute");
    detail::check(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemHigh, &high), "cudaMemPoolGetAttribute");
    return total - free + std::size_t((std::max)(high, now) - now);
  }

 private:
  void take_all() {
    void* all = nullptr;
    detail::check(cudaMalloc(&all, budget_), "cudaMalloc");
    slab_ = static_cast<std::byte*>(all);
    offsets_ = detail::offset_pool(budget_);
  }
  void make_pool(int device) {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.handleTypes = cudaMemHandleTypeNone;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    detail::check(cudaMemPoolCreate(&pool_, &properties), "cudaMemPoolCreate");
    std::uint64_t keep = budget_;
    cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep);
  }

  void* cut(std::size_t bytes) {
    if (auto const offset = offsets_.take(bytes)) return slab_ + *offset;
    refuse(bytes);
  }
  void* draw(std::size_t bytes) {
    void* p = nullptr;
    auto status = cudaMallocFromPoolAsync(&p, bytes, pool_, stream_);
    if (status == cudaErrorMemoryAllocation) {  // give back what lies idle in pieces that do not fit
      cudaGetLastError();
      detail::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
      detail::check(cudaMemPoolTrimTo(pool_, 0), "cudaMemPoolTrimTo");
      status = cudaMallocFromPoolAsync(&p, bytes, pool_, stream_);
      if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        refuse(bytes);
      }
    }
    detail::check(status, "cudaMallocFromPoolAsync");
    return p;
  }

  static std::string mib(std::size_t x) { return std::to_string((x + (1u << 20) - 1) >> 20) + " MiB"; }
  [[noreturn]] void refuse(std::size_t bytes) const {
    throw device_memory_error("device memory: " + mib(bytes) + " more were asked for, " + mib(used_) + " of " +
                              mib(budget_) + " are in use" +
                              (slab_ ? ", the largest piece free has " + mib(offsets_.largest_hole()) : ""));
  }

  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  std::byte* slab_ = nullptr;
  detail::offset_pool offsets_;
  std::size_t budget_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

/// An owning device matrix, contiguous; elements are not initialised. Keeps its arena alive.
template <class T>
class device_matrix {
 public:
  using value_type = T;

  device_matrix() = default;
  device_matrix(std::shared_ptr<device_arena> arena, index_t rows, index_t cols) : rows_(rows), cols_(cols) {
    if (rows < 0 || cols < 0) throw shape_error("device_matrix: negative size");
    if (rows == 0 || cols == 0) return;
    if (__builtin_mul_overflow(static_cast<std::size_t>(rows), static_cast<std::size_t>(cols), &bytes_) ||
        __builtin_mul_overflow(bytes_, sizeof(T), &bytes_))
      throw shape_error("device_matrix: " + std::to_string(rows) + " x " + std::to_string(cols) + " overflows");
    data_ = static_cast<T*>(arena->allocate(bytes_));
    arena_ = std::move(arena);
  }
  device_matrix(device_matrix&& other) noexcept { swap(other); }
  device_matrix& operator=(device_matrix&& other) noexcept {
    device_matrix taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~device_matrix() {
    if (data_) arena_->release(data_, bytes_);
  }

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  [[nodiscard]] index_t size() const { return rows_ * cols_; }
  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] T const* data() const { return data_; }
  [[nodiscard]] device_view<T> view() { return {data_, rows_, cols_}; }
  [[nodiscard]] device_view<T const> view() const { return {data_, rows_, cols_}; }
  operator device_view<T>() { return view(); }
  operator device_view<T const>() const { return view(); }

 private:
  void swap(device_matrix& other) noexcept {
    std::swap(arena_, other.arena_);
    std::swap(data_, other.data_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
    std::swap(bytes_, other.bytes_);
  }

  std::shared_ptr<device_arena> arena_;
  T* data_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace v0
}  // namespace gptq
