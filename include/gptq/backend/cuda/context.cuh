/// What the verbs of a device backend share: device, stream, library handles, arena, pinned buffers.
#pragma once

#include <gptq/backend/cuda/memory.cuh>
#include <gptq/backend/cuda/staging.cuh>

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace gptq {
inline namespace v0 {

/// Arithmetic of the large trailing products: fp32, or three products of bf16 halves with fp32 sums, which keeps 16 bits
/// of each factor and is several times faster.
enum class product_precision : unsigned char { fp32, bf16x3 };

/// What a cuda_backend is opened with.
struct cuda_options {
  int device = 0;
  std::size_t memory_budget = 0;  ///< bytes that matrices may take; 0 is what is free at the start
  product_precision products = product_precision::bf16x3;
};

namespace detail {

/// A cuBLAS handle on a stream, with a workspace of its own so that the library allocates nothing later.
class blas_lane {
 public:
  blas_lane(cudaStream_t stream, std::size_t workspace) {
    check(cublasCreate(&handle_), "cublasCreate");
    try {
      check(cublasSetStream(handle_, stream), "cublasSetStream");
      check(cudaMalloc(&workspace_, workspace), "cudaMalloc");
      check(cublasSetWorkspace(handle_, workspace_, workspace), "cublasSetWorkspace");
    } catch (...) {
      release();
      throw;
    }
  }
  ~blas_lane() { release(); }
  blas_lane(blas_lane const&) = delete;
  blas_lane& operator=(blas_lane const&) = delete;
  [[nodiscard]] cublasHandle_t get() const { return handle_; }

 private:
  void release() {
    cublasDestroy(handle_);
    cudaFree(workspace_);
  }
  cublasHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
};

/// A second stream: work forks from the main stream and joins it.
class side_stream {
 public:
  side_stream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    auto const status = cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
    if (status != cudaSuccess) cudaStreamDestroy(stream_);
    check(status, "cudaEventCreate");
  }
  ~side_stream() {
    cudaStreamSynchronize(stream_);
    cudaEventDestroy(event_);
    cudaStreamDestroy(stream_);
  }
  side_stream(side_stream const&) = delete;
  side_stream& operator=(side_stream const&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }

  /// What comes here now waits for what the main stream holds.
  void fork(cudaStream_t main) const { follow(main, stream_); }
  /// What comes to the main stream now waits for what is here.
  void join(cudaStream_t main) const { follow(stream_, main); }

 private:
  void follow(cudaStream_t first, cudaStream_t then) const {
    check(cudaEventRecord(event_, first), "cudaEventRecord");
    check(cudaStreamWaitEvent(then, event_), "cudaStreamWaitEvent");
  }
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
};

/// A stream for products that fill the device only together with others.
struct side_lane {
  side_stream stream;
  blas_lane blas{stream.get(), std::size_t(16) << 20};
};

/// Copies that run beside the work; used by one thread at a time.
struct copy_lane {
  side_stream stream;
  staging pinned;
};

/// Makes a device current and says what it is. Throws device_error for one that is not there or too old.
inline cudaDeviceProp open_device(int device) {
  int count = 0;
  auto const status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    int driver = 0;
    int runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    auto const dotted = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
    throw device_error(driver == 0 ? "no CUDA driver is installed"
                                   : "the CUDA driver supports version " + dotted(driver) +
                                         ", this program was built with " + dotted(runtime));
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) throw device_error("no CUDA device");
  check(status, "cudaGetDeviceCount");
  if (device < 0 || device >= count)
    throw device_error("there is no CUDA device " + std::to_string(device) + ": " + std::to_string(count) + " found");
  check(cudaSetDevice(device), "cudaSetDevice");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  if (properties.major < 8)
    throw device_error(std::string(properties.name) + " has compute capability " + std::to_string(properties.major) +
                       "." + std::to_string(properties.minor) + ", 8.0 or later is needed");
  return properties;
}

class cuda_context {
 public:
  explicit cuda_context(cuda_options const& options)
      : properties_(open_device(options.device)),
        options_(options),
        arena_(std::make_shared<device_arena>(options.memory_budget)),
        blas_(arena_->stream(), std::size_t(64) << 20) {
    try {
      check(cusolverDnCreate(&solver_), "cusolverDnCreate");
      check(cusolverDnSetStream(solver_, arena_->stream()), "cusolverDnSetStream");
      check(cusolverDnCreateParams(&solver_params_), "cusolverDnCreateParams");
      check(cudaHostAlloc(&flags_, 64 * sizeof(int), cudaHostAllocMapped), "cudaHostAlloc");
      check(cudaHostGetDevicePointer(&device_flags_, flags_, 0), "cudaHostGetDevicePointer");
    } catch (...) {
      release();
      throw;
    }
  }
  ~cuda_context() { release(); }
  cuda_context(cuda_context const&) = delete;
  cuda_context& operator=(cuda_context const&) = delete;

  [[nodiscard]] cuda_options const& options() const { return options_; }
  [[nodiscard]] std::shared_ptr<device_arena> const& arena() const { return arena_; }
  [[nodiscard]] cudaStream_t stream() const { return arena_->stream(); }
  [[nodiscard]] cublasHandle_t blas() const { return blas_.get(); }
  [[nodiscard]] cusolverDnHandle_t solver() const { return solver_; }
  [[nodiscard]] cusolverDnParams_t solver_params() const { return solver_params_; }
  [[nodiscard]] staging& pinned() { return staging_; }
  [[nodiscard]] cudaDeviceProp const& properties() const { return properties_; }

  template <class T>
  [[nodiscard]] device_matrix<T> make(index_t rows, index_t cols) const {
    return {arena_, rows, cols};
  }
  void synchronize() const { check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize"); }

  /// Words of host memory that kernels can write; read them after synchronize().
  [[nodiscard]] int volatile* flags() const { return static_cast<int*>(flags_); }
  [[nodiscard]] int* device_flags() const { return static_cast<int*>(device_flags_); }

  /// Calls f(cublas handle, i) for i in [0, n), spread over the main stream and the side lanes, which begin after what
  /// the main stream holds and are joined to it.
  template <class F>
  void concurrently(int n, int lanes, F&& f) {
    lanes = lanes < n ? lanes : n;
    for (int i = 0; i + 1 < lanes; ++i)
      if (!sides_[std::size_t(i)]) sides_[std::size_t(i)] = std::make_unique<side_lane>();
    for (int i = 0; i + 1 < lanes; ++i) sides_[std::size_t(i)]->stream.fork(stream());
    for (int i = 0; i < n; ++i) f(i % lanes == 0 ? blas() : sides_[std::size_t(i % lanes - 1)]->blas.get(), i);
    for (int i = 0; i + 1 < lanes; ++i) sides_[std::size_t(i)]->stream.join(stream());
  }

  /// Made when first asked for.
  [[nodiscard]] copy_lane& uploads() {
    if (!uploads_) uploads_ = std::make_unique<copy_lane>();
    return *uploads_;
  }
  /// For whoever holds it; others wait. In any thread.
  class held_lane {
   public:
    held_lane(copy_lane& lane, std::mutex& mutex) : lane_(&lane), lock_(mutex) {}
    [[nodiscard]] copy_lane* operator->() const { return lane_; }

   private:
    copy_lane* lane_;
    std::unique_lock<std::mutex> lock_;
  };
  [[nodiscard]] held_lane downloads() {
    std::call_once(downloads_made_, [&] { downloads_ = std::make_unique<copy_lane>(); });
    return {*downloads_, downloads_used_};
  }
  [[nodiscard]] side_stream& fetches() {
    if (!fetches_) fetches_ = std::make_unique<side_stream>();
    return *fetches_;
  }
  static constexpr int most_lanes = 4;

 private:
  void release() {
    cudaStreamSynchronize(stream());
    if (solver_params_) cusolverDnDestroyParams(solver_params_);
    if (solver_) cusolverDnDestroy(solver_);
    if (flags_) cudaFreeHost(flags_);
  }

  cudaDeviceProp properties_{};
  cuda_options options_;
  std::shared_ptr<device_arena> arena_;
  blas_lane blas_;
  cusolverDnHandle_t solver_ = nullptr;
  cusolverDnParams_t solver_params_ = nullptr;
  staging staging_;
  void* flags_ = nullptr;
  void* device_flags_ = nullptr;
  std::array<std::unique_ptr<side_lane>, most_lanes - 1> sides_;
  std::unique_ptr<copy_lane> uploads_;
  std::unique_ptr<side_stream> fetches_;
  std::once_flag downloads_made_;
  std::mutex downloads_used_;
  std::unique_ptr<copy_lane> downloads_;
};

}  // namespace detail

/// Whether a CUDA device is there that a backend could be made for; for tests and for programs that offer a choice.
inline bool cuda_available() {
  int count = 0;
  bool const found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  cudaGetLastError();
  return found;
}

}  // namespace v0
}  // namespace gptq
