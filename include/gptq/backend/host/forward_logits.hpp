/// Numbers per token from logits, on the host: cross entropy, and the divergence of two models.
#pragma once

#include <gptq/backend/host/eigen.hpp>
#include <gptq/backend/host/parallel.hpp>

#include <cmath>
#include <cstdint>
#include <span>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Exponentials are in double here and below: what is left of the sums after cancellation may be 1e-5 and less.
template <class T>
void host_cross_entropy(matrix_view<T const> logits, matrix_view<std::int32_t const> targets, std::span<double> nll) {
  parallel_pieces(logits.rows, 16, [&](index_t first, index_t count) {
    for (index_t t = first; t < first + count; ++t) {
      auto const row = eigen(logits).row(t).array();
      double const top = double(row.maxCoeff());
      double const sum = (row.template cast<double>() - top).exp().sum();
      nll[static_cast<std::size_t>(t)] = top + std::log(sum) - double(row(targets(0, t)));
    }
  });
}

/// KL = Σ p·(a − b) + log Σ exp b − log Σ exp a, for logits a of the reference and b.
template <class T>
void host_divergence(matrix_view<T const> reference, matrix_view<T const> logits, std::span<double> kl,
                     std::span<std::uint8_t> same_top) {
  parallel_pieces(logits.rows, 16, [&](index_t first, index_t count) {
    Eigen::Array<double, 1, Eigen::Dynamic> p(logits.cols);
    for (index_t t = first; t < first + count; ++t) {
      auto const a = eigen(reference).row(t).array();
      auto const b = eigen(logits).row(t).array();
      index_t top_a = 0;
      index_t top_b = 0;
      double const max_a = double(a.maxCoeff(&top_a));
      double const max_b = double(b.maxCoeff(&top_b));
      p = (a.template cast<double>() - max_a).exp();
      double const sum_a = p.sum();
      double const sum_b = (b.template cast<double>() - max_b).exp().sum();
      double const shift = (p * (a.template cast<double>() - b.template cast<double>())).sum() / sum_a;
      kl[static_cast<std::size_t>(t)] = shift + (max_b + std::log(sum_b)) - (max_a + std::log(sum_a));
      same_top[static_cast<std::size_t>(t)] = top_a == top_b;
    }
  });
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
