/// Decoding with a cache is the forward pass of the whole text; packed layers are their dequantized ones.
#include "support/model.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/quantize/pipeline.hpp>
#include <gptq/run/generate.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace {

using gptq::index_t;
using ids = std::vector<std::int32_t>;
using model = gptq::cached_model<gptq::host_model_backend>;

/// max |difference|, infinite where one is no number.
double distance(gptq::matrix_view<float const> a, float const* b) {
  double most = 0;
  for (index_t v = 0; v < a.cols; ++v) {
    double const d = std::abs(double(a(0, v)) - double(b[v]));
    if (!(d <= most)) most = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  return most;
}

/// Calls check(length, logits) while the tokens go in: some at once, then so many at a time.
template <class Check>
void grow(model& m, ids const& tokens, std::size_t at_once, std::size_t step, Check&& check) {
  for (std::size_t at = 0; at < tokens.size();) {
    std::size_t const n = std::min(at == 0 ? at_once : step, tokens.size() - at);
    auto const logits = m.append(std::span(tokens).subspan(at, n));
    at += n;
    check(at, logits);
  }
}

/// max |difference| between logits with a cache and those of a forward pass over the text so far.
double cache_error(gptq::model_weights const& weights, ids const& tokens, gptq::model_weights const& reference) {
  gptq::host_model_backend b;
  auto const length = static_cast<index_t>(tokens.size());
  bool const fixed = gptq::rope_reach(weights.config().rope, 1, length) == length;
  std::optional<gptq::matrix<float>> all;  // one pass serves all lengths where positions do not depend on them
  if (fixed) all = test::logits_of(b, reference, {tokens}, test::unchanged());
  model m(b, weights, length, {.micro_batch = 16});
  double most = 0;
  grow(m, tokens, 41, 1, [&](std::size_t n, auto logits) {
    auto const row = static_cast<index_t>(n) - 1;
    if (fixed) return void(most = std::max(most, distance(logits, all->row(row))));
    if (n < 45 || n % 7 == 0 || n == tokens.size()) {
      auto const so_far =
          test::logits_of(b, reference, {ids(tokens.begin(), tokens.begin() + row + 1)}, test::unchanged());
      most = std::max(most, distance(logits, so_far.row(row)));
    }
  });
  return most;
}
double cache_error(gptq::model_weights const& weights, ids const& tokens) {
  return cache_error(weights, tokens, weights);
}

/// Both as they are and their golden logits, with a cache.
void check_folder(std::filesystem::path const& path) {
  CAPTURE(path.string());
  gptq::model_weights const weights(path);
  test::golden const expected(path / "golden.safetensors");
  CHECK(cache_error(weights, expected.ids[1]) <= test::golden_bound);

  gptq::host_model_backend b;
  model m(b, weights, 96);
  auto const last = static_cast<index_t>(expected.positions.size()) - 1;
  REQUIRE(expected.positions.back() == 95);
  for (index_t s = 0; s < 2; ++s) {
    m.clear();
    grow(m, expected.ids[static_cast<std::size_t>(s)], 50, 5, [&](std::size_t n, auto logits) {
      if (n == 96) CHECK(distance(logits, expected.logits.row(s * (last + 1) + last)) <= test::golden_bound);
    });
  }
}

/// The greedy tokens of packed and of dequantized layers, which may differ only where two logits are as good as equal.
void check_packed(std::filesystem::path const& path, ids const& prompt, index_t packed_layers, int steps = 48) {
  CAPTURE(path.string());
  gptq::model_weights const weights(path);
  gptq::host_model_backend b;
  index_t packed = 0, dense = 0;
  auto const block = gptq::load_layer(b, weights, 0, {}, gptq::packed_layers::keep);
  for (auto const& group : block.groups) {
    CHECK((group.weight.rows() == 0) == !group.parts.empty());
    for (auto const& p : group.parts) ++(p.packed ? packed : dense);
    for (auto const& p : group.parts) CHECK(p.packed.has_value() == (p.weight.rows() == 0));
  }
  CHECK(packed == packed_layers);
  auto const capacity = static_cast<index_t>(prompt.size()) + steps;
  model a(b, weights, capacity);
  model c(b, weights, capacity, {.packed = gptq::packed_layers::dequantize});
  ids next = prompt;
  double most = 0;
  for (int i = 0; i < steps; ++i) {
    auto const x = a.append(next);
    auto const y = c.append(next);
    most = std::max(most, distance(x, y.row(0)));
    auto const top = [](auto logits) { return std::max_element(logits.row(0), logits.row(0) + logits.cols); };
    auto const ours = static_cast<std::int32_t>(top(x) - x.row(0));
    auto const theirs = static_cast<std::int32_t>(top(y) - y.row(0));
    if (ours != theirs) CHECK(y(0, theirs) - y(0, ours) < 1e-3f);
    next = {theirs};
  }
  CHECK(most < 1e-3);
}

/// The bundled model quantized in a hurry.
gptq::recipe quick(gptq::quant_spec spec) {
  gptq::recipe options;
  options.spec = spec;
  options.quantize.grid.mse = 0;
  if (!spec.sym) options.format = gptq::checkpoint_format::gptq_v2;
  return options;
}
void quantize_bundled(std::filesystem::path const& out, gptq::recipe const& options) {
  gptq::host_model_backend b;
  gptq::quantize_model(b, test::bundled_model(), out, test::random_samples({90, 60}, 1024, 4), options);
}

ids const to_be = {41, 300, 7, 512, 90, 18, 222, 3};

}  // namespace

