/// The factor of the inverse Hessian, for people who compose a solver of their own.
#pragma once

#include <gptq/quant/factor.hpp>

#include <algorithm>
#include <cstdint>

namespace gptq {
inline namespace v0 {

/// The matrix that the published procedure works with (arXiv 2210.17323, section 3): U [in × in] upper triangular with H⁻¹ = Uᵀ·U, H damped and in
/// processing order. Not used by the solver here. Cost in³/3 multiply-adds after
/// `factorize`. Throws numeric_error where the Hessian has no factor.
template <quantize_backend B>
matrix_of<B, typename B::scalar> cholesky_inverse(B& b, factor<B> const& f) {
  using scalar = typename B::scalar;
  if (!f.factored()) throw numeric_error("cholesky_inverse: the Hessian has no factor");
  index_t const in = f.in_features();
  matrix<scalar> pivots(1, in), start(in, in);
  b.download(f.pivots, pivots.view());
  std::fill_n(start.data(), start.size(), scalar(0));
  for (index_t j = 0; j < in; ++j) start(j, j) = scalar(1) / pivots(0, j);
  auto lower = b.template make<scalar>(in, in);  // F⁻¹·diag(V)⁻¹ = (V⁻¹)ᵀ
  b.upload(matrix_view<scalar const>(start), lower);
  solve_unit_lower(b, view_of<B, scalar const>(f.propagation), view_of<B, scalar>(lower));

  auto const order = detail::upload_row(b, detail::counting(in));
  auto const live = detail::upload_row(b, in, std::uint8_t(1));
  auto upper = b.template make<scalar>(in, in);
  b.gather_weights(view_of<B, scalar const>(lower), order, live, upper);  // a transposition
  return upper;
}

}  // namespace v0
}  // namespace gptq
