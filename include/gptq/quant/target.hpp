/// The shifted target: weights that make the quantized model's layer compute what the float model's layer does.
///
/// When a layer is quantized its inputs x have already moved away from those of the float model, x_f, and so has the
/// residual stream r that its output is added to. The real matrix that minimises Σ ‖(r_f + W·x_f) − (r + T·x)‖² is
///     T = W + (α·W·D + β·E)·(H + λI)⁻¹,   D = c·Σ (x_f − x)·xᵀ,   E = c·Σ (r_f − r)·xᵀ,   α = β = 1,  H = c·Σ x·xᵀ
/// and what is lost by quantizing then is ‖(T − Q)·x‖² as ever: the solver quantizes T instead of W and does not change.
/// α and β below 1 hold back from fitting the calibration data. (α: GPTAQ and Qronos aim at the same target.)
#pragma once

#include <gptq/core/refining.hpp>
#include <gptq/quant/factor.hpp>
#include <gptq/quant/ordered_sum.hpp>

#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

inline std::vector<std::int32_t> counting(index_t n) {
  std::vector<std::int32_t> v(static_cast<std::size_t>(n));
  std::iota(v.begin(), v.end(), 0);
  return v;
}

}  // namespace detail

/// The sums over calibration tokens that say how far inputs and residual stream have moved. Add the same tokens as to
/// the hessian, whose scale applies. Needs a refining_backend to do anything.
template <quantize_backend B>
class drift {
 public:
  using scalar = typename B::scalar;

  /// For a layer that adds its outputs to the residual stream, `residual` is their number, else 0. Of `tokens` to come,
  /// up to most_samples are kept, evenly spaced, for the loss against the float model; 0 keeps none.
  drift(B& backend, index_t in_features, index_t residual = 0, index_t tokens = 0)
      : backend_(&backend),
        cross_(backend, in_features, in_features),
        residual_(backend, residual ? in_features : 0, residual),
        every_((std::max)(index_t(1), (tokens + most_samples - 1) / most_samples)) {
    if (tokens == 0) return;
    index_t const kept = (tokens + every_ - 1) / every_;
    samples_ = backend.template make<scalar>(in_features, kept);
    float_samples_ = backend.template make<scalar>(in_features, kept);
    identity_ = detail::upload_row(backend, detail::counting(in_features));
    live_ = detail::upload_row(backend, std::vector<std::uint8_t>(static_cast<std::size_t>(in_features), 1));
  }
  static constexpr index_t most_samples = 1024;

  /// What is added from now on is of that leaf of the calibration samples, as with the hessian.
  void begin_leaf(index_t leaf) {
    cross_.begin_leaf(leaf);
    residual_.begin_leaf(leaf);
  }
  /// Takes over the sums that another worker has added, over leaves that this one does not have.
  void merge(drift&& other) {
    for (auto& n : other.cross_.take()) cross_.insert(std::move(n));
    for (auto& n : other.residual_.take()) residual_.insert(std::move(n));
  }

