#include "support/catch.hpp"
#include "support/message_of.hpp"

#include <gptq/model/decoder_layer.hpp>
#include <gptq/run/program.hpp>

#include <algorithm>
#include <string>
#include <vector>

using gptq::index_t;
using gptq::operation;

namespace {

gptq::model_config layer_config(char const* family) {
  gptq::model_config c;
  c.family = gptq::find_family(family);
  c.hidden = 16;
  c.mlp = 40;
  c.heads = 3;
  c.kv_heads = 1;
  c.head_dim = 8;
  return c;
}

/// The operations of a program, in order.
std::string steps(gptq::block_graph const& g, gptq::layer_program const& p) {
  std::string text;
  for (int const n : p.steps)
    text += (text.empty() ? "" : " ") + std::string(to_string(g.nodes[std::size_t(n)].op)) +
            (p.adds_directly[std::size_t(n)] ? "+" : "");
  return text;
}

}  // namespace

TEST_CASE("program: a plain layer runs group by group, and nothing but norms runs twice") {
  auto const g = gptq::decoder_layer(layer_config("qwen2"), "", 0);
  auto const plan = gptq::plan_layer(g, true);
  REQUIRE(plan.to_group.size() == 4);
  CHECK(steps(g, plan.to_group[0]) == "norm");
  CHECK(steps(g, plan.to_group[1]) == "norm linear attention");
  CHECK(steps(g, plan.to_group[2]) == "linear+ add norm");
  CHECK(steps(g, plan.to_group[3]) == "norm linear gated_activation");
  CHECK(steps(g, plan.to_end) == "linear+ add");
  CHECK(plan.kept[0].empty());
  CHECK(plan.kept[1].empty());
  CHECK(plan.kept[2].size() == 1);  // attention's output
  CHECK(plan.kept[3].empty());
  CHECK(plan.kept[4].size() == 1);  // the MLP's intermediate
  CHECK(gptq::product_width(g) == 40);
}

TEST_CASE("program: products that are not kept are computed twice, attention never") {
  auto const g = gptq::decoder_layer(layer_config("qwen2"), "", 0);
  auto const plan = gptq::plan_layer(g, false);
  CHECK(plan.kept[2].size() == 1);
  CHECK(plan.kept[4].empty());
  CHECK(steps(g, plan.to_end) == "norm linear gated_activation linear+ add");
}

TEST_CASE("program: results that are normed are not added directly") {
  auto const g = gptq::decoder_layer(layer_config("gemma2"), "", 0);
  CHECK(steps(g, gptq::whole_layer(g)) ==
        "norm linear attention linear norm add norm linear gated_activation linear norm add");
}

TEST_CASE("program: values that are needed together never share a slot") {
  for (char const* family : {"qwen2", "gemma2", "telechat", "phi3"}) {
    auto const g = gptq::decoder_layer(layer_config(family), "", 0);
    auto const p = gptq::whole_layer(g);
    for (std::size_t s = 0; s < p.steps.size(); ++s) {
      auto const& n = g.nodes[std::size_t(p.steps[s])];
      int const out = p.slots[std::size_t(n.writes)];
      if (out < 0) continue;
      CHECK(p.widths[std::size_t(out)] >= g.values[std::size_t(n.writes)].width);
      for (int const r : n.reads) CHECK(p.slots[std::size_t(r)] != out);
    }
    CHECK(p.widths.size() == 2);
  }
}

TEST_CASE("program: a graph that reads hidden states as they were before an add is refused") {
  gptq::graph_builder b(8);
  auto const linear = [](char const* name) { return gptq::linear_group{.linears = {{name, 0, 8, 8, false}}}; };
  int const x = b.norm(b.input(), {"a", {8}});
  int const h = b.add(b.input(), b.linear(x, linear("first")));
  int const old = b.norm(b.input(), {"b", {8}});
  auto const g = b.finish(b.add(h, b.linear(old, linear("second"))));
  CHECK_THAT(test::message_of<gptq::shape_error>([&] { gptq::plan_layer(g, true); }), test::contains("hidden states"));
}
