/// The ability of a backend that runs models to multiply with packed linears as they are.
#pragma once

#include <gptq/core/model_backend.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <concepts>

namespace gptq {
inline namespace v0 {

/// A backend that has it says `static constexpr bool multiplies_packed = true` and has a type packed_layer. For a backend b:
///
///   b.adopt_packed(packed)     the linear in the backend's memory; on the host that is the view, and what it shows stays
///   b.linear(x, layer, bias, y), b.add_linear(x, layer, bias, y)
///                              as with the weight that it stands for, of which there is never a whole copy
template <class B>
concept packed_backend = forward_backend<B> && requires {
  requires B::multiplies_packed;
};

/// Whether all is there that the flag promises: to be asserted beside the implementation.
template <class B>
concept multiplies_packed_as_promised =
    !packed_backend<B> || requires(B & b, packed_view const& packed, typename B::packed_layer const& layer,
                                   view_of<B, typename B::activation const> x, view_of<B, typename B::activation> y) {
  { b.adopt_packed(packed) } -> std::same_as<typename B::packed_layer>;
  b.linear(x, layer, x, y);
  b.add_linear(x, layer, x, y);
};

}  // namespace v0
}  // namespace gptq
