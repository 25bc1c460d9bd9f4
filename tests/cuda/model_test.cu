/// Decoders on the device: golden logits, and attention against plain loops.
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/shared.hpp"

#include <gptq/backend/cuda/forward.cuh>
#include <gptq/run/evaluate.hpp>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace {

using gptq::bfloat16;
using gptq::float16;
using gptq::index_t;
using test::golden;

/// max |difference| from the golden logits.
template <class T>
double golden_error(std::filesystem::path const& folder, float eps_factor = 1) {
  using backend = gptq::basic_cuda_model_backend<T>;
  golden const expected(folder / "golden.safetensors");
  auto config = gptq::read_model_config(folder);
  config.norm_eps *= eps_factor;
  gptq::model_weights const weights(folder, config);
  backend b;
  auto const embedding = b.template adopt<T>(weights.embedding());
  gptq::activations<backend> stream(b, weights.config(), weights.layers(), expected.ids, embedding);
  for (index_t i = 0; i < weights.config().blocks; ++i) stream.run(gptq::load_layer(b, weights, i));
  gptq::lm_head<backend> head(b, weights);
  auto const logits = head.logits(stream.hidden_states());
  gptq::matrix<T> ours(logits.rows, logits.cols);
  b.download(logits, ours.view());
  double most = 0;
  index_t row = 0;
  for (std::size_t s = 0; s < expected.ids.size(); ++s)
    for (std::int32_t p : expected.positions) {
      for (index_t v = 0; v < logits.cols; ++v) {
        double const x =
            static_cast<double>(gptq::to_float(ours(static_cast<index_t>(s * expected.ids[s].size()) + p, v)));
        double const d = std::abs(x - static_cast<double>(expected.logits(row, v)));
        if (!(d <= most)) most = d;
      }
      ++row;
    }
  return most;
}

template <class T>
gptq::device_matrix<T> random_on_device(gptq::cuda_backend& b, gptq::matrix<float>& host, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  gptq::matrix<T> narrow(host.rows(), host.cols());
  for (index_t i = 0; i < host.size(); ++i) {
    narrow.data()[i] = gptq::from_float<T>(normal(random));
    host.data()[i] = gptq::to_float(narrow.data()[i]);
  }
  auto d = b.make<T>(host.rows(), host.cols());
  b.upload(narrow.view(), d.view());
  return d;
}

/// Attention by plain loops in double.
gptq::matrix<float> plain_attention(gptq::matrix<float> const& q, gptq::matrix<float> const& k,
                                    gptq::matrix<float> const& v, std::vector<index_t> const& queries,
                                    std::vector<index_t> const& keys, gptq::attention_shape const& s) {
  gptq::matrix<float> y(q.rows(), s.heads * s.head_dim);
  for (std::size_t i = 0; i + 1 < queries.size(); ++i)
    for (index_t t = queries[i]; t < queries[i + 1]; ++t)
      for (index_t h = 0; h < s.heads; ++h) {
        index_t const kv = h / (s.heads / s.kv_heads);
        index_t const last = keys[i + 1] - (queries[i + 1] - t);
        index_t const first = s.window > 0 ? (std::max)(keys[i], last - s.window + 1) : keys[i];
        std::vector<double> score;
        double top = -1e300, sum = 0;
        for (index_t j = first; j <= last; ++j) {
          double x = 0;
          for (index_t d = 0; d < s.head_dim; ++d)
            x += double(q(t, s.query.first + h * s.query.stride + d)) *
                 double(k(j, s.key.first + kv * s.key.stride + d));
          x *= double(s.scale);
          if (s.softcap > 0) x = double(s.softcap) * std::tanh(x / double(s.softcap));
          score.push_back(x);
          top = (std::max)(top, x);
        }
        for (double& x : score) sum += x = std::exp(x - top);
        for (index_t d = 0; d < s.head_dim; ++d) {
          double x = 0;
          for (index_t j = first; j <= last; ++j)
            x += score[std::size_t(j - first)] / sum * double(v(j, s.value.first + kv * s.value.stride + d));
          y(t, h * s.head_dim + d) = float(x);
        }
      }
  return y;
}

