/// Numbers per token from logits, on the host: cross entropy, and the divergence of two models.
#pragma once

#include <gptq/backend/host/eigen.hpp>
#include <gptq/backend/host/parallel.hpp>
#include <gptq/core/flags.hpp>

#include <cmath>
#include <cstdint>
#include <span>

namespace gptq {
inline namespace v0 {
namespace detail {
inline namespace GPTQ_FLAGS {

/// A row in double: what is left of the sums below after cancellation may be 1e-5 and less.
template <class T>
class logit_row {
 public:
  void load(matrix_view<T const> logits, index_t t) {
    values_.resize(logits.cols);
    T const* __restrict const from = logits.row(t);
    double* __restrict const to = values_.data();
    for (index_t c = 0; c < logits.cols; ++c) to[c] = double(from[c]);
    top_value_ = values_.maxCoeff(&top_);
  }
  [[nodiscard]] Eigen::ArrayXd const& values() const { return values_; }
  [[nodiscard]] index_t top() const { return top_; }
  /// log Σ exp(values), leaving exp(values − largest) in `terms` and their sum in `sum`.
  double log_sum(Eigen::ArrayXd& terms, double& sum) const {
    terms = values_ - top_value_;
    terms = terms.exp();
    sum = terms.sum();
    return top_value_ + std::log(sum);
  }

 private:
  Eigen::ArrayXd values_;
  double top_value_ = 0;
  index_t top_ = 0;
};

template <class T>
void host_cross_entropy(matrix_view<T const> logits, matrix_view<std::int32_t const> targets, std::span<double> nll) {
  parallel_pieces(logits.rows, 16, [&](index_t first, index_t count) {
    logit_row<T> row;
    Eigen::ArrayXd terms;
    double sum = 0;
    for (index_t t = first; t < first + count; ++t) {
      row.load(logits, t);
      nll[static_cast<std::size_t>(t)] = row.log_sum(terms, sum) - row.values()[targets(0, t)];
    }
  });
}

/// KL = Σ p·(a − b) + log Σ exp b − log Σ exp a, for logits a of the reference and b.
template <class T>
void host_divergence(matrix_view<T const> reference, matrix_view<T const> logits, std::span<double> kl,
                     std::span<std::uint8_t> same_top) {
  parallel_pieces(logits.rows, 16, [&](index_t first, index_t count) {
    logit_row<T> a;
    logit_row<T> b;
    Eigen::ArrayXd p;
    Eigen::ArrayXd q;
    double sum_p = 0;
    double sum_q = 0;
    for (index_t t = first; t < first + count; ++t) {
      a.load(reference, t);
      b.load(logits, t);
      double const log_a = a.log_sum(p, sum_p);
      double const log_b = b.log_sum(q, sum_q);
      kl[static_cast<std::size_t>(t)] = (p * (a.values() - b.values())).sum() / sum_p + log_b - log_a;
      same_top[static_cast<std::size_t>(t)] = a.top() == b.top();
    }
  });
}

}  // namespace GPTQ_FLAGS
}  // namespace detail
}  // namespace v0
}  // namespace gptq
