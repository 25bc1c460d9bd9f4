#include "support/catch.hpp"
#include "support/message_of.hpp"

#include <gptq/model/block_graph.hpp>
#include <gptq/model/decoder_layer.hpp>

#include <string>
#include <utility>
#include <vector>

using gptq::block_graph;
using gptq::graph_builder;
using gptq::index_t;
using gptq::linear_group;
using gptq::operation;
using gptq::value_rows;

namespace {

linear_group group(std::vector<std::pair<std::string, index_t>> const& linears, index_t inputs) {
  linear_group g;
  for (auto const& [name, rows] : linears) g.linears.push_back({name, g.outputs(), rows, inputs, false});
  return g;
}

gptq::attention_shape heads(index_t n, index_t kv, index_t dim) {
  return {.heads = n,
          .kv_heads = kv,
          .head_dim = dim,
          .query = {0, dim},
          .key = {n * dim, dim},
          .value = {(n + kv) * dim, dim}};
}

/// Routed experts, and one that all tokens reach behind a gate of its own.
int experts(graph_builder& g, int x, index_t hidden, index_t width, index_t count) {
  int const logits = g.linear(x, group({{"mlp.gate", count}}, hidden));
  int const table = g.other(operation::route, {logits}, {}, {2 * count, value_rows::table});
  std::vector<linear_group> up, down;
  for (index_t e = 0; e < count; ++e) {
    std::string const name = "mlp.experts." + std::to_string(e);
    up.push_back(group({{name + ".gate_proj", width}, {name + ".up_proj", width}}, hidden));
    down.push_back(group({{name + ".down_proj", hidden}}, width));
  }
  int const y = g.experts(g.gated_activation(g.experts(x, table, up)), table, down);
  int const routed = g.other(operation::combine, {y, table}, {}, {hidden, value_rows::tokens});
  int const shared = g.linear(g.gated_activation(g.linear(x, group({{"s.gate_proj", 24}, {"s.up_proj", 24}}, hidden))),
                              group({{"s.down_proj", hidden}}, 24));
  int const gate = g.linear(x, group({{"mlp.shared_expert_gate", 1}}, hidden));
  return g.add(routed, g.other(operation::multiply_sigmoid, {shared, gate}, {}, {hidden, value_rows::tokens}));
}

block_graph attention_with_experts() {
  graph_builder g(16);
  int h = g.input();
  int x = g.norm(h, {"input_layernorm.weight", {16}});
  x = g.attention(g.linear(x, group({{"q_proj", 32}, {"k_proj", 8}, {"v_proj", 8}}, 16)), heads(4, 1, 8),
                  {{"q_norm.weight", {8}}, {"k_norm.weight", {8}}});
  h = g.add(h, g.linear(x, group({{"o_proj", 16}}, 32)));
  x = g.norm(h, {"post_attention_layernorm.weight", {16}});
  return g.finish(g.add(h, experts(g, x, 16, 8, 3)));
}

/// As in Qwen3-Next: two key heads of 4, four value heads of 8, a convolution over 4 tokens.
block_graph gated_delta_net() {
  index_t const keys = 2 * 4, values = 4 * 8, mixed = 2 * keys + values;
  graph_builder g(16);
  int h = g.input();
  int x = g.norm(h, {"input_layernorm.weight", {16}});
  int const all =
      g.linear(x, group({{"in_proj_qkv", mixed}, {"in_proj_z", values}, {"in_proj_b", 4}, {"in_proj_a", 4}}, 16));
  int const qkv = g.other(operation::convolution, {g.slice(all, 0, mixed)}, {{"conv1d.weight", {mixed, 1, 4}}},
                          {mixed, value_rows::tokens});
  int y = g.other(operation::delta_rule, {qkv, g.slice(all, mixed + values, 4), g.slice(all, mixed + values + 4, 4)},
                  {{"A_log", {4}}, {"dt_bias", {4}}}, {values, value_rows::tokens});
  y = g.norm(y, {"norm.weight", {8}});
  y = g.other(operation::multiply_sigmoid, {y, g.slice(all, mixed, values)}, {}, {values, value_rows::tokens});
  h = g.add(h, g.linear(y, group({{"out_proj", 16}}, values)));
  x = g.norm(h, {"post_attention_layernorm.weight", {16}});
  x = g.gated_activation(g.linear(x, group({{"gate_proj", 24}, {"up_proj", 24}}, 16)));
  return g.finish(g.add(h, g.linear(x, group({{"down_proj", 16}}, 24))));
}

/// As in DeepSeek V3: queries and keys of 4 + 2, values of 4, four heads; latent vectors of 12 and 8.
block_graph latent_attention() {
  graph_builder g(16);
  int h = g.input();
  int x = g.norm(h, {"input_layernorm.weight", {16}});
  int const low = g.linear(x, group({{"q_a_proj", 12}, {"kv_a_proj_with_mqa", 8 + 2}}, 16));
  int const q = g.linear(g.norm(g.slice(low, 0, 12), {"q_a_layernorm.weight", {12}}), group({{"q_b_proj", 24}}, 12));
  int const kv = g.linear(g.norm(g.slice(low, 12, 8), {"kv_a_layernorm.weight", {8}}), group({{"kv_b_proj", 32}}, 8));
  int const y = g.other(operation::latent_attention, {q, kv, g.slice(low, 20, 2)}, {}, {16, value_rows::tokens});
  h = g.add(h, g.linear(y, group({{"o_proj", 16}}, 16)));
  x = g.norm(h, {"post_attention_layernorm.weight", {16}});
  return g.finish(g.add(h, experts(g, x, 16, 8, 4)));
}

std::string refusal(block_graph const& g) {
  return test::message_of<gptq::shape_error>([&] { gptq::validate(g); });
}

}  // namespace

