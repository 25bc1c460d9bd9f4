// Every unit has to give right results with its own code, beside units of other flags in the same program.
#include "unit.hpp"

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace {

using gptq::index_t;
using gptq::matrix;

matrix<float> random_matrix(index_t rows, index_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  matrix<float> m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

/// x · wᵀ in double.
std::vector<double> product(matrix<float> const& x, matrix<float> const& w) {
  std::vector<double> y;
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t n = 0; n < w.rows(); ++n) {
      double sum = 0;
      for (index_t k = 0; k < x.cols(); ++k) sum += double(x(t, k)) * double(w(n, k));
      y.push_back(sum);
    }
  return y;
}

double relative_error(matrix<float> const& y, std::vector<double> const& right) {
  double difference = 0, norm = 0;
  for (index_t i = 0; i < y.size(); ++i) {
    double const want = right[static_cast<std::size_t>(i)];
    difference += std::pow(double(y.data()[i]) - want, 2);
    norm += want * want;
  }
  return std::sqrt(difference / norm);
}

int failures = 0;
void check(bool good, char const* unit, char const* what) {
  if (good) return;
  std::printf("%s: %s\n", unit, what);
  ++failures;
}

void try_unit(char const* name, bool runs, test::unit& unit, matrix<float> const& weight, matrix<float> const& inputs,
              double& least_loss) {
  if (!runs) {
    std::printf("%s: not on this processor\n", name);
    return;
  }
  auto const r = unit(weight, inputs);
  check(r.openmp ? r.threads > 1 : r.threads == 1, name, "runs with threads of another unit's flags");
  check(r.whole_numbers == r.linked_whole_numbers, name, "has the vector path of another unit's flags");

  auto const right = product(inputs, r.weight), original = product(inputs, weight);
  check(relative_error(r.product, right) < 1e-5, name, "the product of matrices is wrong");
  check(relative_error(r.packed_product, right) < 1e-5, name, "the product from packed codes is wrong");
  double loss = 0, norm = 0;
  for (std::size_t i = 0; i < right.size(); ++i) {
    loss += std::pow(right[i] - original[i], 2);
    norm += original[i] * original[i];
  }
  check(std::abs(loss / norm / r.loss - 1) < 1e-2, name, "the loss is not what the report says");
  if (least_loss == 0) least_loss = r.loss;
  check(std::abs(r.loss / least_loss - 1) < 1e-2, name, "the loss is not that of the other units");
}

}  // namespace

int main() {
  auto const weight = random_matrix(192, 256, 1), inputs = random_matrix(320, 256, 2);
  double least_loss = 0;
#define GPTQ_TRY(name, runs) try_unit(#name, runs, name::run, weight, inputs, least_loss)
  GPTQ_TRY(baseline_serial, true);
  GPTQ_TRY(baseline_openmp, true);
#if defined(GPTQ_TEST_X86)
  GPTQ_TRY(avx2_openmp, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
  bool const avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  GPTQ_TRY(avx512_serial, avx512);
  GPTQ_TRY(avx512vnni_openmp, avx512 && __builtin_cpu_supports("avx512vnni"));
#endif
  return failures ? 1 : 0;
}
