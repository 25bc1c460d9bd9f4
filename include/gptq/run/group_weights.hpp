/// The linears of a group, which read the same input, as matrices or packed, and their product.
#pragma once

#include <gptq/model/block_graph.hpp>
#include <gptq/pack/packed_backend.hpp>

#include <optional>
#include <type_traits>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

struct no_packed_layer {};

template <class B>
struct packed_layer_of {
  using type = no_packed_layer;
};
template <packed_backend B>
struct packed_layer_of<B> {
  using type = typename B::packed_layer;
};

}  // namespace detail

/// One linear of a group: rows [first_row, first_row + rows) of what it computes.
template <forward_backend B>
struct group_part {
  index_t first_row = 0;
  index_t rows = 0;
  matrix_of<B, typename B::activation> weight;  ///< [rows × inputs], or empty where it is packed
  std::optional<typename detail::packed_layer_of<B>::type> packed;
};

/// The linears of a group: stacked in one matrix, or where some are packed, one by one.
template <forward_backend B>
struct group_weights {
  matrix_of<B, typename B::activation> weight;  ///< [sum of outputs × inputs], or empty
  matrix_of<B, typename B::activation> bias;    ///< [1 × sum of outputs], or empty
  std::vector<linear_info> linears;
  std::vector<group_part<B>> parts;  ///< instead of `weight`
};

/// y = x·wᵀ + bias, or with `Add` y += that; y [tokens × sum of outputs].
template <bool Add, forward_backend B>
void multiply(B& b, group_weights<B> const& s, std::type_identity_t<view_of<B, typename B::activation const>> x,
              std::type_identity_t<view_of<B, typename B::activation>> y) {
  using const_view = view_of<B, typename B::activation const>;
  auto const product = [&](auto const& w, const_view bias, view_of<B, typename B::activation> out) {
    if constexpr (Add)
      b.add_linear(x, w, bias, out);
    else
      b.linear(x, w, bias, out);
  };
  const_view const bias = s.bias;
  if (s.parts.empty()) return product(const_view(s.weight), bias, y);
  for (group_part<B> const& p : s.parts) {
    const_view const part_bias = s.bias.rows() > 0 ? bias.col_range(p.first_row, p.rows) : const_view();
    auto const out = y.col_range(p.first_row, p.rows);
    if constexpr (packed_backend<B>) {
      if (p.packed) {
        product(*p.packed, part_bias, out);
        continue;
      }
    }
    product(const_view(p.weight), part_bias, out);
  }
}

}  // namespace v0
}  // namespace gptq
