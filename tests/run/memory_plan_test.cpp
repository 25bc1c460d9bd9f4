#include "support/model.hpp"

#include <gptq/model/decoder_layer.hpp>
#include <gptq/run/memory_plan.hpp>

using gptq::index_t;

namespace {

/// Shapes of Qwen2-7B; one layer stands for all.
gptq::model_config seven_billion() {
  gptq::model_config c;
  c.family = gptq::find_family("qwen2");
  c.hidden = 3584;
  c.mlp = 18944;
  c.heads = 28;
  c.kv_heads = 4;
  c.head_dim = 128;
  c.blocks = 28;
  return c;
}

std::vector<gptq::block_graph> layers_of(gptq::model_config const& c) { return {gptq::decoder_layer(c, "", 0)}; }

/// In two bytes an element.
gptq::activation_options plan(gptq::model_config const& c, index_t tokens, index_t longest, std::size_t budget,
                              gptq::memory_extras const& extras = {}, index_t micro_batch = 0) {
  return gptq::plan_activations(c, layers_of(c),
                                {.tokens = tokens,
                                 .longest = longest,
                                 .element = 2,
                                 .budget = budget,
                                 .micro_batch = micro_batch,
                                 .extras = extras});
}

constexpr std::size_t gib = std::size_t(1) << 30;

}  // namespace

TEST_CASE("memory plan: what is planned fits, and more memory never means smaller micro-batches on the same side") {
  auto const c = seven_billion();
  index_t const tokens = 262144;
  auto const needs = gptq::needed_memory(c, layers_of(c), tokens, 2);
  gptq::activation_options before;
  for (std::size_t budget = 4 * gib; budget <= 80 * gib; budget += gib / 2) {
    auto const o = plan(c, tokens, 2048, budget);
    CAPTURE(budget, o.micro_batch, o.keep_bytes, o.on_host);
    CHECK(o.micro_batch >= 2048);
    CHECK(o.micro_batch <= 16384);
    if (budget > 4 * gib && o.on_host == before.on_host) CHECK(o.micro_batch >= before.micro_batch);
    if (budget > 4 * gib && !before.on_host) CHECK_FALSE(o.on_host);
    double used = needs.weights + needs.solve + needs.per_token * static_cast<double>(o.micro_batch);
    if (!o.on_host) used += needs.hidden;
    if (o.keep_bytes > 0) used += needs.product;
    if (o.micro_batch > 2048) CHECK(used <= static_cast<double>(budget));
    before = o;
  }
  CHECK_FALSE(before.on_host);
  CHECK(before.keep_bytes >= static_cast<std::size_t>(needs.product));
  CHECK(plan(c, tokens, 2048, 4 * gib).on_host);
  CHECK_FALSE(plan(c, tokens, 2048, 9 * gib).on_host);
}

TEST_CASE("memory plan: few tokens, one long sample") {
  auto const c = seven_billion();
  CHECK_FALSE(plan(c, 1, 1, 8 * gib).on_host);
  CHECK(plan(c, 100000, 32768, 6 * gib).on_host);  // the long one, alone, leaves them no room
  CHECK_FALSE(plan(c, 100000, 32768, 80 * gib).on_host);
  CHECK(plan(c, 100000, 32768, 80 * gib).micro_batch == 16384);
  CHECK(plan(c, 4, 3, 40 * gib).keep_bytes > 0);
}

TEST_CASE("memory plan: an lm_head that is quantized counts") {
  auto c = seven_billion();
  auto const plain = gptq::needed_memory(c, layers_of(c), 262144, 2);
  c.vocabulary = 8192;  // smaller than what the blocks take anyway
  CHECK(gptq::needed_memory(c, layers_of(c), 262144, 2, {.head = true}).solve == plain.solve);
  c.vocabulary = 152064;
  auto const with_head = gptq::needed_memory(c, layers_of(c), 262144, 2, {.head = true});
  double const weights = 3584.0 * 152064.0;
  CHECK(gptq::layer_copies * plain.weights + with_head.solve > 14 * weights);  // itself, in fp32 twice, codes twice
  CHECK(plan(c, 262144, 2048, 12 * gib, {.head = true}).on_host);              // they leave it no room
  CHECK_FALSE(plan(c, 262144, 2048, 12 * gib).on_host);
}

TEST_CASE("memory plan: refinement and a second model count") {
  auto const c = seven_billion();
  double const in = 18944, out = 3584;  // of down, the largest solve
  auto const solve = [&](gptq::memory_extras const& extras) {
    return gptq::needed_memory(c, layers_of(c), 262144, 2, extras).solve;
  };
  CHECK(solve({.refines = true}) >= solve({}) + 4 * in * in + 6 * in * out);
  CHECK(solve({.refines = true, .whole_rows = true}) >= solve({.refines = true}) + 20 * in * out);
  CHECK(solve({.models = 2}) >= solve({}) + 2 * 4 * in * in);
  CHECK(solve({.whole_rows = true}) == solve({}));
}

TEST_CASE("memory plan: a micro-batch that was asked for is kept, if hidden states must wait in host memory for it") {
  auto const c = seven_billion();
  for (std::size_t budget = 8 * gib; budget <= 40 * gib; budget += gib)
    CHECK(plan(c, 262144, 2048, budget, {}, 8192).micro_batch == 8192);
  CHECK(plan(c, 262144, 2048, 8 * gib, {}, 8192).on_host);
  CHECK_FALSE(plan(c, 262144, 2048, 40 * gib, {}, 8192).on_host);
  CHECK_FALSE(plan(c, 262144, 2048, 80 * gib, {}, 512).on_host);  // samples of 2,048 go alone
  CHECK(plan(c, 262144, 2048, 80 * gib, {}, 512).micro_batch == 512);
  CHECK(plan(c, 262144, 2048, 5 * gib, {}, 8192).micro_batch < 8192);  // not for any price
}
