/// The product from packed codes, 4096 × 4096, against the machine's memory: layers are taken in turn from more memory
/// than the last-level cache holds. Bytes are those of qweight, qzeros and scales.
///   read     nothing but reading that memory
///   dense    Eigen's product with the weights in float
///   matmul   by width and tokens
///   compare  single token: rounds of all three in turn, so that their ratios are of the same moment
#include <gptq/backend/host/eigen.hpp>
#include <gptq/backend/host/parallel.hpp>
#include <gptq/pack/matmul.hpp>

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace {

using gptq::index_t;

constexpr index_t side = 4096, group_size = 128;

/// Bytes to go round in: three times the last-level cache, at least 1 GiB.
index_t cycle_bytes() {
  auto const cache = static_cast<index_t>(::sysconf(_SC_LEVEL3_CACHE_SIZE));
  return std::max<index_t>(index_t{1} << 30, 3 * cache);
}

index_t packed_bytes(int bits) {
  return side * side * bits / 8 + side * side / group_size * 2 + side * side / group_size * bits / 8;
}

gptq::packed_linear random_layer(int bits, std::mt19937& random) {
  index_t const groups = side / group_size;
  gptq::packed_linear p;
  p.spec = {.bits = bits, .group_size = group_size};
  p.in_features = p.out_features = side;
  p.qweight = gptq::matrix<std::int32_t>(gptq::word_count(side, bits), side);
  p.qzeros = gptq::matrix<std::int32_t>(groups, gptq::word_count(side, bits));
  p.scales = gptq::matrix<gptq::float16>(groups, side);
  for (index_t i = 0; i < p.qweight.size(); ++i) p.qweight.data()[i] = static_cast<std::int32_t>(random());
  for (index_t i = 0; i < p.qzeros.size(); ++i) p.qzeros.data()[i] = static_cast<std::int32_t>(random());
  for (index_t i = 0; i < p.scales.size(); ++i) p.scales.data()[i] = gptq::to_float16(0.01f);
  return p;
}

gptq::matrix<float> random_inputs(index_t rows, index_t cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  gptq::matrix<float> x(rows, cols);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = normal(random);
  return x;
}

/// Work on the next of several buffers each time, so that none comes from a cache.
class read_cycle {
  gptq::matrix<std::int32_t> data_;

 public:
  index_t const bytes = cycle_bytes();
  read_cycle() : data_(cycle_bytes() / 4, 1) { std::fill_n(data_.data(), data_.size(), 1); }
  index_t parts() const { return 1; }

  void next() {
    gptq::detail::parallel_pieces(bytes / 4, index_t{1} << 18, [&](index_t first, index_t count) {
      std::int32_t const* const from = data_.data() + first;
      std::int32_t sum = 0;
      for (index_t i = 0; i < count; ++i) sum += from[i];
      benchmark::DoNotOptimize(sum);
    });
  }
};

class packed_cycle {
  std::vector<gptq::packed_linear> layers_;
  gptq::matrix<float> x_, y_;
  std::size_t at_ = 0;

 public:
  index_t const bytes;
  packed_cycle(int bits, index_t tokens)
      : x_(random_inputs(tokens, side)), y_(tokens, side), bytes(packed_bytes(bits)) {
    std::mt19937 random(1);
    for (index_t left = cycle_bytes(); left > 0; left -= bytes) layers_.push_back(random_layer(bits, random));
  }
  index_t parts() const { return static_cast<index_t>(layers_.size()); }

  void next() {
    gptq::packed_view const layer = gptq::view(layers_[at_++ % layers_.size()]);
    gptq::detail::parallel_pieces(side, 1024, [&](index_t first, index_t count) {
      gptq::matmul(layer, first, x_, y_.view().col_range(first, count));
    });
    benchmark::DoNotOptimize(y_.data());
    benchmark::ClobberMemory();
  }
};

class dense_cycle {
  std::vector<gptq::matrix<float>> layers_;
  gptq::matrix<float> x_, y_;
  std::size_t at_ = 0;

 public:
  index_t const bytes = side * side * 4;
  explicit dense_cycle(index_t tokens) : x_(random_inputs(tokens, side)), y_(tokens, side) {
    for (index_t left = cycle_bytes(); left > 0; left -= bytes) {
      layers_.emplace_back(side, side);
      std::fill_n(layers_.back().data(), side * side, 0.01f);
    }
  }
  index_t parts() const { return static_cast<index_t>(layers_.size()); }

  void next() {
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    auto const& w = layers_[at_++ % layers_.size()];
    Eigen::Map<matrix const> const x(x_.data(), x_.rows(), side);
    gptq::detail::parallel_pieces(side, 1024, [&](index_t first, index_t count) {
      Eigen::Map<matrix const> const rows(w.row(first), count, side);
      if (x.rows() == 1) {
        Eigen::Map<Eigen::VectorXf>(y_.data() + first, count).noalias() = rows * x.row(0).transpose();
      } else {
        Eigen::Map<matrix, 0, Eigen::OuterStride<>>(y_.data() + first, x.rows(), count, Eigen::OuterStride<>(side))
            .noalias() = x * rows.transpose();
      }
    });
    benchmark::DoNotOptimize(y_.data());
    benchmark::ClobberMemory();
  }
};

template <class Cycle>
void run(benchmark::State& state, Cycle cycle) {
  for (auto _ : state) cycle.next();
  state.SetBytesProcessed(state.iterations() * cycle.bytes);
}

/// Seconds of one of the parts, over a whole round.
template <class Cycle>
double seconds_each(Cycle& cycle) {
  auto const start = std::chrono::steady_clock::now();
  for (index_t i = 0; i < cycle.parts(); ++i) cycle.next();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
         static_cast<double>(cycle.parts());
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

void compare(benchmark::State& state, int bits) {
  read_cycle read;
  packed_cycle packed(bits, 1);
  dense_cycle dense(1);
  std::vector<double> read_rate, packed_rate, of_read, times_dense;
  for (auto _ : state) {
    double const r = static_cast<double>(read.bytes) / seconds_each(read), p = seconds_each(packed),
                 d = seconds_each(dense);
    double const rate = static_cast<double>(packed.bytes) / p;
    read_rate.push_back(r);
    packed_rate.push_back(rate);
    of_read.push_back(rate / r);
    times_dense.push_back(d / p);
  }
  state.counters["read_GB/s"] = median(read_rate) / 1e9;
  state.counters["packed_GB/s"] = median(packed_rate) / 1e9;
  state.counters["of_read"] = median(of_read);
  state.counters["times_dense"] = median(times_dense);
}

}  // namespace

int main(int argc, char** argv) {
  auto const add = [](std::string const& name, auto&& f) {
    return benchmark::RegisterBenchmark(name.c_str(), f)->UseRealTime()->Unit(benchmark::kMicrosecond);
  };
  std::string const shape = "/4096x4096";
  add("matmul/read", [](benchmark::State& s) { run(s, read_cycle()); });
  for (index_t const tokens : {1, 8, 32}) {
    std::string const count = "/tokens:" + std::to_string(tokens);
    add("matmul/dense" + shape + count, [=](benchmark::State& s) { run(s, dense_cycle(tokens)); });
    for (int const bits : {4, 8, 3, 2})
      add("matmul/" + std::to_string(bits) + "bit" + shape + count,
          [=](benchmark::State& s) { run(s, packed_cycle(bits, tokens)); });
  }
  for (int const bits : {4, 8, 3, 2})
    add("matmul/compare/" + std::to_string(bits) + "bit" + shape, [=](benchmark::State& s) { compare(s, bits); })
        ->Iterations(7)
        ->Unit(benchmark::kMillisecond);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
