/// What a solve lost, output by output.
#pragma once

#include <gptq/quant/asymmetric_sums.hpp>
#include <gptq/quant/column_pass.hpp>
#include <gptq/quant/quantized_stack.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Sums per output, each a [2 × outputs] pair of a damped sum and the part of it that is damping.
template <class B>
struct loss_sums {
  loss_sums(B& b, index_t outputs) : all(b.template make<double>(10, outputs)) { b.fill(view_of<B, double>(all), 0.0); }
  view_of<B, double> part(int pair, index_t first, index_t count) {
    return view_of<B, double>(all).block(2 * pair, first, 2, count);
  }
  /// `refined` is what the pass found where nothing was refined, `error` what was
  /// refined where the weights themselves were the target.
  [[nodiscard]] std::vector<output_loss> on_host(B& b, bool refines, bool target) const {
    matrix<double> host(all.rows(), all.cols());
    b.download(view_of<B, double const>(all), host.view());
    std::vector<output_loss> losses(static_cast<std::size_t>(all.cols()));
    for (index_t n = 0; n < all.cols(); ++n) {
      auto const undamped = [&](int pair) { return host(2 * pair, n) - host(2 * pair + 1, n); };
      auto& loss = losses[static_cast<std::size_t>(n)];
      loss.damped = host(2 * pass, n);
      loss.pass = undamped(pass);
      loss.energy = undamped(energy);
      loss.rtn = undamped(rtn);
      loss.refined = refines ? undamped(refined) : loss.pass;
      loss.error = target ? undamped(error) : loss.refined;
    }
    return losses;
  }
  static constexpr int pass = 0, energy = 1, rtn = 2, error = 3, refined = 4;
  matrix_of<B, double> all;
};

/// Squared outputs of x [in × outputs], weights or errors in processing order: row 0 of sums gets diag(xᵀ·(H+λI)·x),
/// row 1 the part of it that is damping.
template <quantize_backend B>
void add_energy(B& b, factor<B> const& f, view_of<B, typename B::scalar const> x, view_of<B, double> sums) {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;
  b.add_squares(const_view(f.propagation), x, f.pivots, sums.row_range(0, 1));
  b.add_squares(const_view(), x, f.excess, sums.row_range(1, 1));
}

/// ‖W·x_f − Q·x‖² and ‖W·x_f‖² of every output, over the tokens that asymmetric calibration kept.
template <refining_backend B>
class float_losses {
  using scalar = typename B::scalar;
  using const_view = view_of<B, scalar const>;

 public:
  float_losses(B& b, asymmetric_sums<B> const& d, index_t outputs)
      : b_(b), kept_(d), sums_(b.template make<double>(2, outputs)) {
    index_t const in = d.in_features();
    identity_ = upload_row(b, counting(in));
    live_ = upload_row(b, in, std::uint8_t(1));
    ones_ = upload_row(b, d.samples().cols, scalar(1));
    b.fill(view_of<B, double>(sums_), 0.0);
  }

  /// For a tile of weights [count × in]; codes, zeros and scales are those of the tile, `groups` in stored order.
  template <class W>
  void add(view_of<B, W const> weight, index_t first, tile_result<B> const& found,
           view_of<B, std::int32_t const> groups) {
    index_t const in = found.codes.rows, n = found.codes.cols;
    auto w_storage = b_.template make<scalar>(in, n);
    auto y_storage = b_.template make<scalar>(kept_.samples().cols, n);
    view_of<B, scalar> const w = w_storage, y = y_storage;
    auto const sum = [&](index_t row) { return view_of<B, double>(sums_).block(row, first, 1, n); };
    b_.gather_weights(weight, identity_, live_, w);
    b_.fill(y, scalar(0));
    b_.multiply_add(scalar(1), kept_.float_samples(), transpose::yes, w, y);
    b_.add_squares(const_view(), y, ones_, sum(0));
    b_.fill(w, scalar(0));
    b_.add_dequantized(scalar(1), found.codes, found.zeros, found.scales, groups, identity_, w);
    b_.multiply_add(scalar(-1), kept_.samples(), transpose::yes, w, y);
    b_.add_squares(const_view(), y, ones_, sum(1));
  }

  void finish(std::vector<output_loss>& losses) const {
    matrix<double> host(2, static_cast<index_t>(losses.size()));
    b_.download(view_of<B, double const>(sums_), host.view());
    for (std::size_t n = 0; n < losses.size(); ++n) {
      losses[n].float_energy = host(0, static_cast<index_t>(n));
      losses[n].float_error = host(1, static_cast<index_t>(n));
    }
  }

 private:
  B& b_;
  asymmetric_sums<B> const& kept_;
  matrix_of<B, double> sums_;
  matrix_of<B, std::int32_t> identity_;
  matrix_of<B, std::uint8_t> live_;
  matrix_of<B, scalar> ones_;
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
