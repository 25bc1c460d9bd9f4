/// Every kernel once, on small and odd sizes: what tests/run_cuda.sh runs under compute-sanitizer.
#include "support/catch.hpp"

#include <gptq/backend/cuda/forward.cuh>
#include <gptq/gptq.hpp>

#include <cstdint>
#include <random>
#include <vector>

namespace {

using gptq::column_order;
using gptq::index_t;

template <class T>
gptq::device_matrix<T> noise(gptq::cuda_backend& b, index_t rows, index_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  gptq::matrix<T> m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = gptq::from_float<T>(normal(random));
  auto d = b.make<T>(rows, cols);
  b.upload(m.view(), d.view());
  return d;
}

template <class T>
bool finite(gptq::cuda_backend& b, gptq::device_matrix<T> const& m) {
  return b.all_finite(gptq::device_view<T const>(m));
}

/// Hessian, factor and solve; weights in the type T.
template <class T>
gptq::device_linear solve(gptq::cuda_backend& b, index_t out, index_t in, index_t tokens, gptq::quant_spec const& spec,
                          float mse) {
  gptq::hessian h(b, in);
  h.add(noise<float>(b, tokens, in, 1));
  h.add(noise<float>(b, 1, in, 2));
  auto const w = noise<T>(b, out, in, 3);
  auto solved = gptq::quantize_stack(b, w.view(), h, spec, {.grid = {.mse = mse}});
  CHECK(solved.linear.report.rel_loss >= 0);
  return std::move(solved.linear);
}

}  // namespace

TEMPLATE_TEST_CASE("cuda components: Hessian, factor, solve in every width", "[component]", float, gptq::float16,
                   gptq::bfloat16) {
  gptq::cuda_backend b;
  for (int bits : {2, 3, 4, 8})
    for (bool sym : {true, false}) {
      auto const q = solve<TestType>(b, 33, 172, 300, {.bits = bits, .group_size = -1, .sym = sym}, 0);
      CHECK(finite(b, q.scales));
    }
  using spec = gptq::quant_spec;
  solve<TestType>(b, 33, 172, 40, spec{.bits = 4, .group_size = 32}, 2.4f);
  solve<TestType>(b, 7, 300, 400, spec{.bits = 4, .group_size = 128, .order = column_order::group_aware}, 2.4f);
  solve<TestType>(b, 40, 320, 400, spec{.bits = 3, .group_size = 256, .sym = false, .order = column_order::desc_act},
                  0);
  solve<TestType>(b, 1, 64, 100,
                  spec{.bits = 4, .group_size = 16, .order = column_order::desc_act, .static_groups = true}, 0);
}

TEMPLATE_TEST_CASE("cuda components: Gram matrices of 16-bit inputs", "[component]", gptq::float16, gptq::bfloat16) {
  gptq::cuda_backend b;
  for (index_t const in : {172, 256}) {
    gptq::hessian h(b, in);
    h.add(noise<TestType>(b, 300, in, 1));
    h.add(noise<TestType>(b, 1, in, 2));
    CHECK(gptq::factorize(b, h, gptq::quant_spec{.group_size = -1}, gptq::quantize_options{}).factored());
  }
}

TEST_CASE("cuda components: the inverse of the factor", "[component]") {
  gptq::cuda_backend b;
  gptq::hessian h(b, 172);
  h.add(noise<float>(b, 300, 172, 5));
  auto const f = gptq::factorize(b, h, gptq::quant_spec{}, gptq::quantize_options{});
  CHECK(finite(b, gptq::cholesky_inverse(b, f)));
  auto const wide = gptq::factorize(b, h, gptq::quant_spec{}, gptq::quantize_options{}, gptq::precision::fp64);
  CHECK(wide.report.factor_fp64);
  CHECK(finite(b, wide.propagation));
}

TEST_CASE("cuda components: pack, unpack, dequantize", "[component]") {
  gptq::cuda_backend b;
  for (int bits : {2, 3, 4, 8}) {
    auto const q = solve<float>(b, 64, 192, 300, {.bits = bits, .group_size = 64}, 0);
    auto const back = gptq::unpack(b, gptq::pack(b, q, gptq::checkpoint_format::gptq));
    CHECK(finite(b, gptq::dequantize<gptq::bfloat16>(b, back)));
    gptq::matrix<std::uint8_t> codes(192, 64), again(192, 64);
    b.download(q.codes, codes.view());
    b.download(back.codes, again.view());
    CHECK(std::equal(codes.data(), codes.data() + codes.size(), again.data()));
  }
}

TEMPLATE_TEST_CASE("cuda components: the operations of a decoder", "[component]", float, gptq::bfloat16) {
  gptq::basic_cuda_model_backend<TestType> b;
  index_t const tokens = 45;
  gptq::matrix<std::int32_t> some(1, tokens);
  for (index_t i = 0; i < tokens; ++i) some(0, i) = static_cast<std::int32_t>(i % 19);
  auto const ids = b.template adopt<std::int32_t>(std::move(some));
  auto const table = noise<TestType>(b, 19, 96, 1);
  auto h = b.template make<TestType>(tokens, 96);
  b.embed(ids, table, 2.0f, h);
  b.rms_norm(h, noise<TestType>(b, 1, 96, 2), 1e-6f, true, h);
  auto fused = b.template make<TestType>(tokens, 192);
  b.linear(h, noise<TestType>(b, 192, 96, 3), noise<TestType>(b, 1, 192, 4), fused);
  gptq::attention_shape const shape{.heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = 24,
                                    .query = {0, 24},
                                    .key = {96, 24},
                                    .value = {144, 24},
                                    .scale = 0.2f,
                                    .window = 9};
  b.rotate(fused, shape.query, 4, noise<float>(b, 19, 12, 5), noise<float>(b, 19, 12, 6), ids);
  auto context = b.template make<TestType>(tokens, 96);
  std::vector<index_t> const bounds{0, 1, 18, 45};
  b.attention(fused, fused, fused, {bounds, bounds}, shape, context);
  b.add_linear(context, noise<TestType>(b, 96, 96, 7), {}, h);
  b.gated_activation(gptq::activation_function::silu, h, context, h);
  b.add(gptq::device_view<TestType const>(context), h.view());
  CHECK(finite(b, h));
  auto const logits = noise<TestType>(b, tokens, 301, 8);
  std::vector<double> nll(tokens), kl(tokens);
  std::vector<std::uint8_t> same(tokens);
  b.cross_entropy(logits, ids, nll);
  b.divergence(logits, logits, kl, same);
  for (std::size_t t = 0; t < nll.size(); ++t) {
    CHECK(nll[t] > 0);
    CHECK(std::abs(kl[t]) < 1e-12);
    CHECK(same[t] == 1);
  }
}
