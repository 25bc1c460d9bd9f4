#include "support/model.hpp"

#include <algorithm>
#include <string>

namespace {

/// A folder's logits, and those of two broken twins.
void check_golden(std::string const& folder, float eps_factor = 10) {
  GPTQ_REQUIRE_SHARED(folder);
  auto const path = test::shared_dir() / folder;
  test::golden const expected(path / "golden.safetensors");
  gptq::host_forward b;
  gptq::model_weights const weights(path);
  CHECK(weights.unexpected().empty());
  CHECK(test::golden_error(b, weights, expected) <= test::golden_bound);

  gptq::model_config config = weights.config();
  config.norm_eps *= eps_factor;
  CHECK(test::golden_error(b, gptq::model_weights(path, config), expected) > test::golden_bound);

  config = weights.config();
  config.rope.theta *= 1.001;
  CHECK(test::golden_error(b, gptq::model_weights(path, config), expected) > test::golden_bound);
}

/// The error of a folder whose settings `change` spoils.
template <class Change>
double spoiled(std::filesystem::path const& path, Change&& change) {
  gptq::model_config config = gptq::read_model_config(path);
  change(config);
  gptq::host_forward b;
  return test::golden_error(b, gptq::model_weights(path, config), test::golden(path / "golden.safetensors"));
}

/// The error of a folder whose blocks `change` spoils after they were loaded.
template <class Change>
double spoiled_block(std::filesystem::path const& path, Change&& change) {
  gptq::host_forward b;
  return test::golden_error(b, gptq::model_weights(path), test::golden(path / "golden.safetensors"), change);
}

/// A norm whose weight nobody looked at.
void forget(gptq::matrix<float>& weight, float plain) { std::fill_n(weight.data(), weight.size(), plain); }

}  // namespace

TEST_CASE("golden: logits of the bundled model, and of three broken twins") {
  auto const path = test::bundled_model();
  test::golden const expected(path / "golden.safetensors");
  gptq::host_forward b;
  gptq::model_weights const weights(path);
  CHECK(weights.unexpected().empty());
  CHECK(test::golden_error(b, weights, expected) <= test::golden_bound);

  SECTION("eps ten times too large") {
    gptq::model_config config = weights.config();
    config.norm_eps *= 10;
    CHECK(test::golden_error(b, gptq::model_weights(path, config), expected) > test::golden_bound);
  }
  SECTION("rotary base off by 0.1 %") {
    gptq::model_config config = weights.config();
    config.rope.theta *= 1.001;
    CHECK(test::golden_error(b, gptq::model_weights(path, config), expected) > test::golden_bound);
  }
  SECTION("no biases") {
    CHECK(test::golden_error(b, weights, expected, [](auto& block) { block.groups[0].bias = {}; }) > 0.5);
  }
}

TEST_CASE("golden: logits in double arithmetic agree as well") {
  auto const path = test::bundled_model();
  gptq::basic_host_forward<double> b;
  CHECK(test::golden_error(b, gptq::model_weights(path), test::golden(path / "golden.safetensors")) <=
        test::golden_bound);
}

TEST_CASE("golden: logits of web-qwen2-22m") { check_golden("models/web-qwen2-22m"); }

TEST_CASE("golden: logits of tinystories-656k-llama") { check_golden("models/tinystories-656k-llama"); }

TEST_CASE("golden: logits with biases everywhere and linear positions") {
  GPTQ_REQUIRE_SHARED("models-tiny/llama-linear-rope");
  check_golden("models-tiny/llama-linear-rope");
  auto const path = test::shared_dir() / "models-tiny/llama-linear-rope";
  test::golden const expected(path / "golden.safetensors");
  gptq::host_forward b;
  gptq::model_weights const weights(path);
  for (std::size_t s = 0; s < 4; ++s)
    CHECK(test::golden_error(b, weights, expected, [&](auto& block) { block.groups[s].bias = {}; }) >
          test::golden_bound);
  gptq::model_config config = weights.config();
  config.rope.factor = 1;
  CHECK(test::golden_error(b, gptq::model_weights(path, config), expected) > test::golden_bound);
}

TEST_CASE("golden: logits with a sliding window shorter than the text") {
  GPTQ_REQUIRE_SHARED("models-tiny/mistral-sliding");
  check_golden("models-tiny/mistral-sliding");
  auto const path = test::shared_dir() / "models-tiny/mistral-sliding";
  test::golden const expected(path / "golden.safetensors");
  gptq::host_forward b;
  for (gptq::index_t const window : {23, 25, 0}) {
    gptq::model_config config = gptq::read_model_config(path);
    std::fill(config.windows.begin(), config.windows.end(), window);
    CHECK(test::golden_error(b, gptq::model_weights(path, config), expected) > test::golden_bound);
  }
}

