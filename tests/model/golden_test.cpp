#include "model/support.hpp"

#include <algorithm>
#include <string>

namespace {

void check_golden(std::string const& folder) {
  GPTQ_REQUIRE_SHARED(folder);
  auto const path = test::shared_dir() / folder;
  test::golden const expected(path / "golden.safetensors");
  gptq::host_forward b;
  gptq::model_weights const weights(path);
  CHECK(weights.unexpected().empty());
  CHECK(test::golden_error(b, weights, expected) <= test::golden_bound);

  gptq::model_config config = weights.config();
  config.norm_eps *= 10;
  CHECK(test::golden_error(b, gptq::model_weights(path, config), expected) > test::golden_bound);

  config = weights.config();
  config.rope.theta *= 1.001;
  CHECK(test::golden_error(b, gptq::model_weights(path, config), expected) > test::golden_bound);
}

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
    CHECK(test::golden_error(b, weights, expected, [](auto& block) { block.stages[0].bias = {}; }) > 0.5);
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
    CHECK(test::golden_error(b, weights, expected, [&](auto& block) { block.stages[s].bias = {}; }) >
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
