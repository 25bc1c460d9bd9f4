/// Copies between pageable host memory and the device through pinned buffers, so that the bus runs at its own rate and
/// uploads do not wait.
#pragma once

#include <gptq/backend/cuda/memory.cuh>

#include <cstddef>
#include <cstring>
#include <future>

namespace gptq {
inline namespace v0 {
namespace detail {

/// memcpy, by several threads where one would be slower than the bus, not least for the pages it touches first.
inline void copy_bytes(void* to, void const* from, std::size_t bytes) {
  constexpr std::size_t share = std::size_t(2) << 20;
  if (bytes < 2 * share) {
    std::memcpy(to, from, bytes);
    return;
  }
  std::future<void> others[3];
  std::size_t const part = bytes / 4;
  auto* const target = static_cast<std::byte*>(to);
  auto const* const source = static_cast<std::byte const*>(from);
  for (std::size_t i = 0; i < 3; ++i)
    others[i] = std::async(std::launch::async, [=] { std::memcpy(target + i * part, source + i * part, part); });
  std::memcpy(target + 3 * part, source + 3 * part, bytes - 3 * part);
  for (auto& other : others) other.get();
}

/// Two pinned halves used in turn; an event says when the device has done with one.
class staging {
 public:
  static constexpr std::size_t half_bytes = std::size_t(8) << 20;

  staging() {
    check(cudaHostAlloc(&buffer_, 2 * half_bytes, cudaHostAllocDefault), "cudaHostAlloc");
    for (auto& event : done_)
      if (auto const status = cudaEventCreateWithFlags(&event, cudaEventDisableTiming); status != cudaSuccess) {
        release();
        check(status, "cudaEventCreate");
      }
  }
  ~staging() { release(); }
  staging(staging const&) = delete;
  staging& operator=(staging const&) = delete;

  /// Returns when the host memory may be reused; the copy itself may still be on its way.
  void upload(void const* from, std::size_t from_pitch, void* to, std::size_t to_pitch, std::size_t width,
              std::size_t rows, cudaStream_t stream) {
    for_each_piece(width, rows, [&](std::size_t row, std::size_t n, std::size_t column, std::size_t bytes) {
      if (offset_ + n * bytes > half_bytes) turn(stream);
      std::byte* const pinned = static_cast<std::byte*>(buffer_) + current_ * half_bytes + offset_;
      auto const* const source = static_cast<std::byte const*>(from) + row * from_pitch + column;
      if (from_pitch == bytes)
        copy_bytes(pinned, source, n * bytes);
      else
        for (std::size_t r = 0; r < n; ++r) std::memcpy(pinned + r * bytes, source + r * from_pitch, bytes);
      copy(pinned, bytes, static_cast<std::byte*>(to) + row * to_pitch + column, to_pitch, bytes, n,
           cudaMemcpyHostToDevice, stream);
      offset_ += (n * bytes + 255) / 256 * 256;
    });
  }

  /// Returns when the data are there.
  void download(void const* from, std::size_t from_pitch, void* to, std::size_t to_pitch, std::size_t width,
                std::size_t rows, cudaStream_t stream) {
    struct piece {
      std::size_t row = 0, n = 0, column = 0, bytes = 0, half = 0;
    } pending;
    auto const collect = [&] {
      if (pending.n == 0) return;
      check(cudaEventSynchronize(done_[pending.half]), "cudaEventSynchronize");
      std::byte const* const pinned = static_cast<std::byte*>(buffer_) + pending.half * half_bytes;
      auto* const target = static_cast<std::byte*>(to) + pending.row * to_pitch + pending.column;
      if (to_pitch == pending.bytes)
        copy_bytes(target, pinned, pending.n * pending.bytes);
      else
        for (std::size_t r = 0; r < pending.n; ++r)
          std::memcpy(target + r * to_pitch, pinned + r * pending.bytes, pending.bytes);
    };
    for_each_piece(width, rows, [&](std::size_t row, std::size_t n, std::size_t column, std::size_t bytes) {
      turn(stream);
      copy(static_cast<std::byte const*>(from) + row * from_pitch + column, from_pitch,
           static_cast<std::byte*>(buffer_) + current_ * half_bytes, bytes, bytes, n, cudaMemcpyDeviceToHost, stream);
      check(cudaEventRecord(done_[current_], stream), "cudaEventRecord");
      collect();
      pending = {row, n, column, bytes, current_};
    });
    collect();
    offset_ = half_bytes;  // the next use begins a fresh half
  }

 private:
  /// Pieces of whole rows that fit into a half, or parts of rows where one row does not.
  template <class F>
  static void for_each_piece(std::size_t width, std::size_t rows, F&& f) {
    if (width == 0) return;
    std::size_t const at_once = half_bytes / width;
    if (at_once == 0) {
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < width; c += half_bytes)
          f(r, std::size_t(1), c, width - c < half_bytes ? width - c : half_bytes);
      return;
    }
    for (std::size_t r = 0; r < rows; r += at_once)
      f(r, rows - r < at_once ? rows - r : at_once, std::size_t(0), width);
  }

  static void copy(void const* from, std::size_t from_pitch, void* to, std::size_t to_pitch, std::size_t bytes,
                   std::size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
    if (from_pitch == bytes && to_pitch == bytes)
      check(cudaMemcpyAsync(to, from, bytes * rows, kind, stream), "cudaMemcpyAsync");
    else
      check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, rows, kind, stream), "cudaMemcpy2DAsync");
  }

  /// Leaves the current half to the device and waits for the other one.
  void turn(cudaStream_t stream) {
    check(cudaEventRecord(done_[current_], stream), "cudaEventRecord");
    current_ ^= 1;
    offset_ = 0;
    check(cudaEventSynchronize(done_[current_]), "cudaEventSynchronize");
  }

  void release() {
    for (auto event : done_)
      if (event) {
        cudaEventSynchronize(event);
        cudaEventDestroy(event);
      }
    cudaFreeHost(buffer_);
  }

  void* buffer_ = nullptr;
  cudaEvent_t done_[2] = {};
  std::size_t current_ = 0;
  std::size_t offset_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
