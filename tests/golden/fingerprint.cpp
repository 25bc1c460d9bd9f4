// What, beside this library's source, decides how float sums round on the host: golden.sh compares bytes only where this line is known.
#include <Eigen/Core>

#include <cstdio>
#if __has_include(<gnu/libc-version.h>)
#include <gnu/libc-version.h>
#define GPTQ_LIBC gnu_get_libc_version()
#else
#define GPTQ_LIBC "unknown"
#endif

int main() {
  std::printf("compiler %s; Eigen %d.%d.%d; SIMD %s; caches %td %td%s; libc %s\n", __VERSION__, EIGEN_WORLD_VERSION,
              EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION, Eigen::SimdInstructionSetsInUse(), Eigen::l1CacheSize(),
              Eigen::l2CacheSize(), Eigen::l3CacheSize() > 0 ? " and a third" : "", GPTQ_LIBC);
}
