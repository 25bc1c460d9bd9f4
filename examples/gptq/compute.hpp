/// Where to compute: the options --device, --device-memory and --threads, the same for every subcommand that runs a model.
#pragma once

#include "app.hpp"
#include "console.hpp"
#include "device.hpp"
#include "size.hpp"

#include <gptq/backend/host/eigen.hpp>
#include <gptq/core/error.hpp>

#include <CLI/CLI.hpp>

#include <future>
#include <string>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace app {

struct compute_options {
  std::string device = "host";
  std::string device_memory;  ///< as given; empty: as much as is free
  int threads = 0;            ///< 0: as many as OpenMP takes by itself
};

inline void add_compute_options(CLI::App& command, compute_options& options) {
  command.add_option("--device", options.device, "Where to compute")
      ->check(CLI::IsMember({"host", "cuda"}))
      ->capture_default_str()
      ->type_name("host|cuda");
  command
      .add_option("--device-memory", options.device_memory,
                  "Device memory to use in all: 10GiB, 24GB, bytes; what is free if not given")
      ->type_name("SIZE");
  command.add_option("--threads", options.threads, "Threads to use; every core if not given")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
}

/// Threads that the host backend, and Eigen with it, will use.
inline int thread_count() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// Makes the calling thread, and no other, use so many.
inline void use_threads([[maybe_unused]] int threads) {
#if defined(_OPENMP)
  omp_set_num_threads(threads);
#endif
}

inline bool on_device(compute_options const& options) { return options.device != "host"; }

/// Bytes of --device-memory, 0 where it was not given.
inline std::size_t device_memory(compute_options const& options) {
  return options.device_memory.empty() ? 0 : parse_size("--device-memory", options.device_memory);
}

/// Puts the options into force. Throws device_error for a device that this build does not have; for one that this machine
/// does not have, the result does: it is looked for and made ready beside what the caller does next.
[[nodiscard]] inline std::future<void> begin_use(compute_options const& options) {
  if (!options.device_memory.empty() && !on_device(options))
    throw usage_error("--device-memory: is for --device cuda; the host takes what it needs");
  device_memory(options);
#if !GPTQ_WITH_CUDA
  if (on_device(options)) throw gptq::device_error("--device cuda: this gptq was built without CUDA");
#endif
  if (options.threads > 0) {
#if defined(_OPENMP)
    use_threads(options.threads);
#else
    if (options.threads > 1) warn("--threads: this gptq was built without OpenMP and uses one thread");
#endif
  }
#if GPTQ_WITH_CUDA
  if (on_device(options))
    return std::async(std::launch::async, [device = options.device] {
      try {
        require_cuda_device();
      } catch (gptq::device_error const& e) {
        throw gptq::device_error(fmt::format("--device {}: {}", device, e.what()));
      }
    });
#endif
  return std::async(std::launch::deferred, [] {});
}

/// The same, complete.
inline void use(compute_options const& options) { begin_use(options).get(); }

inline std::string eigen_version() {
  return fmt::format("{}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION);
}

}  // namespace app
