/// Layers of a model folder in a backend's memory.
#pragma once

#include <gptq/core/float16.hpp>
#include <gptq/core/model_abilities.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/layer.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

template <class T>
constexpr bool stored_as(dtype type) {
  if constexpr (std::is_same_v<T, bfloat16>) return type == dtype::bf16;
  if constexpr (std::is_same_v<T, float16>) return type == dtype::f16;
  return std::is_same_v<T, float> && type == dtype::f32;
}

/// Whether all of a group is stored in the type that the backend computes with, one linear's rows after the other.
template <class T>
bool stored_as(model_weights const& weights, linear_group const& group) {
  for (linear_info const& l : group.linears) {
    tensor_view const* const t = weights.stored(l);
    if (!t || !stored_as<T>(t->type)) return false;
  }
  return true;
}

/// The stacked weights of a group. An uploading_backend takes what is stored in its own type as it is, without a way
/// through float on the host.
template <forward_backend B>
matrix_of<B, typename B::activation> load_group_weight(B& b, model_weights const& weights, linear_group const& group) {
  using T = typename B::activation;
  static_assert(uploads_as_promised<B>, "gptq: the backend says that it uploads and lacks one of the verbs");
  if constexpr (uploading_backend<B>) {
    if (stored_as<T>(weights, group)) {
      auto all = b.template make<T>(group.outputs(), group.inputs());
      view_of<B, T> const to = all;
      for (linear_info const& l : group.linears)
        b.upload_bytes(weights.stored(l)->bytes, to.row_range(l.first_row, l.rows));
      if (b.all_finite(view_of<B, T const>(to))) return all;  // else the way below says what is wrong
    }
  }
  return b.template adopt<T>(weights.group_weight(group));
}

template <forward_backend B>
bool any_packed(model_weights const& weights, std::vector<linear_info> const& layers) {
  return packed_backend<B> &&
         std::any_of(layers.begin(), layers.end(), [&](linear_info const& l) { return weights.packed(l) != nullptr; });
}

/// A linear by itself; packed where it is and the backend takes that.
template <forward_backend B>
group_part<B> load_part(B& b, model_weights const& weights, linear_info const& l) {
  group_part<B> part{l.first_row, l.rows, {}, {}};
  if constexpr (packed_backend<B>) {
    if (packed_view const* const packed = weights.packed(l)) {
      part.packed.emplace(b.adopt_packed(*packed));
      return part;
    }
  }
  part.weight = b.template adopt<typename B::activation>(weights.weight(l));
  return part;
}

}  // namespace detail

/// The stacked weights of the groups of a layer; empty where they are not there yet.
template <forward_backend B>
using group_matrices = std::vector<matrix_of<B, typename B::activation>>;

/// What becomes of packed layers when they are loaded.
enum class packed_layers : unsigned char { dequantize, keep };

/// Layer i in the backend's memory, but for those groups of which `ready` has the weights already. The model's graphs
/// must outlive it. Throws numeric_error naming the tensor for NaN or Inf.
template <forward_backend B>
layer_weights<B> load_layer(B& b, model_weights const& weights, index_t i, group_matrices<B> ready = {},
                            packed_layers packed = packed_layers::dequantize) {
  using T = typename B::activation;
  block_graph const& graph = weights.layer(i);
  layer_weights<B> layer;
  layer.number = i;
  layer.graph = &graph;
  for (graph_tensor const& t : graph.tensors) layer.tensors.push_back(b.template adopt<T>(weights.values(t)));
  layer.groups.resize(graph.groups.size());
  ready.resize(graph.groups.size());
  for (std::size_t g = 0; g < graph.groups.size(); ++g) {
    linear_group const& group = graph.groups[g];
    group_weights<B>& loaded = layer.groups[g];
    loaded.linears = group.linears;
    loaded.bias = b.template adopt<T>(weights.group_bias(group));
    if (packed == packed_layers::keep && detail::any_packed<B>(weights, group.linears))
      for (linear_info const& l : group.linears) loaded.parts.push_back(detail::load_part(b, weights, l));
    else
      loaded.weight = ready[g].rows() > 0 ? std::move(ready[g]) : detail::load_group_weight(b, weights, group);
  }
  return layer;
}

}  // namespace v0
}  // namespace gptq
