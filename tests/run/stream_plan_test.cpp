#include "support/model.hpp"

#include <gptq/run/stream_plan.hpp>

using gptq::index_t;

namespace {

/// Shapes of Qwen2-7B.
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

constexpr std::size_t gib = std::size_t(1) << 30;

}  // namespace

TEST_CASE("stream plan: what is planned fits, and more memory never means smaller chunks on the same side") {
  auto const c = seven_billion();
  index_t const tokens = 262144;
  auto const needs = gptq::stream_memory(c, tokens, 2);
  gptq::stream_options before;
  for (std::size_t budget = 4 * gib; budget <= 80 * gib; budget += gib / 2) {
    auto const o = gptq::plan_stream(c, tokens, 2048, 2, budget);
    CAPTURE(budget, o.chunk_tokens, o.keep_bytes, o.states_on_host);
    CHECK(o.chunk_tokens >= 2048);
    CHECK(o.chunk_tokens <= 16384);
    if (budget > 4 * gib && o.states_on_host == before.states_on_host) CHECK(o.chunk_tokens >= before.chunk_tokens);
    if (budget > 4 * gib && !before.states_on_host) CHECK_FALSE(o.states_on_host);
    double used = needs.weights + needs.solve + needs.per_token * static_cast<double>(o.chunk_tokens);
    if (!o.states_on_host) used += needs.states;
    if (o.keep_bytes > 0) used += needs.product;
    if (o.chunk_tokens > 2048) CHECK(used <= static_cast<double>(budget));
    before = o;
  }
  CHECK_FALSE(before.states_on_host);
  CHECK(before.keep_bytes >= static_cast<std::size_t>(needs.product));
  CHECK(gptq::plan_stream(c, tokens, 2048, 2, 4 * gib).states_on_host);
  CHECK_FALSE(gptq::plan_stream(c, tokens, 2048, 2, 9 * gib).states_on_host);
}

TEST_CASE("stream plan: few tokens, one long sample") {
  auto const c = seven_billion();
  CHECK_FALSE(gptq::plan_stream(c, 1, 1, 2, 8 * gib).states_on_host);
  CHECK(gptq::plan_stream(c, 100000, 32768, 2, 6 * gib).chunk_tokens == 32768);
  CHECK(gptq::plan_stream(c, {{1, 2, 3}, {4}}, 2, 40 * gib).keep_bytes > 0);
}

TEST_CASE("stream plan: an output head that is quantized counts") {
  auto c = seven_billion();
  auto const plain = gptq::stream_memory(c, 262144, 2);
  c.vocabulary = 8192;  // smaller than what the blocks take anyway
  CHECK(gptq::stream_memory(c, 262144, 2, {.head = true}).solve == plain.solve);
  c.vocabulary = 152064;
  auto const with_head = gptq::stream_memory(c, 262144, 2, {.head = true});
  double const weights = 3584.0 * 152064.0;
  CHECK(gptq::block_copies * plain.weights + with_head.solve > 14 * weights);  // itself, in fp32 twice, codes twice
  CHECK(gptq::plan_stream(c, 262144, 2048, 2, 12 * gib, {.head = true}).states_on_host);  // they leave it no room
  CHECK_FALSE(gptq::plan_stream(c, 262144, 2048, 2, 12 * gib).states_on_host);
}

TEST_CASE("stream plan: refinement and a second stream count") {
  auto const c = seven_billion();
  double const in = 18944, out = 3584;  // of down, the largest solve
  auto const solve = [&](gptq::stream_extras const& extras) { return gptq::stream_memory(c, 262144, 2, extras).solve; };
  CHECK(solve({.refines = true}) >= solve({}) + 4 * in * in + 6 * in * out);
  CHECK(solve({.refines = true, .whole_rows = true}) >= solve({.refines = true}) + 20 * in * out);
  CHECK(solve({.streams = 2}) >= solve({}) + 2 * 4 * in * in);
  CHECK(solve({.whole_rows = true}) == solve({}));
}