TEST_CASE("generate: logits with a cache are those of the whole text") {
  check_folder(test::bundled_model());
  auto const path = test::bundled_model();
  gptq::model_config config = gptq::read_model_config(path);
  config.windows.assign(config.windows.size(), 30);
  auto const tokens = test::random_samples({96}, 1024, 2).front();
  CHECK(cache_error(gptq::model_weights(path, config), tokens) <= test::golden_bound);
  CHECK(cache_error(gptq::model_weights(path, config), tokens, gptq::model_weights(path)) > 1e-2);
}

TEST_CASE("generate: the same for every family", "[slow]") {
  for (std::string const folder :
       {"models/tinystories-656k-llama", "models/web-qwen2-22m", "models/web-qwen3-8m", "models/web-telechat2-9m",
        "models-tiny/gemma2", "models-tiny/llama-linear-rope", "models-tiny/mistral-sliding", "models-tiny/phi3",
        "models-tiny/phi3-longrope", "models-tiny/qwen2-yarn"}) {
    GPTQ_REQUIRE_SHARED(folder);
    check_folder(test::shared_dir() / folder);
  }
}

TEST_CASE("generate: positions that depend on the length of the text") {
  test::temp_dir const dir;
  test::tiny_model tiny;
  tiny.config["max_position_embeddings"] = 44;
  tiny.config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  gptq::model_weights const dynamic(tiny.write(dir));
  auto const tokens = test::random_samples({60}, 32, 3).front();
  CHECK(cache_error(dynamic, tokens) < 1e-5);

  gptq::model_config config = dynamic.config();
  config.rope.type = gptq::rope_type::longrope;
  config.rope.short_factors = {1, 1, 1, 1};
  config.rope.long_factors = {1, 2, 3, 4};
  CHECK(cache_error(gptq::model_weights(dir / "model", config), tokens) < 1e-5);

  config.rope.type = gptq::rope_type::telechat;
  config.rope.original_positions = 16;
  config.rope.trained_positions = 44;
  CHECK(cache_error(gptq::model_weights(dir / "model", config), tokens) < 1e-5);
}

