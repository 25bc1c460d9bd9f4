/// The calibration samples of one worker.
#pragma once

#include <gptq/core/communicator.hpp>
#include <gptq/core/leaves.hpp>
#include <gptq/core/matrix.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What one of several workers runs of the samples: whole leaves, so that sums over tokens come out the same however many
/// workers there are.
struct sample_share {
  std::vector<std::vector<std::int32_t>> samples;  ///< all of them, those of other workers emptied: leaves go by number
  std::vector<index_t> token_bounds;               ///< [workers + 1] where the tokens of each worker begin and end
  index_t sequences = 0;                           ///< samples with a token, of all workers
  int rank = 0;

  /// Of all workers.
  [[nodiscard]] index_t tokens() const { return token_bounds.back(); }
  /// Of the workers before this one.
  [[nodiscard]] index_t first_token() const { return token_bounds[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] bool empty() const { return first_token() == token_bounds[static_cast<std::size_t>(rank) + 1]; }
};

/// Deals the leaves of the samples to workers.
inline sample_share share_samples(std::vector<std::vector<std::int32_t>> const& all, int rank, int workers) {
  auto const count = static_cast<index_t>(all.size());
  sample_share share{.samples = all, .token_bounds = {}, .sequences = 0, .rank = rank};
  share.token_bounds.assign(static_cast<std::size_t>(workers) + 1, 0);
  auto const leaf_bounds = deal((std::min)(count, most_leaves), workers);
  for (index_t s = 0; s < count; ++s) {
    auto& sample = share.samples[static_cast<std::size_t>(s)];
    auto const owner =
        std::upper_bound(leaf_bounds.begin(), leaf_bounds.end(), leaf_of(s, count)) - leaf_bounds.begin() - 1;
    share.token_bounds[static_cast<std::size_t>(owner) + 1] += static_cast<index_t>(sample.size());
    share.sequences += !sample.empty();
    if (owner != rank) sample = {};
  }
  for (std::size_t r = 1; r < share.token_bounds.size(); ++r) share.token_bounds[r] += share.token_bounds[r - 1];
  return share;
}

}  // namespace v0
}  // namespace gptq
