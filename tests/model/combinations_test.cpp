/// Every spec that is allowed, on the bundled model; every other one, refused by name.
#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/checkpoint/inspect.hpp>
#include <gptq/model/host.hpp>
#include <gptq/text/calibration.hpp>
#include <gptq/text/tokenizer.hpp>

#include <string>
#include <vector>

namespace {

using gptq::column_order;
using gptq::quant_spec;

constexpr column_order orders[] = {column_order::natural, column_order::desc_act, column_order::group_aware};

template <class F>
void for_each_spec(std::vector<int> const& widths, std::vector<int> const& group_sizes, F&& f) {
  for (int const bits : widths)
    for (int const group_size : group_sizes)
      for (bool const sym : {true, false})
        for (column_order const order : orders)
          for (bool const static_groups : {false, true}) f(quant_spec{bits, group_size, sym, order, static_groups});
}

std::string text(quant_spec const& s) {
  return std::to_string(s.bits) + " bits g" + std::to_string(s.group_size) + (s.sym ? " sym" : " asym") + " order " +
         std::to_string(static_cast<int>(s.order)) + (s.static_groups ? " static" : "");
}

}  // namespace

TEST_CASE("pipeline: every width, group size, symmetry, order and grouping that is allowed", "[slow]") {
  auto const model = test::bundled_model();
  auto const tokenizer = gptq::tokenizer::from_file(model / "tokenizer.json");
  auto const set = gptq::read_lines(model / "calibration.txt", tokenizer, {.samples = 4, .sequence_length = 128});
  gptq::host_model_backend b;
  int runs = 0;
  for_each_spec({2, 3, 4, 8}, {-1, 16, 32, 64, 128}, [&](quant_spec const& spec) {
    if (!gptq::valid_static_groups(spec)) return;
    INFO(text(spec));
    gptq::pipeline_options options;
    options.spec = spec;
    options.quantize.grid.mse = 0;  // the search for a range is tested elsewhere, and takes most of the time
    options.format = spec.sym || runs % 2 ? gptq::checkpoint_format::gptq : gptq::checkpoint_format::gptq_v2;
    test::temp_dir const dir;
    auto const report = gptq::quantize_model(b, model, dir / "out", set.samples, options);
    ++runs;
    CHECK(report.linears.size() == 28);
    CHECK(report.fallbacks() == 0);
    double loss = 0, rounding = 0;
    for (auto const& l : report.linears) loss += l.report.rel_loss, rounding += l.report.rel_loss_rtn;
    CHECK(loss < rounding);
    auto const found = gptq::inspect(dir / "out");
    CHECK(found.problems.empty());
    for (auto const& p : found.problems) UNSCOPED_INFO(to_string(p));
    for (auto const& m : found.modules) {
      if (!m.quantized) continue;
      CHECK(m.spec.bits == spec.bits);
      CHECK(m.spec.sym == spec.sym);
      CHECK(m.scattered == (gptq::scattered_groups(spec) && m.groups > 1));
      CHECK(m.groups == gptq::group_count(m.shape[1], spec.group_size));
    }
  });
  CHECK(runs == 4 * 2 * (5 * 3 + 4 * 2));
}

TEST_CASE("pipeline: every spec that is not allowed is refused before any work") {
  auto const model = test::bundled_model();
  std::vector<std::vector<std::int32_t>> const samples = {{1, 2, 3}};
  gptq::host_model_backend b;
  auto const refusal = [&](quant_spec const& spec) {
    test::temp_dir const dir;
    gptq::pipeline_options options;
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
  for_each_spec({4}, {-1, 128}, [&](quant_spec const& spec) {
    if (!gptq::valid_static_groups(spec)) CHECK_THAT(refusal(spec), test::contains("static_groups needs"));
  });
}