TEST_CASE("generate: a text begins anew after clear, and stays what it was after an error") {
  gptq::host_model_backend b;
  gptq::model_weights const weights(test::bundled_model());
  model m(b, weights, 12);
  auto const values = [](auto logits) { return std::vector<float>(logits.row(0), logits.row(0) + logits.cols); };
  m.append(to_be);
  auto const expected = values(m.append(ids{5}));
  m.clear();
  CHECK(m.tokens() == 0);
  m.append(to_be);
  CHECK_THROWS_AS(m.append(ids{1, 2, 3, 4, 5}), gptq::shape_error);
  CHECK_THROWS_AS(m.append(ids{1024}), gptq::shape_error);
  CHECK_THROWS_AS(m.append(ids{-1}), gptq::shape_error);
  CHECK_THROWS_AS(m.append(ids{}), gptq::shape_error);
  CHECK(m.tokens() == 8);
  CHECK(values(m.append(ids{5})) == expected);
}

TEST_CASE("generate: packed layers give the tokens of the dequantized model") {
  test::temp_dir const dir;
  using order = gptq::column_order;
  for (gptq::quant_spec const spec :
       {gptq::quant_spec{4, 128, true, order::group_aware}, gptq::quant_spec{8, -1, true, order::natural},
        gptq::quant_spec{3, 32, true, order::desc_act}, gptq::quant_spec{2, 16, false, order::natural}}) {
    CAPTURE(spec.bits);
    auto const out = dir / ("bits" + std::to_string(spec.bits));
    quantize_bundled(out, quick(spec));
    check_packed(out, to_be, 7);
  }
  auto options = quick({4, 64, false, order::natural});
  options.format = gptq::checkpoint_format::compressed_tensors;
  options.dynamic =
      gptq::parse_dynamic_rules(gptq::json::parse(R"_({"-:.*down_proj": {}, "+:.*o_proj": {"bits": 8}})_"), "rules");
  quantize_bundled(dir / "partial", options);
  check_packed(dir / "partial", to_be, 6);

  // A group of which one linear is a matrix.
  gptq::host_model_backend b;
  gptq::model_weights const weights(dir / "partial");
  auto block = gptq::load_layer(b, weights, 1, {}, gptq::packed_layers::keep);
  auto& group = block.groups[0];
  gptq::matrix<float> x(3, 128), packed(3, 256), mixed(3, 256);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 17) / 8 - 1;
  gptq::multiply<false>(b, group, x.view(), packed.view());
  group.parts[1].weight = weights.weight(group.linears[1]);
  group.parts[1].packed.reset();
  gptq::multiply<false>(b, group, x.view(), mixed.view());
  gptq::multiply<true>(b, group, x.view(), mixed.view());
  for (index_t i = 0; i < packed.size(); ++i)
    CHECK_THAT(mixed.data()[i], Catch::Matchers::WithinAbs(2 * double(packed.data()[i]), 1e-3));
}

TEST_CASE("generate: checkpoints that others wrote, packed", "[slow]") {
  for (auto const& [folder, layers] : {std::pair<std::string, index_t>{"gptqmodel-w4g128", 7},
                                       {"gptqmodel-w4g32-desc-act", 7},
                                       {"gptqmodel-w2g64-asym-v2", 7},
                                       {"gptqmodel-w4g128-partial", 3}}) {
    GPTQ_REQUIRE_SHARED("fixtures/" + folder);
    check_packed(test::shared_dir() / "fixtures" / folder, to_be, layers);
  }
}