  /// Inputs of the quantized and of the float model [tokens × in]; a type with the precision of either.
  template <class T>
  void add(view_of<B, T const> x, view_of<B, T const> x_float) {
    check(x, x_float, cross_.rows());
    auto const moved = difference(x_float, x);
    view_of<B, T const> const by = moved;
    if (!backend_->all_finite(by)) throw numeric_error("drift: NaN or Inf in the inputs of the float model");
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
  /// Tokens 0, every_, 2·every_, …
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
      throw shape_error("drift: the two models give " + std::to_string(a.rows) + " × " + std::to_string(a.cols) +
                        " and " + std::to_string(b.rows) + " × " + std::to_string(b.cols) + ", " +
                        std::to_string(width) + " columns are expected");
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

namespace detail {

/// Solves (H + λI)·X = Y with the factor, in processing order: H + λI = Fᵀ·diag(V)²·F. The blocks on F's diagonal are
/// inverted once, so that both triangular solves are products.
template <refining_backend B>
class damped_solver {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;

 public:
  damped_solver(B& b, factor<B> const& f) : b_(b), f_(f) {
    index_t const in = f.in_features();
    matrix<scalar> pivots(1, in), identity(grid_block, grid_block);
    b.download(const_view(f.pivots), pivots.view());
    for (index_t j = 0; j < in; ++j) pivots(0, j) = scalar(1) / (pivots(0, j) * pivots(0, j));
    weights_ = b.template make<scalar>(1, in);
    b.upload(matrix_view<scalar const>(pivots), view_of<B, scalar>(weights_));
    std::fill_n(identity.data(), identity.size(), scalar(0));
    for (index_t j = 0; j < grid_block; ++j) identity(j, j) = scalar(1);
    inverses_ = b.template make<scalar>(in, grid_block);
    for (index_t p = 0; p < in; p += grid_block) {
      auto const inverse = inverse_at(p);
      index_t const n = inverse.rows;
      b.upload(matrix_view<scalar const>(identity).block(0, 0, n, n), inverse);
      b.solve_unit_lower(const_view(f.propagation).block(p, p, n, n), inverse);
    }
  }

  /// x [in × any] becomes the solution.
  void solve(view_of<B, scalar> x) const {
    index_t const in = x.rows;
    auto scratch = b_.template make<scalar>((std::min)(in, index_t(grid_block)), x.cols);
    for (index_t p = (in - 1) / grid_block * grid_block; p >= 0; p -= grid_block) {  // x ← F⁻ᵀ·x
      const_view const inverse = inverse_at(p);
      index_t const n = inverse.rows, end = p + n;
      auto const rows = x.row_range(p, n);
      if (end < in)
        b_.multiply_add(scalar(-1), const_view(f_.propagation).block(end, p, in - end, n), transpose::yes,
                        x.row_range(end, in - end), rows);
      auto const y = view_of<B, scalar>(scratch).row_range(0, n);
      b_.fill(y, scalar(0));
      b_.multiply_add(scalar(1), inverse, transpose::yes, rows, y);
      b_.copy(y, rows);
    }
    b_.scale_rows(weights_, x);
    for (index_t p = 0; p < in; p += grid_block) {  // x ← F⁻¹·x
      const_view const inverse = inverse_at(p);
      index_t const n = inverse.rows;
      auto const rows = x.row_range(p, n);
      if (p > 0)
        b_.multiply_add(scalar(-1), const_view(f_.propagation).block(p, 0, n, p), transpose::no, x.row_range(0, p),
                        rows);
      auto const y = view_of<B, scalar>(scratch).row_range(0, n);
      b_.fill(y, scalar(0));
      b_.multiply_add(scalar(1), inverse, transpose::no, rows, y);
      b_.copy(y, rows);
    }
  }

 private:
  [[nodiscard]] view_of<B, scalar> inverse_at(index_t p) const {
    index_t const n = (std::min)(f_.in_features() - p, index_t(grid_block));
    return view_of<B, scalar>(inverses_).block(p, 0, n, n);
  }

  B& b_;
  factor<B> const& f_;
  matrix_of<B, scalar> weights_;
  mutable matrix_of<B, scalar> inverses_;
};

}  // namespace detail

/// T [out × in], stored order, for weights [out × in] of which `d` says how the inputs moved. Where the Hessian has no
/// factor T = W. Cost 2·out·in² multiply-adds. Throws shape_error.
template <refining_backend B, class W>
matrix_of<B, typename B::scalar> shifted_target(B& b, view_of<B, W> weight, factor<B> const& f, drift<B> const& d,
                                                shift_options const& options) {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;
  index_t const in = f.in_features(), out = weight.rows;
  if (weight.cols != in || d.in_features() != in)
    throw shape_error("shifted_target: weights have " + std::to_string(weight.cols) + " inputs, the drift " +
                      std::to_string(d.in_features()) + ", the Hessian " + std::to_string(in));
  bool const residual = options.residual != 0 && d.residual().rows() != 0;
  if (residual && d.residual().cols() != out)
    throw shape_error("shifted_target: the residual stream has " + std::to_string(d.residual().cols()) +
                      " columns, the layer " + std::to_string(out) + " outputs");
  view_of<B, std::remove_const_t<W> const> const w = weight;

  auto const identity = detail::upload_row(b, detail::counting(in));
  auto const all_live =
      detail::upload_row(b, std::vector<std::uint8_t>(static_cast<std::size_t>((std::max)(in, out)), 1));
  auto const outputs = detail::upload_row(b, detail::counting(out));
  std::vector<std::int32_t> back(static_cast<std::size_t>(in));
  for (std::size_t j = 0; j < back.size(); ++j)
    back[static_cast<std::size_t>(f.host_order[j])] = static_cast<std::int32_t>(j);
  auto const inverse_order = detail::upload_row(b, back);

  matrix_of<B, scalar> residual_weight;
  if (residual)
    residual_weight = detail::upload_row(
        b, std::vector<scalar>(static_cast<std::size_t>(in), static_cast<scalar>(options.residual * f.scale)));

  auto target = b.template make<scalar>(out, in);
  std::optional<detail::damped_solver<B>> damped;
  if (f.factored()) damped.emplace(b, f);
  b.for_each_tile(out, [&](index_t first, index_t count) {
    auto stored = b.template make<scalar>(in, count);  // Wᵀ, then Tᵀ
    b.gather_weights(w.row_range(first, count), identity, all_live, stored);
    if (damped) {
      auto moved = b.template make<scalar>(in, count);  // (α·W·D + β·E)ᵀ
      auto ordered = b.template make<scalar>(in, count);
      if (residual) {
        b.copy(const_view(d.residual()).col_range(first, count), moved);
        b.scale_rows(residual_weight, moved);
      } else {
        b.fill(view_of<B, scalar>(moved), scalar(0));
      }
      b.multiply_add(static_cast<scalar>(options.target * f.scale), d.cross(), transpose::no, stored, moved);
      b.gather_rows(moved, f.order, ordered);
      damped->solve(ordered);
      b.gather_rows(ordered, inverse_order, moved);
      b.add(scalar(1), const_view(moved), view_of<B, scalar>(stored));
    }
    b.gather_weights(const_view(stored), view_of<B, std::int32_t const>(outputs).col_range(0, count), all_live,
                     view_of<B, scalar>(target).row_range(first, count));
  });
  return target;
}

}  // namespace v0
}  // namespace gptq
