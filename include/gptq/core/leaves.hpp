/// Leaves: the pieces of the calibration samples whose sums are taken on their own and then added in a fixed order.
#pragma once

#include <gptq/core/matrix.hpp>

namespace gptq {
inline namespace v0 {

/// Leaves that the samples are cut into, by number; fewer where there are fewer samples. No micro-batch crosses the
/// border of a leaf, so that any number of workers up to this one can share the samples and come to the same sums.
inline constexpr index_t most_leaves = 8;

/// The leaf, from 0 on, of sample `sample` of `samples` that are cut into `leaves`.
constexpr index_t leaf_of(index_t sample, index_t samples, index_t leaves = most_leaves) {
  return sample * (samples < leaves ? samples : leaves) / samples;
}

}  // namespace v0
}  // namespace gptq
