/// A model quantized on the device, folder to checkpoint.
#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/backend/cuda/forward.cuh>
#include <gptq/model/pipeline.hpp>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

using gptq::bfloat16;
using gptq::index_t;

TEMPLATE_TEST_CASE("cuda pipeline: the bundled model, folder to checkpoint", "", float, bfloat16) {
  using backend = gptq::basic_cuda_model_backend<TestType>;
  test::temp_dir const dir;
  std::mt19937 random(5);
  std::vector<std::vector<std::int32_t>> calibration;
  for (int s = 0; s < 32; ++s) {
    calibration.emplace_back();
    for (int i = 0; i < 50 + s; ++i) calibration.back().push_back(static_cast<std::int32_t>(random() % 1024));
  }
  backend b;
  gptq::pipeline_options options;
  options.spec.group_size = 128;
  auto const report = gptq::quantize_model(b, test::bundled_model(), dir / "out", calibration, options);
  CHECK(report.linears.size() == 28);
  for (auto const& l : report.linears) {
    CAPTURE(l.name);
    CHECK(l.report.status <= gptq::outcome::few_tokens);
    CHECK(l.report.rel_loss > 0);
    CHECK(l.report.rel_loss < l.report.rel_loss_rtn);
  }
  gptq::model_weights const quantized(dir / "out");
  CHECK(quantized.quantized() != nullptr);
  gptq::model_weights const original(test::bundled_model());
  auto const before = original.stage_weight(1, 2);
  auto const after = quantized.stage_weight(1, 2);
  double difference = 0, norm = 0;
  for (index_t i = 0; i < before.size(); ++i) {
    difference += std::pow(double(before.data()[i]) - double(after.data()[i]), 2);
    norm += std::pow(double(before.data()[i]), 2);
  }
  CHECK(std::sqrt(difference / norm) < 0.2);
  CHECK(difference > 0);
}
