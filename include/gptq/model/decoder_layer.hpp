/// The graph of a decoder layer of the plain pattern, attention and a gated MLP, for every family that has it:
///
///   h ─ norm ─ q,k,v ─ attention ─ o ─ add ─ norm ─ gate,up ─ activation ─ down ─ add ─ h
///
/// Some families have a norm of each head's query and key before the rotation, and one of what is added.
#pragma once

#include <gptq/model/block_graph.hpp>
#include <gptq/model/config.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// The linears of a group below `prefix`, stacked in the order of the rule.
inline linear_group group_of(model_config const& c, group_rule const& rule, std::string const& prefix, index_t inputs) {
  linear_group group{.linears = {},
                     .served_as = rule.served_as,
                     .stays_float = rule.stays_float.reason,
                     .engines = rule.stays_float.engines};
  for (linear_rule const& l : rule.linears) {
    if (l.name.empty()) continue;
    group.linears.push_back(
        {prefix + std::string(l.name), group.outputs(), c.size_of(l.out), inputs, c.has_bias(l.bias)});
  }
  return group;
}

/// Where the heads lie in what the group of the projections writes.
inline attention_shape attention_of(model_config const& c, index_t block) {
  attention_shape shape{.heads = c.heads,
                        .kv_heads = c.kv_heads,
                        .head_dim = c.head_dim,
                        .query = {},
                        .key = {},
                        .value = {},
                        .scale = c.score_scale,
                        .softcap = c.score_softcap};
  if (static_cast<std::size_t>(block) < c.windows.size()) shape.window = c.windows[static_cast<std::size_t>(block)];
  index_t const d = c.head_dim;
  index_t at = 0;
  for (linear_rule const& l : c.family->qkv.linears) {
    if (l.name.empty()) continue;
    switch (l.out) {
      case linear_output::queries: shape.query = {at, d}; break;
      case linear_output::keys: shape.key = {at, d}; break;
      case linear_output::values: shape.value = {at, d}; break;
      case linear_output::keys_and_values:
        shape.key = {at, 2 * d};
        shape.value = {at + d, 2 * d};
        break;
      default:  // queries_keys_values
        shape.query = {at, d};
        shape.key = {at + c.heads * d, d};
        shape.value = {at + (c.heads + c.kv_heads) * d, d};
    }
    at += c.size_of(l.out);
  }
  return shape;
}

}  // namespace detail

/// The graph of block `number`, whose tensors are named below `prefix`: "model.layers.3.".
inline block_graph decoder_layer(model_config const& c, std::string const& prefix, index_t number) {
  family_rule const& f = *c.family;
  graph_builder g(c.hidden);
  auto const weight = [&](std::string_view name, index_t width) {
    return graph_tensor{prefix + std::string(name) + ".weight", {width}};
  };
  auto const linear = [&](int x, group_rule const& rule, index_t inputs) {
    return g.linear(x, detail::group_of(c, rule, prefix, inputs));
  };
  auto const add = [&](int h, int normed, int y, std::string_view output_norm) {
    if (!output_norm.empty()) y = g.norm(y, weight(output_norm, c.hidden));
    return g.add(c.residual_after_norm ? normed : h, y);
  };
  std::vector<graph_tensor> head_norms;
  if (!f.norms.query.empty()) head_norms = {weight(f.norms.query, c.head_dim), weight(f.norms.key, c.head_dim)};

  int h = g.input();
  int x = g.norm(h, weight(f.norms.attention, c.hidden));
  int y = g.attention(linear(x, f.qkv, c.hidden), detail::attention_of(c, number), std::move(head_norms));
  h = add(h, x, linear(y, f.o, c.heads * c.head_dim), f.norms.attention_output);
  x = g.norm(h, weight(f.norms.mlp, c.hidden));
  y = g.gated_activation(linear(x, f.gate_up, c.hidden));
  h = add(h, x, linear(y, f.down, c.mlp), f.norms.mlp_output);
  return g.finish(h);
}

}  // namespace v0
}  // namespace gptq
