/// Threads for the host backend: OpenMP where the compiler has it on, else one thread.
#pragma once

#include <gptq/core/flags.hpp>
#include <gptq/core/matrix.hpp>

#include <atomic>
#include <exception>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// Threads that a parallel_for would use. Sizes of products must not depend on it, or the result would: it is for scratch
/// space, and for shares whose borders change no sum.
inline int thread_count() {
#if defined(_OPENMP)
  return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

/// Calls f(i) for i in [0, n), one task at a time to whoever is free, so that a thread that loses its core does not
/// stall the rest. The first exception stops the handing out and is thrown again here. Runs serially inside another
/// parallel_for.
template <class F>
void parallel_for(index_t n, F&& f) {
#if defined(_OPENMP)
  if (n > 1 && thread_count() > 1) {
    std::exception_ptr failure;
    std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1)
    for (index_t i = 0; i < n; ++i) {
      if (failed.load(std::memory_order_relaxed)) continue;
      try {
        f(i);
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    return;
  }
#endif
  for (index_t i = 0; i < n; ++i) f(i);
}

/// The same over [0, n) cut into pieces of `piece`: f(first, count).
template <class F>
void parallel_pieces(index_t n, index_t piece, F&& f) {
  parallel_for((n + piece - 1) / piece,
               [&](index_t i) { f(i * piece, i * piece + piece < n ? piece : n - i * piece); });
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
