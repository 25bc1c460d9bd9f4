/// The verbs that a backend compiles for each width and kind of grid, chosen once for a solve.
#pragma once

#include <gptq/core/quantize_backend.hpp>
#include <gptq/core/spec.hpp>

#include <cstdint>

namespace gptq {
inline namespace v0 {

/// fit_grid, quantize_block and, where B fuses, fit_and_quantize_block of one (bits, sym).
template <quantize_backend B>
struct column_kernels {
  using scalar = typename B::scalar;

  void (*fit_grid)(B&, view_of<B, scalar const> values, grid_options const&, view_of<B, scalar> scales,
                   view_of<B, std::uint8_t> zeros) = nullptr;
  void (*quantize_block)(B&, column_block<B> const&) = nullptr;
  /// Null for a backend that does not fuse.
  void (*fit_and_quantize_block)(B&, column_block<B> const&, index_t group_size, grid_options const&,
                                 view_of<B, scalar> scales, view_of<B, std::uint8_t> zeros) = nullptr;
};

/// The table for a pair known at compile time: no other is instantiated.
template <int Bits, bool Sym, quantize_backend B>
constexpr column_kernels<B> kernels_for() {
  using scalar = typename B::scalar;
  column_kernels<B> k;
  k.fit_grid = [](B& b, view_of<B, scalar const> values, grid_options const& options, view_of<B, scalar> scales,
                  view_of<B, std::uint8_t> zeros) { b.template fit_grid<Bits, Sym>(values, options, scales, zeros); };
  k.quantize_block = [](B& b, column_block<B> const& block) { b.template quantize_block<Bits>(block); };
  if constexpr (fusing_backend<B>)
    k.fit_and_quantize_block = [](B& b, column_block<B> const& block, index_t group_size, grid_options const& options,
                                  view_of<B, scalar> scales, view_of<B, std::uint8_t> zeros) {
      b.template fit_and_quantize_block<Bits, Sym>(block, group_size, options, scales, zeros);
    };
  return k;
}

/// The table for a spec known at run time: all eight pairs are instantiated. Throws shape_error.
template <quantize_backend B>
column_kernels<B> kernels_for(quant_spec const& spec) {
  return dispatch(spec, [&]<int Bits, bool Sym>() { return kernels_for<Bits, Sym, B>(); });
}

}  // namespace v0
}  // namespace gptq
