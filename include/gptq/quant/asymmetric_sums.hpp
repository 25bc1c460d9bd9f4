/// What asymmetric calibration sees (GPTAQ, arXiv 2504.02692): how far the inputs of a layer, and the residual stream that
/// its output is added to, have moved away from those of the float model.
///
///     gptq::asymmetric_sums sums(backend, in_features);
///     sums.add(x, x_float);  // the same tokens through the quantized model so far and through the float model
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/refining.hpp>
#include <gptq/quant/ordered_sum.hpp>
#include <gptq/quant/rows.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The sums over calibration tokens that say how far inputs and residual stream have moved. Add the same tokens as to
/// the hessian, whose scale applies. Takes in² numbers, in·outputs more for the residual stream, and adding tokens costs
/// as much as twice the Hessian. Needs a refining_backend to do anything.
template <quantize_backend B>
class asymmetric_sums {
 public:
  using scalar = typename B::scalar;

  /// For a layer that adds its outputs to the residual stream, `residual` is their number, else 0. Of `tokens` to come,
  /// up to most_samples are kept, evenly spaced, for the loss against the float model; 0 keeps none.
  asymmetric_sums(B& backend, index_t in_features, index_t residual = 0, index_t tokens = 0)
      : backend_(&backend),
        cross_(backend, in_features, in_features),
        residual_(backend, residual ? in_features : 0, residual),
        every_((std::max)(index_t(1), (tokens + most_samples - 1) / most_samples)) {
    if (tokens == 0) return;
    index_t const kept = (tokens + every_ - 1) / every_;
    samples_ = backend.template make<scalar>(in_features, kept);
    float_samples_ = backend.template make<scalar>(in_features, kept);
    identity_ = detail::upload_row(backend, detail::counting(in_features));
    live_ = detail::upload_row(backend, in_features, std::uint8_t(1));
  }
  static constexpr index_t most_samples = 1024;

  /// What is added from now on is of that leaf of the calibration samples, as with the hessian.
  void begin_leaf(index_t leaf) {
    cross_.begin_leaf(leaf);
    residual_.begin_leaf(leaf);
  }
  /// Takes over the sums that another worker has added, over leaves that this one does not have.
  void merge(asymmetric_sums&& other) {
    for (auto& n : other.cross_.take()) cross_.insert(std::move(n));
    for (auto& n : other.residual_.take()) residual_.insert(std::move(n));
  }

  /// Tokens before the first one that is added here; other workers add them.
  void skip(index_t tokens) {
    tokens_ = tokens;
    kept_ = kept_of(tokens);
  }
  /// Becomes the sums and samples of all workers, whose tokens begin and end at `bounds` [workers + 1].
  template <communicator C>
  void sum_over(C& c, std::span<index_t const> bounds) {
    cross_.sum_over(c);
    residual_.sum_over(c);
    if (c.size() == 1 || samples_.cols() == 0) return;
    std::vector<index_t> kept;
    for (index_t const b : bounds) kept.push_back(kept_of(b));
    c.gather(view_of<B, scalar>(samples_), kept);
    c.gather(view_of<B, scalar>(float_samples_), kept);
    kept_ = kept.back();
  }

  /// Inputs of the quantized and of the float model [tokens × in]; a type with the precision of either.
  template <class T>
  void add(view_of<B, T const> x, view_of<B, T const> x_float) {
    check(x, x_float, cross_.rows());
    auto const moved = difference(x_float, x);
    view_of<B, T const> const by = moved;
    if (!backend_->all_finite(by))
      throw numeric_error("asymmetric calibration: NaN or Inf in the inputs of the float model");
    add_product(x, by, cross_);
    keep(x, x_float);
    tokens_ += x.rows;
  }
  /// The residual stream [tokens × outputs] that the layer's output is added to, of both models.
  template <class T>
  void add_residual(view_of<B, T const> x, view_of<B, T const> r, view_of<B, T const> r_float) {
    check(r, r_float, residual_.cols());
    auto const moved = difference(r_float, r);
    add_product(x, view_of<B, T const>(moved), residual_);
  }

  [[nodiscard]] index_t in_features() const { return cross_.rows(); }
  /// Σ x·(x_f − x)ᵀ [in × in]: D transposed, unscaled
  [[nodiscard]] matrix_of<B, scalar>& cross() { return cross_.total(); }
  [[nodiscard]] matrix_of<B, scalar> const& cross() const { return cross_.total(); }
  /// Σ x·(r_f − r)ᵀ [in × out]: E transposed, unscaled; empty where no residual stream was added
  [[nodiscard]] matrix_of<B, scalar>& residual() { return residual_.total(); }
  [[nodiscard]] matrix_of<B, scalar> const& residual() const { return residual_.total(); }
  /// The inputs of some tokens, of the quantized and of the float model [in × samples].
  [[nodiscard]] view_of<B, scalar const> samples() const {
    return view_of<B, scalar const>(samples_).col_range(0, kept_);
  }
  [[nodiscard]] view_of<B, scalar const> float_samples() const {
    return view_of<B, scalar const>(float_samples_).col_range(0, kept_);
  }

 private:
  using sum = ordered_sum<B, summed_part::all>;

  template <class T>
  void add_product(view_of<B, T const> x, view_of<B, T const> y, sum& to) {
    to.add([&](view_of<B, scalar> s, bool fresh) {
      if (fresh) backend_->fill(s, scalar(0));
      backend_->add_cross(x, y, s);
    });
  }
  /// How many of the first tokens are kept: 0, every_, 2·every_, …
  [[nodiscard]] index_t kept_of(index_t tokens) const { return (tokens + every_ - 1) / every_; }
  template <class T>
  void keep(view_of<B, T const> x, view_of<B, T const> x_float) {
    index_t const first = (every_ - tokens_ % every_) % every_;
    index_t const n = (std::min)((x.rows - first + every_ - 1) / every_, samples_.cols() - kept_);
    if (n <= 0) return;
    auto const rows = [&](auto const& v) { return view_of<B, T const>(v.row(first), n, v.cols, v.stride * every_); };
    backend_->gather_weights(rows(x), identity_, live_, view_of<B, scalar>(samples_).col_range(kept_, n));
    backend_->gather_weights(rows(x_float), identity_, live_, view_of<B, scalar>(float_samples_).col_range(kept_, n));
    kept_ += n;
  }
  template <class T>
  static void check(view_of<B, T const> a, view_of<B, T const> b, index_t width) {
    if (a.rows != b.rows || a.cols != b.cols || a.cols != width)
      throw shape_error("asymmetric calibration: the two models give " + std::to_string(a.rows) + " × " +
                        std::to_string(a.cols) + " and " + std::to_string(b.rows) + " × " + std::to_string(b.cols) +
                        ", " + std::to_string(width) + " columns are expected");
  }
  template <class T>
  matrix_of<B, T> difference(view_of<B, T const> a, view_of<B, T const> b) {
    auto d = backend_->template make<T>(a.rows, a.cols);
    backend_->copy(a, view_of<B, T>(d));
    backend_->add(scalar(-1), b, view_of<B, T>(d));
    return d;
  }

  B* backend_;
  mutable sum cross_;
  mutable sum residual_;
  index_t every_;
  index_t tokens_ = 0;
  index_t kept_ = 0;
  matrix_of<B, scalar> samples_;
  matrix_of<B, scalar> float_samples_;
  matrix_of<B, std::int32_t> identity_;
  matrix_of<B, std::uint8_t> live_;
};

template <class B>
asymmetric_sums(B&, index_t) -> asymmetric_sums<B>;

}  // namespace v0
}  // namespace gptq
