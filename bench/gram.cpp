/// gram: one batch of inputs added to a Hessian, counted as tokens·in² (a triangle of the full product).
/// gemm: the machine's own rate of a plain product, the measure for everything here.
#include "layer.hpp"

namespace {

void gemm(benchmark::State& state) {
  auto const n = static_cast<gptq::index_t>(state.range(0));
  auto const a = bench::weights(n, n), x = bench::weights(n, n);
  gptq::matrix<float> y(n, n);
  gptq::host_backend b;
  b.fill(y, 0.0f);
  for (auto _ : state) {
    b.multiply_add(1.0f, a.view(), gptq::transpose::no, x.view(), y.view());
    benchmark::ClobberMemory();
  }
  bench::count_flops(state, 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n));
}
BENCHMARK(gemm)->Arg(2048)->Arg(4096)->Unit(benchmark::kMillisecond)->UseRealTime();

template <class T>
void gram(benchmark::State& state) {
  auto const in = static_cast<gptq::index_t>(state.range(0)), tokens = static_cast<gptq::index_t>(state.range(1));
  auto const wide = bench::inputs(tokens, in);
  gptq::matrix<T> x(tokens, in);
  for (gptq::index_t i = 0; i < x.size(); ++i) x.data()[i] = gptq::from_float<T>(wide.data()[i]);
  gptq::host_backend b;
  gptq::hessian h{b, in};
  for (auto _ : state) h.add(x);
  bench::count_flops(state, static_cast<double>(tokens) * static_cast<double>(in) * static_cast<double>(in));
}
BENCHMARK(gram<float>)
    ->Name("gram/float")
    ->ArgNames({"in", "tokens"})
    ->Args({512, 2048})
    ->Args({896, 2048})
    ->Args({4096, 2048})
    ->Args({4864, 2048})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(gram<gptq::bfloat16>)
    ->Name("gram/bfloat16")
    ->ArgNames({"in", "tokens"})
    ->Args({4096, 2048})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
