/// What holds for a run over a whole model on every backend: tests/model runs it on the host, tests/cuda on a device.
#pragma once

#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/engines/inspect.hpp>
#include <gptq/quantize/pipeline.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

namespace test {

/// Samples of 50 tokens and more for the bundled model, no two of the same length.
inline std::vector<std::vector<std::int32_t>> random_calibration(int samples) {
  std::mt19937 random(5);
  std::vector<std::vector<std::int32_t>> all;
  for (int s = 0; s < samples; ++s) {
    all.emplace_back();
    for (int i = 0; i < 50 + s; ++i) all.back().push_back(static_cast<std::int32_t>(random() % 1024));
  }
  return all;
}

constexpr gptq::column_order all_orders[] = {gptq::column_order::natural, gptq::column_order::desc_act,
                                             gptq::column_order::group_aware};

template <class F>
void for_each_spec(std::vector<int> const& widths, std::vector<int> const& group_sizes, F&& f) {
  for (int const bits : widths)
    for (int const group_size : group_sizes)
      for (bool const sym : {true, false})
        for (gptq::column_order const order : all_orders)
          for (bool const static_groups : {false, true})
            f(gptq::quant_spec{bits, group_size, sym, order, static_groups});
}

inline std::string text(gptq::quant_spec const& s) {
  return std::to_string(s.bits) + " bits g" + std::to_string(s.group_size) + (s.sym ? " sym" : " asym") + " order " +
         std::to_string(static_cast<int>(s.order)) + (s.static_groups ? " static" : "");
}

/// A backend that refuses to make one matrix: number `refuse_at` from now on; 0 refuses none.
template <class Backend>
class short_of_memory : public Backend {
 public:
  using Backend::Backend;
  template <class T>
  auto make(gptq::index_t rows, gptq::index_t cols) {
    if (refuse_at > 0 && --refuse_at == 0) throw gptq::device_memory_error("no room for a test's matrix");
    return Backend::template make<T>(rows, cols);
  }
  int refuse_at = 0;
};

/// Folder to checkpoint; weights stay close to what they were, and every layer is better than rounding.
template <class Backend>
void check_bundled_model(Backend& b, gptq::recipe options) {
  temp_dir const dir;
  options.spec.group_size = 128;
  auto const report = gptq::quantize_model(b, bundled_model(), dir / "out", random_calibration(32), options);
  CHECK(report.linears.size() == 28);
  for (auto const& l : report.linears) {
    CAPTURE(l.name);
    CHECK(l.report.status <= gptq::outcome::few_tokens);
    CHECK(l.report.rel_loss > 0);
    CHECK(l.report.rel_loss < l.report.rel_loss_rtn);
  }
  gptq::model_weights const quantized(dir / "out");
  CHECK(quantized.quantized() != nullptr);
  gptq::model_weights const original(bundled_model());
  auto const before = original.group_weight(original.layer(1).groups[2]);
  auto const after = quantized.group_weight(quantized.layer(1).groups[2]);
  double difference = 0, norm = 0;
  for (gptq::index_t i = 0; i < before.size(); ++i) {
    difference += std::pow(double(before.data()[i]) - double(after.data()[i]), 2);
    norm += std::pow(double(before.data()[i]), 2);
  }
  CHECK(std::sqrt(difference / norm) < 0.2);
  CHECK(difference > 0);
}

/// Wherever memory runs out once, the run ends complete, or with an error and no folder; and it tells of smaller chunks,
/// which a backend that reads ahead hardly needs.
template <class Backend>
void check_short_of_memory(int least_told) {
  int completed = 0, told = 0;
  for (int at : {1, 5, 9, 14, 20, 27, 35, 44, 54, 65, 80, 120, 200}) {
    CAPTURE(at);
    temp_dir const dir;
    short_of_memory<Backend> b;
    gptq::recipe asked;
    asked.quantize.measure = false;
    asked.micro_batch = 200;
    gptq::run_options options;
    options.memory.keep_bytes = 0;
    b.refuse_at = at;
    try {
      auto const report = gptq::quantize_model(b, bundled_model(), dir / "out", random_calibration(32), asked, options);
      CHECK(report.linears.size() == 28);
      CHECK(gptq::model_weights(dir / "out").quantized() != nullptr);
      ++completed;
      bool const smaller = report.micro_batch < 200;
      CHECK(smaller == std::any_of(report.warnings.begin(), report.warnings.end(),
                                   [](auto const& w) { return w.text.starts_with("device memory: "); }));
      told += smaller;
    } catch (gptq::device_memory_error const&) {
      CHECK_FALSE(std::filesystem::exists(dir / "out"));
    }
  }
  CHECK(completed >= 8);
  CHECK(told >= least_told);
}

/// Every spec that is allowed, on the bundled model.
template <class Backend>
void check_every_spec(Backend& b, std::vector<std::vector<std::int32_t>> const& samples) {
  int runs = 0;
  for_each_spec({2, 3, 4, 8}, {-1, 16, 32, 64, 128}, [&](gptq::quant_spec const& spec) {
    if (!gptq::valid_static_groups(spec)) return;
    INFO(text(spec));
    gptq::recipe options;
    options.spec = spec;
    options.quantize.grid.mse = 0;  // the search for a range is tested elsewhere, and takes most of the time
    options.format = spec.sym || runs % 2 ? gptq::checkpoint_format::gptq : gptq::checkpoint_format::gptq_v2;
    temp_dir const dir;
    auto const report = gptq::quantize_model(b, bundled_model(), dir / "out", samples, options);
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

}  // namespace test
