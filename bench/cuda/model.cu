/// A whole model, folder to checkpoint, on random token ids: bench_cuda_model SOURCE TARGET [samples [tokens
/// [memory in GiB [quality]]]]. The time counts from the opening of the folder to the closed checkpoint.
#include <gptq/backend/cuda/forward.cuh>
#include <gptq/model/pipeline.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_cuda_model SOURCE TARGET [samples [tokens [memory in GiB [quality]]]]\n");
    return 2;
  }
  auto const number = [&](int i, double otherwise) { return argc > i ? std::atof(argv[i]) : otherwise; };
  auto const clock = [] { return std::chrono::steady_clock::now(); };
  auto const samples = std::size_t(number(3, 128));
  auto const tokens = std::size_t(number(4, 2048));
  bool const quality = number(6, 0) != 0;

  gptq::pipeline_options options;
  options.overwrite = true;
  if (!quality) {
    options.spec = gptq::w4g128;
    options.quantize.grid.mse = 0;
    options.quantize.measure = false;
  }
  std::mt19937 random(7);
  std::vector<std::vector<std::int32_t>> ids(samples, std::vector<std::int32_t>(tokens));
  int const vocabulary = 8192;
  for (auto& s : ids)
    for (auto& id : s) id = std::int32_t(random() % vocabulary);

  auto const start = clock();
  gptq::cuda_model_backend b({.memory_budget = std::size_t(number(5, 0) * (1 << 30))});
  double const opened = std::chrono::duration<double>(clock() - start).count();
  options.stream.chunk_tokens = 16384;
  // Inputs of the last stage stay where they fit beside the Hessian, its factor and the states.
  std::size_t const used = std::size_t(12) << 30;
  options.stream.keep_bytes = b.memory_budget() > used ? b.memory_budget() - used : 0;
  auto const begin = clock();
  auto const report = gptq::quantize_model(b, argv[1], argv[2], ids, options);
  double const all = std::chrono::duration<double>(clock() - begin).count();
  std::printf(
      "%s: %zu samples of %zu tokens, %s: %.2f s (and %.2f s to open the device), peak device memory %.2f GiB\n",
      b.device_name().c_str(), samples, tokens, quality ? "default settings" : "min-max, natural", all, opened,
      double(b.peak_memory()) / (1 << 30));
  for (auto const& [what, seconds] : report.seconds) std::printf("  %-10s %8.3f s\n", what.c_str(), seconds);
  double loss = 0;
  for (auto const& l : report.linears) loss += l.report.damped_loss;
  std::printf("  damped loss of all layers %.6e, %td fallbacks\n", loss, report.fallbacks());
} catch (gptq::error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
