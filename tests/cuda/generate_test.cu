/// Products with packed layers on the device, and decoding with a cache.
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/random_linear.hpp"
#include "support/shared.hpp"
#include "support/tolerance.hpp"

#include <gptq/backend/cuda/forward.cuh>
#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/pack.hpp>
#include <gptq/run/generate.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

using gptq::index_t;
using backend = gptq::basic_cuda_model_backend<float>;

gptq::matrix<float> random_matrix(index_t rows, index_t cols) {
  std::mt19937 random(static_cast<unsigned>(rows + cols));
  std::normal_distribution<float> normal;
  gptq::matrix<float> m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

template <class T>
gptq::device_matrix<T> upload(backend& b, gptq::matrix<T> const& from) {
  auto to = b.make<T>(from.rows(), from.cols());
  b.upload(from.view(), to.view());
  return to;
}

/// Largest error against sums in double, in units of the sum of the magnitudes.
double product_error(gptq::packed_linear const& packed, index_t tokens, bool add) {
  backend b;
  auto const weight = gptq::dequantize(packed);
  auto const x = random_matrix(tokens, packed.in_features);
  auto const bias = random_matrix(1, packed.out_features);
  auto const before = random_matrix(tokens, packed.out_features);
  auto const layer = b.adopt_packed(gptq::view(packed));
  auto const dx = upload(b, x);
  auto const dbias = upload(b, bias);
  auto y = upload(b, before);
  if (add)
    b.add_linear(dx.view(), layer, dbias.view(), y.view());
  else
    b.linear(dx.view(), layer, dbias.view(), y.view());
  gptq::matrix<float> ours(y.rows(), y.cols());
  b.download(y, ours.view());
  double most = 0;
  for (index_t t = 0; t < ours.rows(); ++t)
    for (index_t n = 0; n < ours.cols(); ++n) {
      double sum = double(bias(0, n)) + (add ? double(before(t, n)) : 0), size = std::abs(sum);
      for (index_t k = 0; k < x.cols(); ++k) {
        sum += double(x(t, k)) * double(weight(n, k));
        size += std::abs(double(x(t, k)) * double(weight(n, k)));
      }
      double const e = std::abs(double(ours(t, n)) - sum) / size;
      if (!(e <= most)) most = e;
    }
  return most;
}

double distance(backend& b, gptq::device_view<float const> a, float const* expected, gptq::matrix<float>& ours) {
  ours = gptq::matrix<float>(1, a.cols);
  b.download(a, ours.view());
  double most = 0;
  for (index_t v = 0; v < a.cols; ++v) {
    double const d = std::abs(double(ours(0, v)) - double(expected[v]));
    if (!(d <= most)) most = d;
  }
  return most;
}

}  // namespace

TEST_CASE("cuda packed product: every width, zero point, group and number of tokens", "[component]") {
  for (int bits : {2, 3, 4, 8})
    for (auto [in, out] : {std::pair<index_t, index_t>{256, 96}, {172, 37}, {33, 5}, {100, 300}})
      for (int g : {-1, 16, 128})
        for (auto order : {gptq::column_order::natural, gptq::column_order::desc_act})
          for (auto format : {gptq::checkpoint_format::gptq, gptq::checkpoint_format::gptq_v2})
            for (index_t tokens : {1, 8, 19}) {
              CAPTURE(bits, in, out, g, static_cast<int>(order), static_cast<int>(format), tokens);
              gptq::quant_spec const spec{.bits = bits, .group_size = g, .sym = false, .order = order};
              auto const packed = gptq::pack(test::random_linear(in, out, spec, 1), format);
              CHECK(product_error(packed, tokens, tokens == 8) <
                    test::tolerance<float>::gram(static_cast<std::size_t>(in)));
            }
}

TEST_CASE("cuda generate: logits with a cache are the golden ones") {
  for (std::string const folder :
       {"models/bard-qwen2-1m", "models/web-qwen3-8m", "models/web-telechat2-9m", "models-tiny/gemma2",
        "models-tiny/mistral-sliding", "models-tiny/phi3", "models-tiny/phi3-longrope", "models-tiny/qwen2-yarn"}) {
    auto const path = test::shared_dir() / folder;
    if (!std::filesystem::exists(path)) {
      WARN("skipped, missing shared test data: " << path.string());
      continue;
    }
    CAPTURE(folder);
    test::golden const expected(path / "golden.safetensors");
    gptq::model_weights const weights(path);
    backend b;
    gptq::cached_model<backend> model(b, weights, 96, {.micro_batch = 16});
    auto const last = static_cast<index_t>(expected.positions.size()) - 1;
    gptq::matrix<float> ours;
    for (index_t s = 0; s < 2; ++s) {
      auto const ids = std::span<std::int32_t const>(expected.ids[static_cast<std::size_t>(s)]);
      model.clear();
      model.append(ids.first(50));
      for (std::size_t i = 50; i < 95; ++i) model.append(ids.subspan(i, 1));
      CHECK(distance(b, model.append(ids.subspan(95)), expected.logits.row(s * (last + 1) + last), ours) <=
            test::golden_bound);
    }
  }
}

TEST_CASE("cuda generate: packed layers give the tokens of the dequantized model") {
  for (std::string const folder :
       {"gptqmodel-w4g128", "gptqmodel-w4g32-desc-act", "gptqmodel-w2g64-asym-v2", "gptqmodel-w4g128-partial"}) {
    auto const path = test::shared_dir() / "fixtures" / folder;
    if (!std::filesystem::exists(path)) {
      WARN("skipped, missing shared test data: " << path.string());
      continue;
    }
    CAPTURE(folder);
    gptq::model_weights const weights(path);
    backend b;
    gptq::cached_model<backend> packed(b, weights, 56);
    gptq::cached_model<backend> dense(b, weights, 56, {.packed = gptq::packed_layers::dequantize});
    std::vector<std::int32_t> next = {41, 300, 7, 512, 90, 18, 222, 3};
    gptq::matrix<float> x, y(1, weights.config().vocabulary);
    for (int i = 0; i < 48; ++i) {
      b.download(dense.append(next), y.view());
      CHECK(distance(b, packed.append(next), y.data(), x) < 1e-3);
      auto const top = [](gptq::matrix<float> const& m) {
        return static_cast<std::int32_t>(std::max_element(m.data(), m.data() + m.size()) - m.data());
      };
      if (top(x) != top(y)) CHECK(y(0, top(y)) - y(0, top(x)) < 1e-3f);
      next = {top(y)};
    }
  }
}