TEST_CASE("golden: logits with norms of queries and keys, and a head_dim of its own") {
  GPTQ_REQUIRE_SHARED("models/web-qwen3-8m");
  check_golden("models/web-qwen3-8m");
  auto const path = test::shared_dir() / "models/web-qwen3-8m";
  for (std::size_t const norm : {1u, 2u})  // of queries, of keys
    CHECK(spoiled_block(path, [&](auto& block) { forget(block.tensors[norm], 1); }) > test::golden_bound);
}

TEST_CASE("golden: logits of TeleChat2, and with its base scaled") {
  GPTQ_REQUIRE_SHARED("models/web-telechat2-9m");
  check_golden("models/web-telechat2-9m");
  auto const path = test::shared_dir() / "models/web-telechat2-9m";
  for (std::size_t const s : {std::size_t(1), std::size_t(3)})
    CHECK(spoiled_block(path, [&](auto& block) { block.groups[s].bias = {}; }) > test::golden_bound);

  gptq::model_config config = gptq::read_model_config(path);
  CHECK(config.rope.trained_positions == 8192);
  config.rope.trained_positions = 32768;
  test::golden const scaled(path / "golden_ntk.safetensors");
  gptq::host_forward b;
  CHECK(test::golden_error(b, gptq::model_weights(path, config), scaled) <= test::golden_bound);
  CHECK(test::golden_error(b, gptq::model_weights(path), scaled) > 1);
}

TEST_CASE("golden: logits with norms of results, soft caps, a scaled embedding and windows on every other block") {
  GPTQ_REQUIRE_SHARED("models-tiny/gemma2");
  check_golden("models-tiny/gemma2", 1000);  // its states are large
  auto const path = test::shared_dir() / "models-tiny/gemma2";
  CHECK(spoiled(path, [](auto& c) { c.score_softcap = 0; }) > test::golden_bound);
  CHECK(spoiled(path, [](auto& c) { c.logit_softcap = 0; }) > test::golden_bound);
  CHECK(spoiled(path, [](auto& c) { c.score_scale *= 1.01f; }) > test::golden_bound);
  CHECK(spoiled(path, [](auto& c) { c.embedding_scale = 11.3125f; }) > test::golden_bound);  // rounded to bfloat16
  CHECK(spoiled(path, [](auto& c) { std::swap(c.windows[0], c.windows[1]); }) > test::golden_bound);
  CHECK(spoiled(path, [](auto& c) { c.activation = gptq::activation_function::gelu_erf; }) > test::golden_bound);
  for (std::size_t const norm : {1u, 3u})  // of what attention and MLP add; 1 + weight counts
    CHECK(spoiled_block(path, [&](auto& block) { forget(block.tensors[norm], 0); }) > test::golden_bound);
}

TEST_CASE("golden: logits with fused projections and a sliding window") {
  GPTQ_REQUIRE_SHARED("models-tiny/phi3");
  check_golden("models-tiny/phi3");
  auto const path = test::shared_dir() / "models-tiny/phi3";
  CHECK(spoiled(path, [](auto& c) { std::fill(c.windows.begin(), c.windows.end(), 0); }) > test::golden_bound);
}

TEST_CASE("golden: logits with longrope positions past the original length") {
  GPTQ_REQUIRE_SHARED("models-tiny/phi3-longrope");
  check_golden("models-tiny/phi3-longrope");
  auto const path = test::shared_dir() / "models-tiny/phi3-longrope";
  CHECK(spoiled(path, [](auto& c) { c.rope.original_positions = 96; }) > test::golden_bound);
  CHECK(spoiled(path, [](auto& c) { c.rope.scale = 1; }) > test::golden_bound);
}

TEST_CASE("golden: logits with yarn positions") {
  GPTQ_REQUIRE_SHARED("models-tiny/qwen2-yarn");
  check_golden("models-tiny/qwen2-yarn");
  auto const path = test::shared_dir() / "models-tiny/qwen2-yarn";
  CHECK(spoiled(path, [](auto& c) { c.rope.scale = 1; }) > test::golden_bound);
  CHECK(spoiled(path, [](auto& c) { c.rope.factor = 1; }) > test::golden_bound);
}
