/// examples/run_block.hpp, an engine of its own on gptq/pack/matmul.hpp, against the library's forward pass.
#include "support/model.hpp"
#include "support/pipeline_cases.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/quantize/pipeline.hpp>

#include "../../examples/run_block.hpp"  // includes Eigen, so after gptq

#include <algorithm>
#include <cmath>

TEST_CASE("the example's block, from packed weights in a mapped file, gives the library's states", "[model]") {
  test::temp_dir const dir;
  gptq::host_model_backend b;
  gptq::recipe options;
  options.spec = {.bits = 4, .group_size = 128, .order = gptq::column_order::group_aware};
  gptq::quantize_model(b, test::bundled_model(), dir / "out", test::random_calibration(8), options);

  gptq::model_weights const weights(dir / "out");
  auto const embedding = b.adopt<float>(weights.embedding());
  auto const tokens = test::random_samples({37}, 1024, 3);
  gptq::activations<gptq::host_model_backend> stream(b, weights.config(), weights.layers(), tokens, embedding);
  engine::safetensors const file((dir / "out" / "model.safetensors").string());
  for (gptq::index_t i = 0; i < 2; ++i) {
    auto const before = stream.hidden_states();
    engine::matrix const h =
        Eigen::Map<engine::matrix const, 0, Eigen::OuterStride<>>(before.data, before.rows, before.cols, before.stride);
    engine::decoder_block const block(file, "model.layers." + std::to_string(i) + ".", {});
    engine::matrix const ours = block(h);
    stream.run(gptq::load_layer(b, weights, i));
    auto const after = stream.hidden_states();
    float most = 0, size = 0;
    for (gptq::index_t t = 0; t < after.rows; ++t)
      for (gptq::index_t c = 0; c < after.cols; ++c) {
        most = std::max(most, std::abs(ours(t, c) - after(t, c)));
        size = std::max(size, std::abs(after(t, c) - h(t, c)));
      }
    CAPTURE(i, size);
    CHECK(size > 0.1f);
    CHECK(most < 2e-5f * size);
  }
}
