/// Runs over a whole model on the host; the same cases as tests/cuda/pipeline_test.cu.
#include "support/pipeline_cases.hpp"

#include <gptq/backend/host_model.hpp>

TEST_CASE("pipeline: the bundled model, folder to checkpoint") {
  gptq::host_model_backend b;
  test::check_bundled_model(b, {});
}

TEST_CASE("pipeline: where memory is short it goes on with less, and says so") {
  test::check_short_of_memory<gptq::host_model_backend>(1);
}
