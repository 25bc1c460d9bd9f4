// Quantizes one linear layer: calibration inputs and weights in, the tensors of a GPTQ checkpoint out.
#include <gptq/backend/host.hpp>
#include <gptq/gptq.hpp>

#include <cstdio>
#include <random>
#include <vector>

namespace {

gptq::matrix<float> random_matrix(gptq::index_t rows, gptq::index_t cols, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  gptq::matrix<float> m(rows, cols);
  for (gptq::index_t i = 0; i < m.size(); ++i) m.data()[i] = normal(engine);
  return m;
}

}  // namespace

int main() {
  gptq::index_t const in_features = 256;
  auto const weight = random_matrix(64, in_features, 1);  // [out × in]
  std::vector<gptq::matrix<float>> batches;               // each [tokens × in]: what the layer sees in your model
  for (unsigned i = 0; i < 4; ++i) batches.push_back(random_matrix(128, in_features, 2 + i));

  // [snippet
  gptq::host_backend backend;
  gptq::hessian hessian{backend, in_features};
  for (auto const& x : batches) hessian.add(x);  // x: [tokens × in_features]

  constexpr gptq::quant_spec spec{.bits = 4, .group_size = 128, .order = gptq::column_order::group_aware};
  auto const linear = gptq::quantize<spec>(backend, weight, hessian);     // weight: [out × in_features]
  auto const packed = gptq::pack(linear, gptq::checkpoint_format::gptq);  // qweight, qzeros, scales, g_idx

  auto const& report = linear.report;
  std::printf("%s: relative loss %.5f, rounding to nearest %.5f\n", to_string(report.status), report.rel_loss,
              report.rel_loss_rtn);
  // ]snippet

  auto const stored = gptq::dequantize(packed);
  return report.rel_loss < report.rel_loss_rtn && stored.rows() == weight.rows() ? 0 : 1;
}
