/// Every spec that is allowed, on the bundled model; every other one, refused by name.
#include "support/pipeline_cases.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/quantize/pipeline.hpp>
#include <gptq/text/calibration.hpp>
#include <gptq/text/tokenizer.hpp>

#include <string>
#include <vector>

using gptq::quant_spec;

TEST_CASE("pipeline: every width, group size, symmetry, order and grouping that is allowed", "[slow]") {
  auto const model = test::bundled_model();
  auto const tokenizer = gptq::tokenizer::from_file(model / "tokenizer.json");
  auto const set = gptq::read_lines(model / "calibration.txt", tokenizer, {.samples = 4, .sequence_length = 128});
  gptq::host_model_backend b;
  test::check_every_spec(b, set.samples);
}

TEST_CASE("pipeline: every spec that is not allowed is refused before any work") {
  auto const model = test::bundled_model();
  std::vector<std::vector<std::int32_t>> const samples = {{1, 2, 3}};
  gptq::host_model_backend b;
  auto const refusal = [&](quant_spec const& spec) {
    test::temp_dir const dir;
    gptq::recipe options;
    options.spec = spec;
    try {
      gptq::quantize_model(b, model, dir / "out", samples, options);
    } catch (gptq::shape_error const& e) {
      CHECK(std::filesystem::is_empty(dir.path()));
      return std::string(e.what());
    }
    return std::string();
  };
  for (int const bits : {-4, 0, 1, 5, 6, 7, 16})
    CHECK_THAT(refusal({.bits = bits}), test::contains("bits must be 2, 3, 4 or 8, not " + std::to_string(bits)));
  for (int const g : {-2, 0, 1, 8, 48, 96, 192})
    CHECK_THAT(refusal({.group_size = g}), test::contains("group_size must be") && test::contains(std::to_string(g)));
  for (int const g : {256, 384, 1024})  // allowed, but not for layers of 128 and 384 inputs
    CHECK_THAT(refusal({.group_size = g}), test::contains("group_size " + std::to_string(g) + " does not divide"));
  test::for_each_spec({4}, {-1, 128}, [&](quant_spec const& spec) {
    if (!gptq::valid_static_groups(spec)) CHECK_THAT(refusal(spec), test::contains("static_groups needs"));
  });
}