TEST_CASE("block graph: layers with experts, gated delta nets and latent attention can be written down") {
  for (block_graph const& g : {attention_with_experts(), gated_delta_net(), latent_attention()}) {
    CHECK_NOTHROW(gptq::validate(g));
    CHECK(g.values[std::size_t(g.output)].width == 16);
    // Groups are reached in the order in which they stand.
    int last = -1;
    for (auto const& n : g.nodes)
      if (n.op == operation::linear) {
        CHECK(n.group > last);
        last = n.group;
      }
  }
}

TEST_CASE("block graph: each expert has groups of its own, which only its tokens reach") {
  auto const g = attention_with_experts();
  REQUIRE(g.groups.size() == 2 + 1 + 3 + 3 + 3);
  CHECK(g.groups[2].expert == -1);
  for (std::size_t e = 0; e < 3; ++e) {
    CHECK(g.groups[3 + e].expert == static_cast<index_t>(e));
    CHECK(g.groups[6 + e].expert == static_cast<index_t>(e));
    CHECK(&g.node_of(3 + e) == &g.node_of(3));
  }
}

TEST_CASE("block graph: what is added to the hidden states as it is, and what is not") {
  gptq::model_config c;
  c.family = gptq::find_family("qwen2");
  c.hidden = c.mlp = 16;
  c.heads = c.kv_heads = 2;
  c.head_dim = 8;
  auto const adding = [&] {
    auto const g = gptq::decoder_layer(c, "", 0);
    std::string found;
    for (std::size_t i = 0; i < g.groups.size(); ++i) found += g.adds_to_hidden_states(i) ? '1' : '0';
    return found;
  };
  CHECK(adding() == "0101");
  c.residual_after_norm = true;
  CHECK(adding() == "0000");
  c.residual_after_norm = false;
  c.family = gptq::find_family("gemma2");
  CHECK(adding() == "0000");
}

TEST_CASE("block graph: wrong wiring and shapes are refused, naming the node") {
  block_graph g = gated_delta_net();
  SECTION("a value that comes later") {
    std::swap(g.nodes[0], g.nodes[1]);
    CHECK_THAT(refusal(g), test::contains("node 0 (linear)") && test::contains("nobody wrote yet"));
  }
  SECTION("a linear of another width") {
    g.groups[1].linears[0].inputs = 31;
    CHECK_THAT(refusal(g), test::contains("as wide as what they read"));
  }
  SECTION("columns beyond the end") {
    for (auto& n : g.nodes)
      if (n.op == operation::slice) n.first_column += 5;
    CHECK_THAT(refusal(g), test::contains("columns of its input"));
  }
  SECTION("a filter too few") {
    g.tensors[1].shape[0] -= 1;
    CHECK_THAT(refusal(g), test::contains("(convolution)"));
  }
  SECTION("a value that nobody reads") {
    g.values.push_back({4, value_rows::tokens});
    CHECK_THAT(refusal(g), test::contains("nobody reads"));
  }
  SECTION("another width of hidden states") {
    graph_builder b(16);
    int const x = b.linear(b.input(), group({{"a", 8}}, 16));
    CHECK_THROWS_AS(b.finish(x), gptq::shape_error);
  }
  SECTION("experts that all tokens reach") {
    g = attention_with_experts();
    for (auto& group : g.groups) group.expert = -1;
    CHECK_THAT(refusal(g), test::contains("routed rows"));
  }
  SECTION("heads outside the projections") {
    g = attention_with_experts();
    g.attention.value.first += 1;
    CHECK_THAT(refusal(g), test::contains("heads inside its input"));
  }
}
