#include "support/model.hpp"

#include <cmath>
#include <cstdint>

using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;

TEST_CASE("evaluate: perplexity of the bundled model on the text it wrote itself") {
  auto const path = test::bundled_model();
  gptq::host_forward b;
  auto const e = gptq::evaluate(b, gptq::model_weights(path), test::ids_of(path, path / "evaluation.txt"));
  CHECK_THAT(e.perplexity, WithinRel(60.88, test::perplexity_bound));
  CHECK(e.windows == 37);
  CHECK(e.tokens == 37 * 511);
  CHECK(e.window_nll.size() == 37);
  CHECK_FALSE(e.kl.has_value());
  CHECK_FALSE(e.top1.has_value());
}

TEST_CASE("evaluate: perplexity of the bundled model on Shakespeare, and of a broken twin", "[slow]") {
  GPTQ_REQUIRE_SHARED("models/bard-qwen2-1m/heldout_shakespeare.txt");
  auto const path = test::bundled_model();
  auto const ids = test::ids_of(path, test::shared_dir() / "models/bard-qwen2-1m/heldout_shakespeare.txt");
  gptq::host_forward b;
  gptq::model_weights const weights(path);
  auto const e = gptq::evaluate(b, weights, ids);
  CHECK_THAT(e.perplexity, WithinRel(49.91, test::perplexity_bound));
  CHECK(e.windows == 42);
  gptq::model_config config = weights.config();
  config.rope.theta *= 1.05;
  CHECK_THAT(gptq::evaluate(b, gptq::model_weights(path, config), ids).perplexity,
             !WithinRel(49.91, test::perplexity_bound));
}