template <class T>
double attention_error(gptq::attention_shape const& s, index_t cols, std::vector<index_t> const& queries,
                       std::vector<index_t> const& keys) {
  gptq::basic_cuda_model_backend<T> b;
  gptq::matrix<float> q(queries.back(), cols), k(keys.back(), cols), v(keys.back(), cols);
  auto const dq = random_on_device<T>(b, q, 1);
  auto const dk = random_on_device<T>(b, k, 2);
  auto const dv = random_on_device<T>(b, v, 3);
  auto y = b.template make<T>(queries.back(), s.heads * s.head_dim);
  b.attention(dq, dk, dv, {queries, keys}, s, y);
  gptq::matrix<T> ours(y.rows(), y.cols());
  b.download(y, ours.view());
  auto const expected = plain_attention(q, k, v, queries, keys, s);
  double difference = 0, norm = 0;
  for (index_t i = 0; i < ours.size(); ++i) {
    double const e = double(expected.data()[i]);
    difference += std::pow(double(gptq::to_float(ours.data()[i])) - e, 2);
    norm += e * e;
  }
  return std::sqrt(difference / norm);
}

}  // namespace

TEST_CASE("cuda model: golden logits of the bundled model") {
  auto const folder = test::bundled_model();
  CHECK(golden_error<float>(folder) <= test::golden_bound);
  CHECK(golden_error<float>(folder, 10) > test::golden_bound);
  CHECK(golden_error<float16>(folder) <= test::golden_bound_float16);
  CHECK(golden_error<bfloat16>(folder) <= test::golden_bound_bfloat16);
}

TEST_CASE("cuda model: golden logits of other families") {
  for (std::string const folder :
       {"models-tiny/llama-linear-rope", "models-tiny/mistral-sliding", "models/web-qwen2-22m", "models/web-qwen3-8m",
        "models/web-telechat2-9m", "models/tinystories-656k-llama", "models-tiny/gemma2", "models-tiny/phi3",
        "models-tiny/phi3-longrope", "models-tiny/qwen2-yarn"}) {
    auto const path = test::shared_dir() / folder;
    if (!std::filesystem::exists(path)) {
      if (test::shared_data_required()) FAIL_CHECK("missing shared test data: " << path.string());
      WARN("skipped, missing shared test data: " << path.string());
      continue;
    }
    CAPTURE(folder);
    CHECK(golden_error<float>(path) <= test::golden_bound);
    // The bound is of trained models. Random weights differ more: transformers' own bfloat16 is .19 to .59 off there.
    bool const random_weights = folder.starts_with("models-tiny");
    CHECK(golden_error<bfloat16>(path) <= (random_weights ? 2 : 1) * test::golden_bound_bfloat16);
  }
}

TEST_CASE("cuda attention: shared heads, windows, soft caps, earlier keys, samples of any length") {
  using shape = gptq::attention_shape;
  std::vector<index_t> const uneven{0, 1, 38, 38, 200, 331};
  std::vector<index_t> const even{0, 150, 300, 450};
  shape const plain{
      .heads = 4, .kv_heads = 2, .head_dim = 32, .query = {0, 32}, .key = {128, 32}, .value = {192, 32}, .scale = 0.2f};
  shape window = plain, cap = plain, interleaved = plain;
  window.window = 17;
  cap.softcap = 3;
  interleaved.key = {8, 64};
  interleaved.value = {40, 64};
  interleaved.query = {64, 40};
  for (auto const& s : {plain, window, cap, interleaved})
    for (auto const& bounds : {uneven, even}) {
      CHECK(attention_error<float>(s, 256, bounds, bounds) < 1e-5);
      CHECK(attention_error<bfloat16>(s, 256, bounds, bounds) < 1e-2);
      CHECK(attention_error<float16>(s, 256, bounds, bounds) < 2e-3);
    }
  for (index_t const dim : {8, 64, 72, 128, 136}) {  // the last does not fit the fused kernel
    shape wide{
        .heads = 2, .kv_heads = 1, .head_dim = dim, .query = {0, dim}, .key = {2 * dim, dim}, .value = {3 * dim, dim}};
    wide.scale = 0.1f;
    for (index_t const w : {0, 70}) {
      wide.window = w;
      CHECK(attention_error<bfloat16>(wide, 4 * dim, uneven, uneven) < 1e-2);
      CHECK(attention_error<float16>(wide, 4 * dim, even, even) < 2e-3);
    }
  }
  CHECK(attention_error<bfloat16>(plain, 256, {0, 3, 200}, {0, 20, 330}) < 1e-2);
  CHECK(attention_error<bfloat16>(window, 256, {0, 3, 200}, {0, 20, 330}) < 1e-2);
  CHECK(attention_error<float>(plain, 256, {0, 3, 10}, {0, 20, 30}) < 1e-5);
  CHECK(attention_error<float>(window, 256, {0, 3, 10}, {0, 20, 30}) < 1e-5);
}
