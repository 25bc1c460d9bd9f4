/// factor: order, damp and factor a Hessian, counted as in³/3.
/// solve: factor and column pass of a layer given its Hessian, counted as in³/3 + out·in²; min-max in natural order, and
/// with the default settings. The loss is printed too: speed without a checked result says nothing.
#include "layer.hpp"

namespace {

double cube(gptq::index_t in) {
  return static_cast<double>(in) * static_cast<double>(in) * static_cast<double>(in) / 3;
}

void factor(benchmark::State& state) {
  gptq::host_backend b;
  auto const in = static_cast<gptq::index_t>(state.range(0));
  auto const h = bench::hessian(b, in);
  for (auto _ : state) benchmark::DoNotOptimize(gptq::factorize(b, h, gptq::w4g128, {}).report.damp_used);
  bench::count_flops(state, cube(in));
}
BENCHMARK(factor)
    ->ArgName("in")
    ->Arg(896)
    ->Arg(2048)
    ->Arg(4096)
    ->Arg(4864)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void solve(benchmark::State& state, gptq::quant_spec const& spec, gptq::quantize_options options) {
  gptq::host_backend b;
  auto const out = static_cast<gptq::index_t>(state.range(0)), in = static_cast<gptq::index_t>(state.range(1));
  auto const h = bench::hessian(b, in);
  auto const w = bench::weights(out, in);
  options.measure = false;
  double loss = 0;
  for (auto _ : state) loss = gptq::quantize_stack(b, w.view(), h, spec, options).linear.report.damped_loss;
  bench::count_flops(state, cube(in) + static_cast<double>(out) * static_cast<double>(in) * static_cast<double>(in));
  options.measure = true;
  auto const report = gptq::quantize_stack(b, w.view(), h, spec, options).linear.report;
  state.counters["loss"] = loss;
  state.counters["rel_loss"] = report.rel_loss;
  state.counters["rel_loss_rtn"] = report.rel_loss_rtn;
}
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"out", "in"})->Args({2048, 2048})->Args({4096, 4096})->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK_CAPTURE(solve, minmax_natural, gptq::w4g128, {.grid = {.mse = 0}})->Apply(shapes)->Args({11008, 4096});
BENCHMARK_CAPTURE(solve, defaults, {.order = gptq::default_preset.order}, gptq::default_preset.options)->Apply(shapes);

}  // namespace
