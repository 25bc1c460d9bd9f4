/// Packing and dequantizing of a 4096 × 4096 layer. Bytes are those that must move: read and written once each.
#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/pack.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <string>

namespace {

constexpr gptq::index_t side = 4096;

gptq::quantized_linear layer(int bits) {
  std::mt19937 random(1);
  unsigned const top = (1u << bits) - 1;
  gptq::quantized_linear q;
  q.spec = {.bits = bits, .group_size = 128};
  gptq::index_t const groups = gptq::group_count(side, 128);
  q.codes = gptq::matrix<std::uint8_t>(side, side);
  q.scales = gptq::matrix<float>(groups, side);
  q.zeros = gptq::matrix<std::uint8_t>(groups, side);
  for (gptq::index_t i = 0; i < q.codes.size(); ++i) q.codes.data()[i] = static_cast<std::uint8_t>(random() & top);
  for (gptq::index_t i = 0; i < q.scales.size(); ++i) {
    q.scales.data()[i] = 0.01f;
    q.zeros.data()[i] = static_cast<std::uint8_t>((top + 1) / 2);
  }
  return q;
}

std::int64_t packed_bytes(int bits) { return side * side * bits / 8 + side * side / 128 * (2 + 1); }

void pack(benchmark::State& state, int bits) {
  auto const q = layer(bits);
  for (auto _ : state) benchmark::DoNotOptimize(gptq::pack(q, gptq::checkpoint_format::gptq));
  state.SetBytesProcessed(state.iterations() * (side * side + packed_bytes(bits)));
}

void dequantize(benchmark::State& state, int bits) {
  auto const p = gptq::pack(layer(bits), gptq::checkpoint_format::gptq);
  gptq::matrix<float> weight(side, side);
  for (auto _ : state) {
    gptq::dequantize(gptq::view(p), 0, weight);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * (side * side * 4 + packed_bytes(bits)));
}

}  // namespace

int main(int argc, char** argv) {
  for (int const bits : {2, 3, 4, 8}) {
    std::string const shape = "/4096x4096/" + std::to_string(bits) + "bit";
    benchmark::RegisterBenchmark(("pack" + shape).c_str(), pack, bits)->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("dequantize" + shape).c_str(), dequantize, bits)->Unit(benchmark::kMillisecond);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
