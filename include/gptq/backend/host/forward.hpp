/// The forward operations of a decoder on the host: Eigen products, OpenMP loops over rows.
#pragma once

#include <gptq/backend/host/attention.hpp>
#include <gptq/backend/host/eigen.hpp>
#include <gptq/backend/host/forward_logits.hpp>
#include <gptq/backend/host/parallel.hpp>
#include <gptq/core/flags.hpp>
#include <gptq/core/model_backend.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

namespace gptq {
inline namespace v0 {

namespace detail {
inline namespace GPTQ_FLAGS {

/// Outputs of a task where one row of inputs meets weights [outputs × inputs]: less is not worth waking threads for.
inline index_t outputs_of_a_row(index_t inputs) {
  index_t const worth = (index_t(1) << 15) / std::max(inputs, index_t(1));
  return (worth / 192 + 1) * 192;
}

}  // namespace GPTQ_FLAGS
}  // namespace detail

inline namespace GPTQ_FLAGS {

/// Models forward_backend and evaluation_backend. T is float, or double where a test wants an oracle. Owns the
/// workspace of attention, so one object serves one caller at a time. Verbs check nothing: shapes are the caller's
/// business.
template <class T>
class basic_host_forward {
 public:
  using space = host_space;
  using activation = T;
  template <class U>
  using matrix_type = matrix<U>;
  using view = matrix_view<T>;
  using const_view = matrix_view<T const>;
  using table_view = matrix_view<float const>;
  using id_view = matrix_view<std::int32_t const>;

  template <class U>
  [[nodiscard]] matrix<U> make(index_t rows, index_t cols) {
    return {rows, cols};
  }

  template <class To, class From>
  [[nodiscard]] matrix<To> adopt(matrix<From>&& from) {
    if constexpr (std::is_same_v<To, From>) {
      return std::move(from);
    } else {
      matrix<To> to(from.rows(), from.cols());
      std::transform(from.data(), from.data() + from.size(), to.data(), [](From x) { return static_cast<To>(x); });
      return to;
    }
  }

  template <class U>
  void copy(matrix_view<U> from, matrix_view<std::remove_const_t<U>> to) {
    for (index_t r = 0; r < from.rows; ++r) std::copy(from.row(r), from.row(r) + from.cols, to.row(r));
  }
  template <class U>
  void download(matrix_view<U> from, matrix_view<std::remove_const_t<U>> to) {
    copy(from, to);
  }

  void embed(id_view ids, const_view table, float scale, view y) {
    each_row(y, [&](index_t t) { row(y, t) = T(scale) * row(table, ids(0, t)); });
  }

  void rms_norm(const_view x, const_view weight, float eps, bool unit_offset, view y) {
    auto const w = row(weight, 0);
    each_row(y, [&](index_t t) { norm(row(x, t), w, eps, unit_offset, row(y, t)); });
  }
  void norm_heads(view x, head_layout layout, index_t heads, const_view weight, float eps, bool unit_offset) {
    auto const w = row(weight, 0);
    each_row(x, [&](index_t t) {
      for (index_t h = 0; h < heads; ++h) {
        auto head = row(x, t).segment(layout.first + h * layout.stride, weight.cols);
        norm(head, w, eps, unit_offset, head);
      }
    });
  }

  void linear(const_view x, const_view w, const_view bias, view y) { product<false>(x, w, bias, y); }
  void add_linear(const_view x, const_view w, const_view bias, view y) { product<true>(x, w, bias, y); }

  void rotate(view x, head_layout layout, index_t heads, table_view cosines, table_view sines, id_view positions) {
    index_t const half = cosines.cols;
    each_row(x, [&](index_t t) {
      float const* const c = cosines.row(positions(0, t));
      float const* const s = sines.row(positions(0, t));
      for (index_t h = 0; h < heads; ++h) {
        T* const lower = x.row(t) + layout.first + h * layout.stride;
        T* const upper = lower + half;
        for (index_t i = 0; i < half; ++i) {
          T const a = lower[i];
          T const b = upper[i];
          lower[i] = c[i] * a - s[i] * b;
          upper[i] = c[i] * b + s[i] * a;
        }
      }
    });
  }

  void attention(const_view q, const_view k, const_view v, sequence_bounds bounds, attention_shape const& shape,
                 view y) {
    detail::host_attention(q, k, v, bounds, shape, y, scores_);
  }

  void gated_activation(activation_function f, const_view gate, const_view up, view y) {
    each_row(y, [&](index_t t) {
      auto const g = row(gate, t);
      auto const u = row(up, t);
      switch (f) {
        case activation_function::silu: row(y, t) = g / (T(1) + (-g).exp()) * u; break;
        case activation_function::gelu_tanh:
          row(y, t) = T(0.5) * g * (T(1) + (T(0.7978845608028654) * (g + T(0.044715) * g * g * g)).tanh()) * u;
          break;
        case activation_function::gelu_erf:
          row(y, t) = g.unaryExpr([](T z) { return T(0.5) * z * std::erfc(T(-0.7071067811865476) * z); }) * u;
          break;
      }
    });
  }

  void add(const_view x, view y) {
    each_row(y, [&](index_t t) { row(y, t) += row(x, t); });
  }

  void softcap(float cap, view y) {
    each_row(y, [&](index_t t) { row(y, t) = T(cap) * (row(y, t) / T(cap)).tanh(); });
  }

  void cross_entropy(const_view logits, id_view targets, std::span<double> nll) {
    detail::host_cross_entropy(logits, targets, nll);
  }
  void divergence(const_view reference, const_view logits, std::span<double> kl, std::span<std::uint8_t> same_top) {
    detail::host_divergence(reference, logits, kl, same_top);
  }

 private:
  template <class U>
  static Eigen::Map<std::conditional_t<std::is_const_v<U>, Eigen::Array<T, 1, Eigen::Dynamic> const,
                                       Eigen::Array<T, 1, Eigen::Dynamic>>>
  row(matrix_view<U> m, index_t r) {
    return {m.row(r), m.cols};
  }

  template <class In, class Weight, class Out>
  static void norm(In const& x, Weight const& w, float eps, bool unit_offset, Out&& y) {
    double squares = 0;  // of short runs, each summed in T
    for (index_t c = 0; c < x.size(); c += 128)
      squares += double(x.segment(c, std::min(index_t(128), x.size() - c)).square().sum());
    T const inverse = T(1.0 / std::sqrt(squares / double(x.size()) + double(eps)));
    if (unit_offset)
      y = (x * inverse) * (T(1) + w);
    else
      y = (x * inverse) * w;
  }

  template <class F>
  static void each_row(view y, F&& f) {
    constexpr index_t elements = 1 << 16;  // less is not worth waking threads for
    detail::parallel_pieces(y.rows, elements / (std::max(y.cols, index_t(1)) + 1) + 1, [&](index_t first, index_t n) {
      for (index_t t = first; t < first + n; ++t) f(t);
    });
  }

  /// By output tiles, whose sizes don't depend on the number of threads, since the order of a sum within a product may
  /// depend on its shape. A row or two are read once per weight: then tiles are strips of outputs.
  template <bool Add>
  static void product(const_view x, const_view w, const_view bias, view y) {
    if (y.rows == 0 || y.cols == 0) return;
    constexpr index_t most_tokens = 512, most_outputs = 384;
    index_t const down = (y.rows + most_tokens - 1) / most_tokens;
    index_t const tokens = (y.rows + 4 * down - 1) / (4 * down) * 4;  // balanced: no tile of a row or two at the end
    index_t const outputs = y.rows > 2 ? most_outputs : detail::outputs_of_a_row(w.cols);
    index_t const across = (y.cols + outputs - 1) / outputs;
    detail::parallel_for((y.rows + tokens - 1) / tokens * across, [&](index_t tile) {
      index_t const t = tile / across * tokens, nt = std::min(tokens, y.rows - t);
      index_t const n = tile % across * outputs, nn = std::min(outputs, y.cols - n);
      output_tile<Add>(x.row_range(t, nt), w.row_range(n, nn), bias.data ? bias.col_range(n, nn) : bias,
                       y.block(t, n, nt, nn));
    });
  }
  template <bool Add>
  static void output_tile(const_view x, const_view w, const_view bias, view y) {
    auto out = detail::eigen(y);
    if (!Add) out.setZero();
    if (bias.data) out.rowwise() += detail::eigen(bias).row(0);
    detail::add_product<false, true, T>(T(1), x, w, y);
  }

  matrix<T> scores_;
};

/// Runs models in float.
using host_forward = basic_host_forward<float>;

}  // namespace GPTQ_FLAGS
}  // namespace v0
}  // namespace gptq
