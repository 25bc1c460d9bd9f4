/// What was seen: the running Gram matrix of the inputs of one or more linear layers that read the same tensor.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/quantize_backend.hpp>
#include <gptq/quant/ordered_sum.hpp>

#include <string>
#include <utility>

namespace gptq {
inline namespace v0 {

/// Accumulates G = Σ xᵀ·x over calibration batches; the Hessian of the layer's squared error is H = (2 / tokens)·G.
/// Only the lower triangle is kept up to date. Inputs are used as they are (16-bit values are exact in the products)
/// and the sum is kept in the backend's scalar: H is scaled, never x. Its order is that of ordered_sum: who adds several
/// leaves calls begin_leaf, and several workers merge theirs.
template <quantize_backend Backend>
class hessian {
 public:
  using scalar = typename Backend::scalar;

  /// What to do with a batch that holds NaN or Inf.
  enum class non_finite : unsigned char { refuse, drop };

  hessian(Backend& backend, index_t in_features, non_finite policy = non_finite::refuse)
      : backend_(&backend), sum_(backend, in_features, in_features), policy_(policy) {
    if (in_features < 1) throw shape_error("hessian: a layer without inputs");
  }

  /// What is added from now on is of that leaf of the calibration samples; leaves come in ascending order.
  void begin_leaf(index_t leaf) { sum_.begin_leaf(leaf); }

  /// Adds a batch of inputs, x [tokens × in_features] in the backend's memory, float or a 16-bit type, any row stride.
  /// `sequences` counts for the reference's scale only. Padding must not be in x. Throws shape_error for a wrong width,
  /// numeric_error naming the batch for NaN or Inf unless they are to be dropped.
  template <class T>
  void add(view_of<Backend, T> x, index_t sequences = 1) {
    if (x.cols != in_features())
      throw shape_error("hessian: inputs have " + std::to_string(x.cols) + " columns, the layer reads " +
                        std::to_string(in_features()));
    ++batches_;
    if (x.rows == 0) return;
    view_of<Backend, T const> const inputs = x;
    if (!backend_->all_finite(inputs)) {
      if (policy_ == non_finite::refuse)
        throw numeric_error("hessian: NaN or Inf in the inputs of calibration batch " + std::to_string(batches_ - 1));
      ++dropped_;
      return;
    }
    sum_.add([&](view_of<Backend, scalar> gram, bool fresh) { backend_->add_gram(inputs, gram, fresh); });
    tokens_ += x.rows;
    sequences_ += sequences;
  }
  template <class Matrix>
  requires requires(Matrix const& m) { m.view(); }
  void add(Matrix const& x, index_t sequences = 1) { add(x.view(), sequences); }

  /// Takes over what another worker has added, over leaves that this one does not have: the same bits as if this one had
  /// added it in their order.
  void merge(hessian&& other) {
    if (other.in_features() != in_features())
      throw shape_error("hessian: merging " + std::to_string(other.in_features()) + " inputs with " +
                        std::to_string(in_features()));
    for (auto& n : other.sum_.take()) sum_.insert(std::move(n));
    tokens_ += other.tokens_;
    sequences_ += other.sequences_;
    batches_ += other.batches_;
    dropped_ += other.dropped_;
  }
  /// Becomes the sum over the leaves of all workers, who know how many tokens and sequences they have together.
  template <communicator C>
  void sum_over(C& c, index_t tokens, index_t sequences) {
    sum_.sum_over(c);
    set_counts(tokens, sequences);
  }
  /// The nodes of the sum, for workers that have no memory in common; nothing stays behind.
  [[nodiscard]] ordered_sum<Backend, summed_part::lower_triangle>& sum() { return sum_; }

  [[nodiscard]] index_t in_features() const { return sum_.rows(); }
  [[nodiscard]] index_t tokens() const { return tokens_; }
  [[nodiscard]] index_t sequences() const { return sequences_; }
  [[nodiscard]] index_t batches() const { return batches_; }
  [[nodiscard]] index_t dropped_batches() const { return dropped_; }

  /// The raw sum G [in × in], lower triangle, after which no further leaf may begin; mutable, so that somebody with a Gram
  /// matrix of their own can put it there and say with `set_counts` how many tokens and sequences it holds.
  [[nodiscard]] matrix_of<Backend, scalar>& gram() { return sum_.total(); }
  [[nodiscard]] matrix_of<Backend, scalar> const& gram() const { return sum_.total(); }
  void set_counts(index_t tokens, index_t sequences) {
    tokens_ = tokens;
    sequences_ = sequences;
  }

 private:
  Backend* backend_;
  mutable ordered_sum<Backend, summed_part::lower_triangle> sum_;  ///< gram() ends it: what it holds stays the same
  non_finite policy_;
  index_t tokens_ = 0;
  index_t sequences_ = 0;
  index_t batches_ = 0;
  index_t dropped_ = 0;
};

template <class Backend>
hessian(Backend&, index_t) -> hessian<Backend>;

}  // namespace v0
}  // namespace gptq