TEST_CASE("generate: the loop is greedy, and ends at a stop id, a count or the last position") {
  gptq::host_model_backend b;
  gptq::model_weights const weights(test::bundled_model());
  ids told;
  gptq::generate_options options{.max_new_tokens = 12, .on_token = [&](std::int32_t id) { told.push_back(id); }};
  auto const all = gptq::generate(b, weights, to_be, options);
  CHECK(all.ids.size() == 12);
  CHECK(all.ids == told);
  CHECK(all.end == gptq::generation_end::max_new_tokens);
  CHECK(all.steps == 11);
  CHECK(all.prompt_seconds > 0);
  CHECK(all.seconds > 0);
  ids text = to_be;
  for (std::int32_t const id : all.ids) {
    auto const logits = test::logits_of(b, weights, {text}, test::unchanged());
    float const* const row = logits.row(logits.rows() - 1);
    CHECK(id == static_cast<std::int32_t>(std::max_element(row, row + 1024) - row));
    text.push_back(id);
  }

  options.on_token = nullptr;
  options.stop_ids = {2000, all.ids[5]};
  auto const first = std::find(all.ids.begin(), all.ids.end(), all.ids[5]);
  auto const stopped = gptq::generate(b, weights, to_be, options);
  CHECK(stopped.ids == ids(all.ids.begin(), first));
  CHECK(stopped.end == gptq::generation_end::stop_id);

  gptq::model_config config = weights.config();
  config.max_positions = 10;
  gptq::model_weights const small(test::bundled_model(), config);
  auto const cut = gptq::generate(b, small, to_be, {.max_new_tokens = 12});
  CHECK(cut.ids == ids(all.ids.begin(), all.ids.begin() + 3));  // the last one comes from the last position
  CHECK(cut.end == gptq::generation_end::positions);
  CHECK_THAT(test::message_of<gptq::shape_error>([&] { gptq::generate(b, small, all.ids); }),
             test::contains("12 tokens, more than the 10 positions"));
  CHECK_THROWS_AS(gptq::generate(b, small, ids{}), gptq::shape_error);
  CHECK(gptq::generate(b, small, to_be, {.max_new_tokens = 0}).ids.empty());
}

TEST_CASE("generate: tokens are drawn by their probability, the same ones for the same seed") {
  std::vector<float> const logits = {1, 3, 2, -40};
  gptq::token_sampler sample(2, 5), same(2, 5), other(2, 6);
  std::array<int, 4> counts{};
  int equal = 0;
  for (int i = 0; i < 20000; ++i) {
    auto const id = sample(logits);
    CHECK(same(logits) == id);
    equal += other(logits) == id;
    ++counts[static_cast<std::size_t>(id)];
  }
  double const sum = std::exp(-1.0) + 1 + std::exp(-0.5);
  CHECK_THAT(counts[0] / 20000.0, Catch::Matchers::WithinAbs(std::exp(-1.0) / sum, 0.015));
  CHECK_THAT(counts[2] / 20000.0, Catch::Matchers::WithinAbs(std::exp(-0.5) / sum, 0.015));
  CHECK(counts[3] == 0);
  CHECK(equal < 10000);
  CHECK(gptq::token_sampler()(logits) == 1);
  CHECK(gptq::token_sampler()(std::vector<float>{2, 5, 5}) == 1);
  CHECK_THROWS_AS(gptq::token_sampler()(std::vector<float>{1, std::nanf("")}), gptq::numeric_error);
}

TEST_CASE("generate: the ids that end a text") {
  test::temp_dir const dir;
  dir.write("config.json", R"({"eos_token_id": 3})");
  CHECK(gptq::read_stop_ids(dir.path()) == ids{3});
  dir.write("generation_config.json", R"({"eos_token_id": null})");
  CHECK(gptq::read_stop_ids(dir.path()) == ids{3});
  dir.write("generation_config.json", R"({"eos_token_id": [7, 9]})");
  CHECK(gptq::read_stop_ids(dir.path()) == ids{7, 9});
  dir.write("generation_config.json", R"({"eos_token_id": ["x"]})");
  CHECK_THAT(test::message_of<gptq::format_error>([&] { gptq::read_stop_ids(dir.path()); }),
             test::contains("generation_config.json") && test::contains("eos_token_id"));
  dir.write("generation_config.json", "{}");
  dir.write("config.json", "{}");
  CHECK(gptq::read_stop_ids(dir.path()).empty());
}
