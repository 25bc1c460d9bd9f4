/// What goes into a solve.
#pragma once

#include <gptq/quant/asymmetric_sums.hpp>
#include <gptq/quant/factor.hpp>
#include <gptq/quant/hessian.hpp>

#include <cstdint>
#include <span>

namespace gptq {
inline namespace v0 {

/// One stack of linear layers that read the same input. Layers are stacked along the outputs: rows are independent given
/// the factor. Views and what pointers point to must outlive the solve. Only the weights and one of Hessian and factor
/// are needed.
template <quantize_backend B, class W = typename B::scalar>
struct solve_problem {
  view_of<B, W const> weight;                        ///< [out × in], float or a 16-bit type
  gptq::hessian<B> const* hessian = nullptr;         ///< of the inputs; refinement needs it beside a factor too
  gptq::factor<B> const* factor = nullptr;           ///< made before, for the same order and grouping
  asymmetric_sums<B> const* asymmetric = nullptr;    ///< for a target and for the loss against the float model
  view_of<B, typename B::scalar const> target = {};  ///< [out × in], what to quantize in place of the weights
  std::span<std::int32_t const> order = {};          ///< of the inputs, in place of what the Hessian suggests
};

}  // namespace v0
}  // namespace gptq