TEST_CASE("evaluate: perplexity of models of other families on WikiText-2", "[slow]") {
  struct row {
    char const* folder;
    double perplexity;
  };
  auto const r = GENERATE(row{"web-qwen3-8m", 116.97}, row{"web-telechat2-9m", 154.63});
  GPTQ_REQUIRE_SHARED("text/wikitext2_raw_test.txt");
  auto const path = test::shared_dir() / "models" / r.folder;
  auto ids = test::ids_of(path, test::shared_dir() / "text/wikitext2_raw_test.txt");
  ids.resize(200'000);
  gptq::host_forward b;
  auto const e = gptq::evaluate(b, gptq::model_weights(path), ids);
  CHECK_THAT(e.perplexity, WithinRel(r.perplexity, test::perplexity_bound));
  CHECK(e.windows == 390);
}

TEST_CASE("evaluate: quantized folders of another tool give the perplexity and divergence it measured", "[slow]") {
  struct row {
    char const* folder;
    double perplexity;
    double kl;
  };
  auto const r =
      GENERATE(row{"gptqmodel-w4g128", 62.0168, .02771}, row{"gptqmodel-w4g32-desc-act", 61.4594, .01981},
               row{"gptqmodel-w2g64-asym-v2", 83.2967, .50226}, row{"gptqmodel-w4g128-partial", 61.0173, .01784});
  GPTQ_REQUIRE_SHARED("fixtures");
  auto const path = test::bundled_model();
  gptq::host_forward b;
  gptq::model_weights const reference(path);
  gptq::model_weights const weights(test::shared_dir() / "fixtures" / r.folder);
  CHECK(weights.quantized());
  CHECK(weights.unexpected().empty());
  auto const e = gptq::evaluate(b, weights, test::ids_of(path, path / "evaluation.txt"), {}, &reference);
  CHECK_THAT(e.perplexity, WithinRel(r.perplexity, test::perplexity_bound));
  REQUIRE(e.kl.has_value());
  CHECK_THAT(*e.kl, WithinRel(r.kl, 1e-3));
  CHECK(*e.top1 > 0.4);
  CHECK(*e.top1 < 0.95);
}

TEST_CASE("evaluate: a model does not diverge from itself") {
  test::temp_dir const dir;
  gptq::model_weights const weights(test::tiny_model().write(dir));
  gptq::host_forward b;
  gptq::evaluation_options options;
  options.context = 8;
  auto const ids = test::random_samples({50}, 32, 1).front();
  auto const e = gptq::evaluate(b, weights, ids, options, &weights);
  CHECK(e.windows == 6);
  CHECK(e.tokens == 42);
  CHECK(*e.kl == 0);
  CHECK(*e.top1 == 1);
  CHECK(e.window_kl.size() == 6);
}

TEST_CASE("evaluate: the definition, on logits computed at once") {
  test::temp_dir const dir;
  gptq::model_weights const weights(test::tiny_model().write(dir, "a"));
  test::tiny_model other;
  other.config["rope_theta"] = 100.0;
  gptq::model_weights const reference(other.write(dir, "b"));
  auto const windows = test::random_samples({10, 10, 10}, 32, 2);
  std::vector<std::int32_t> ids;
  for (auto const& w : windows) ids.insert(ids.end(), w.begin(), w.end());
  ids.push_back(3);  // too few for a window

  gptq::host_forward b;
  auto const q = test::logits_of(b, weights, windows, test::unchanged());
  auto const p = test::logits_of(b, reference, windows, test::unchanged());
  double nll = 0;
  double kl = 0;
  double same = 0;
  for (gptq::index_t t = 0; t < 30; ++t) {
    if (t % 10 == 9) continue;
    double sum_p = 0;
    double sum_q = 0;
    for (gptq::index_t c = 0; c < 32; ++c) {
      sum_p += std::exp(double(p(t, c)));
      sum_q += std::exp(double(q(t, c)));
    }
    nll += std::log(sum_q) - double(q(t, ids[static_cast<std::size_t>(t) + 1]));
    for (gptq::index_t c = 0; c < 32; ++c)
      kl += std::exp(double(p(t, c))) / sum_p * (double(p(t, c)) - std::log(sum_p) - double(q(t, c)) + std::log(sum_q));
    same +=
        std::max_element(p.row(t), p.row(t) + 32) - p.row(t) == std::max_element(q.row(t), q.row(t) + 32) - q.row(t);
  }
  gptq::evaluation_options options;
  options.context = 10;
  SECTION("all windows together") {}
  SECTION("one window at a time") { options.state_bytes = 1; }
  SECTION("logits in pieces") { options.logit_bytes = 4 * 32 * 4; }
  SECTION("logits row by row") { options.logit_bytes = 1; }
  gptq::index_t steps = 0;
  options.progress = [&](gptq::index_t done, gptq::index_t all) {
    CHECK(done == ++steps);
    CHECK(all == (options.state_bytes == 1 ? 6 : 2));
  };
  auto const e = gptq::evaluate(b, weights, ids, options, &reference);
  CHECK_THAT(e.perplexity, WithinRel(std::exp(nll / 27), 1e-6));
  CHECK_THAT(*e.kl, WithinRel(kl / 27, 1e-4));
  CHECK_THAT(*e.top1, WithinAbs(same / 27, 1e-12));
  CHECK(*e.kl > 1e-4);
  CHECK(steps > 0);
}

TEST_CASE("evaluate: the spread of windows") {
  auto const s = gptq::spread_of(std::vector<double>{2, 6, 1, 3});
  CHECK_THAT(s.deviation, WithinRel(std::sqrt(14.0 / 3), 1e-12));
  CHECK_THAT(s.standard_error, WithinRel(std::sqrt(14.0 / 12), 1e-12));
  CHECK(s.least == 1);
  CHECK(s.most == 6);
  auto const one = gptq::spread_of(std::vector<double>{5});
  CHECK(one.deviation == 0);
  CHECK(one.standard_error == 0);
  CHECK(one.least == 5);
}

TEST_CASE("evaluate: refusals") {
  test::temp_dir const dir;
  test::tiny_model model;
  gptq::model_weights const weights(model.write(dir, "a"));
  gptq::host_forward b;
  gptq::evaluation_options options;
  std::vector<std::int32_t> ids(20, 1);
  SECTION("fewer tokens than a window") {
    CHECK_THAT(test::message_of<gptq::shape_error>([&] { gptq::evaluate(b, weights, ids); }),
               test::contains("20 tokens") && test::contains("512"));
  }
  SECTION("no tokens") {
    CHECK_THROWS_AS(gptq::evaluate(b, weights, std::span<std::int32_t const>()), gptq::shape_error);
  }
  SECTION("a window that predicts nothing") {
    options.context = 1;
    CHECK_THROWS_AS(gptq::evaluate(b, weights, ids, options), gptq::shape_error);
  }
  SECTION("ids outside the vocabulary") {
    options.context = 10;
    ids[13] = GENERATE(32, -1);
    CHECK_THAT(test::message_of<gptq::shape_error>([&] { gptq::evaluate(b, weights, ids, options); }),
               test::contains("sample 1") && test::contains(std::to_string(ids[13])) && test::contains("32"));
  }
  SECTION("vocabularies that differ") {
    model.config["vocab_size"] = 33;
    for (char const* const name : {"lm_head.weight", "model.embed_tokens.weight"}) {
      model.remove(name);
      model.add(name, {33, 16});
    }
    gptq::model_weights const reference(model.write(dir, "b"));
    options.context = 10;
    CHECK_THAT(test::message_of<gptq::shape_error>([&] { gptq::evaluate(b, weights, ids, options, &reference); }),
               test::contains("33") && test::contains("32"));
  }
  SECTION("numbers that overflow") {
    std::vector<float> const large(16 * 24, 3e38f);
    model.at("model.layers.0.mlp.down_proj.weight").bytes = test::bytes_of(large);
    gptq::model_weights const broken(model.write(dir, "c"));
    options.context = 10;
    CHECK_THAT(test::message_of<gptq::numeric_error>([&] { gptq::evaluate(b, broken, ids, options); }),
               test::contains("window 0"));
  }
}
