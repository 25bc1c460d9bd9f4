/// Runs over a whole model on the device; the same cases as tests/model/pipeline_memory_test.cpp, and what only it has.
#include "support/pipeline_cases.hpp"

#include <gptq/backend/cuda/forward.cuh>
#include <gptq/quantize/pipeline.hpp>

using gptq::bfloat16;

TEMPLATE_TEST_CASE("cuda pipeline: the bundled model, folder to checkpoint", "", float, bfloat16) {
  gptq::basic_cuda_model_backend<TestType> b;
  test::check_bundled_model(b, {});
}

TEST_CASE("cuda pipeline: where memory is short it goes on with less, and says so") {
  test::check_short_of_memory<gptq::cuda_model_backend>(0);
}

TEST_CASE("cuda pipeline: states in pinned host memory and a budget change no bit of the result") {
  test::temp_dir const dir;
  auto const run = [&](char const* name, bool on_host, std::size_t budget) {
    gptq::run_options options;
    options.memory = {.micro_batch = 300, .keep_bytes = 0, .on_host = on_host};
    gptq::cuda_model_backend b({.memory_budget = budget});
    auto const report =
        gptq::quantize_model(b, test::bundled_model(), dir / name, test::random_calibration(24), {}, options);
    CHECK(report.warnings.empty());
    if (budget) CHECK(b.peak_memory() <= budget);
  };
  run("device", false, 0);
  run("host", true, std::size_t(256) << 20);
  gptq::model_weights const a(dir / "device"), b(dir / "host");
  for (auto const& name : a.reader().names()) {
    CAPTURE(name);
    auto const& left = a.reader().at(name).bytes;
    auto const& right = b.reader().at(name).bytes;
    CHECK(std::equal(left.begin(), left.end(), right.begin(), right.end()));
  }
}

TEST_CASE("cuda pipeline: every width, group size, symmetry, order and grouping that is allowed", "[combinations]") {
  gptq::cuda_model_backend b;
  auto samples = test::random_calibration(4);
  for (auto& sample : samples) sample.resize(128, 7);
  test::check_every_spec(b, samples);
}
