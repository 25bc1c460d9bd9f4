/// Where to compute: the options --device and --threads, the same for every subcommand that runs a model.
#pragma once

#include "console.hpp"

#include <gptq/backend/host/eigen.hpp>
#include <gptq/core/error.hpp>

#include <CLI/CLI.hpp>

#include <string>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace app {

struct compute_options {
  std::string device = "host";
  int threads = 0;  ///< 0: as many as OpenMP takes by itself
};

inline void add_compute_options(CLI::App& command, compute_options& options) {
  command.add_option("--device", options.device, "Where to compute")
      ->check(CLI::IsMember({"host", "cuda"}))
      ->capture_default_str()
      ->type_name("host|cuda");
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

/// Puts the options into force. Throws device_error for a device that this build does not have.
inline void use(compute_options const& options) {
  if (options.device != "host") throw gptq::device_error("--device cuda: this gptq was built without CUDA");
  if (options.threads == 0) return;
#if defined(_OPENMP)
  omp_set_num_threads(options.threads);
#else
  if (options.threads > 1) warn("--threads: this gptq was built without OpenMP and uses one thread");
#endif
}

inline std::string eigen_version() {
  return fmt::format("{}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION);
}

}  // namespace app
