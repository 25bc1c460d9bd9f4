/// What holds for a run over a whole model on every backend: tests/model runs it on the host, tests/cuda on a device.
#pragma once

#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/model/pipeline.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <random>
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
void check_bundled_model(Backend& b, gptq::pipeline_options options) {
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
  auto const before = original.stage_weight(1, 2);
  auto const after = quantized.stage_weight(1, 2);
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
    gptq::pipeline_options options;
    options.quantize.measure = false;
    options.stream.chunk_tokens = 200;
    options.stream.keep_bytes = 0;
    b.refuse_at = at;
    try {
      auto const report = gptq::quantize_model(b, bundled_model(), dir / "out", random_calibration(6), options);
      CHECK(report.linears.size() == 28);
      CHECK(gptq::model_weights(dir / "out").quantized() != nullptr);
      ++completed;
      bool const smaller = report.chunk_tokens < 200;
      CHECK(smaller == std::any_of(report.warnings.begin(), report.warnings.end(),
                                   [](auto const& w) { return w.starts_with("device memory: "); }));
      told += smaller;
    } catch (gptq::device_memory_error const&) {
      CHECK_FALSE(std::filesystem::exists(dir / "out"));
    }
  }
  CHECK(completed >= 8);
  CHECK(told >= least_told);
}

}  // namespace test
