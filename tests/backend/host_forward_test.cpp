#include <gptq/backend/host/forward.hpp>

#include "support/catch.hpp"

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

using gptq::attention_shape;
using gptq::index_t;
using gptq::matrix;
using gptq::matrix_view;

static_assert(gptq::evaluation_backend<gptq::host_forward>);
static_assert(gptq::evaluation_backend<gptq::basic_host_forward<double>>);

namespace {

constexpr double epsilon = 1.2e-7;  // of float

matrix<float> random_matrix(index_t rows, index_t cols, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  matrix<float> m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

matrix<float> copy_of(matrix<float> const& m) {
  matrix<float> c(m.rows(), m.cols());
  std::copy(m.data(), m.data() + m.size(), c.data());
  return c;
}

double max_difference(matrix_view<float const> a, matrix_view<float const> b) {
  REQUIRE(a.rows == b.rows);
  REQUIRE(a.cols == b.cols);
  double most = 0;
  for (index_t r = 0; r < a.rows; ++r)
    for (index_t c = 0; c < a.cols; ++c) {
      double const d = std::abs(double(a(r, c)) - double(b(r, c)));
      if (!(d <= most)) most = d;  // NaN wins
    }
  return most;
}

matrix<std::int32_t> row_of(std::vector<std::int32_t> const& values) {
  matrix<std::int32_t> m(1, static_cast<index_t>(values.size()));
  std::copy(values.begin(), values.end(), m.data());
  return m;
}

/// The definition, in double, one score after the other.
matrix<float> plain_attention(matrix_view<float const> q, matrix_view<float const> k, matrix_view<float const> v,
                              gptq::sequence_bounds bounds, attention_shape const& s) {
  matrix<float> out(q.rows, s.heads * s.head_dim);
  for (std::size_t n = 0; n + 1 < bounds.queries.size(); ++n) {
    index_t const queries = bounds.queries[n + 1] - bounds.queries[n];
    index_t const keys = bounds.keys[n + 1] - bounds.keys[n];
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t i = 0; i < queries; ++i) {
        index_t const kv = h / (s.heads / s.kv_heads);
        index_t const row = bounds.queries[n] + i;
        index_t const position = keys - queries + i;
        std::vector<double> weight(static_cast<std::size_t>(keys), 0);
        double sum = 0;
        for (index_t j = 0; j <= position; ++j) {
          if (s.window > 0 && position - j >= s.window) continue;
          double score = 0;
          for (index_t d = 0; d < s.head_dim; ++d)
            score += double(q(row, s.query.first + h * s.query.stride + d)) *
                     double(k(bounds.keys[n] + j, s.key.first + kv * s.key.stride + d));
          score *= double(s.scale);
          if (s.softcap > 0) score = double(s.softcap) * std::tanh(score / double(s.softcap));
          weight[static_cast<std::size_t>(j)] = std::exp(score);
          sum += weight[static_cast<std::size_t>(j)];
        }
        for (index_t d = 0; d < s.head_dim; ++d) {
          double value = 0;
          for (index_t j = 0; j < keys; ++j)
            value += weight[static_cast<std::size_t>(j)] / sum *
                     double(v(bounds.keys[n] + j, s.value.first + kv * s.value.stride + d));
          out(row, h * s.head_dim + d) = float(value);
        }
      }
  }
  return out;
}

/// q, k and v side by side in one matrix, heads in order.
attention_shape fused_shape(index_t heads, index_t kv_heads, index_t dim) {
  return {.heads = heads,
          .kv_heads = kv_heads,
          .head_dim = dim,
          .query = {0, dim},
          .key = {heads * dim, dim},
          .value = {(heads + kv_heads) * dim, dim},
          .scale = 1 / std::sqrt(float(dim))};
}

}  // namespace

TEST_CASE("host forward: linear is x times the transposed weight, plus the bias") {
  gptq::host_forward b;
  index_t const rows = GENERATE(index_t(0), index_t(1), index_t(5), index_t(300));
  index_t const in = 37;
  index_t const out = 19;
  auto const x = random_matrix(rows, in + 3, 1);
  auto const w = random_matrix(out, in, 2);
  auto const bias = random_matrix(1, out, 3);
  auto const before = random_matrix(rows, out + 2, 4);
  bool const with_bias = GENERATE(false, true);
  bool const add = GENERATE(false, true);

  auto y = copy_of(before);
  auto const inputs = x.view().col_range(2, in);
  matrix_view<float const> const b_view = with_bias ? bias.view() : matrix_view<float const>();
  if (add)
    b.add_linear(inputs, w, b_view, y.view().col_range(1, out));
  else
    b.linear(inputs, w, b_view, y.view().col_range(1, out));

  auto expected = copy_of(before);
  for (index_t t = 0; t < rows; ++t)
    for (index_t n = 0; n < out; ++n) {
      double sum = (add ? double(before(t, n + 1)) : 0) + (with_bias ? double(bias(0, n)) : 0);
      for (index_t k = 0; k < in; ++k) sum += double(x(t, k + 2)) * double(w(n, k));
      expected(t, n + 1) = float(sum);
    }
  CHECK(max_difference(y, expected) <= 40 * epsilon * std::sqrt(double(in)));  // and the columns beside are untouched
}

TEST_CASE("host forward: embed takes scaled rows of the table") {
  gptq::host_forward b;
  auto const table = random_matrix(11, 8, 5);
  auto const ids = row_of({10, 0, 3, 3});
  matrix<float> y(4, 8);
  b.embed(ids, table, 2.0f, y);
  for (index_t t = 0; t < 4; ++t)
    for (index_t c = 0; c < 8; ++c) CHECK(y(t, c) == 2 * table(ids(0, t), c));
}

TEST_CASE("host forward: rms_norm divides by the root of the mean square") {
  gptq::host_forward b;
  index_t const width = GENERATE(index_t(16), index_t(300));
  bool const unit_offset = GENERATE(false, true);
  auto const x = random_matrix(40, width + 7, 6);
  auto const weight = random_matrix(1, width, 7);
  auto y = copy_of(x);
  auto const part = y.view().col_range(3, width);  // in place and strided, as for the heads of a fused projection
  b.rms_norm(part, weight, 0.5f, unit_offset, part);
  auto expected = copy_of(x);
  for (index_t t = 0; t < 40; ++t) {
    double squares = 0;
    for (index_t c = 0; c < width; ++c) squares += double(x(t, c + 3)) * double(x(t, c + 3));
    for (index_t c = 0; c < width; ++c)
      expected(t, c + 3) = float(double(x(t, c + 3)) / std::sqrt(squares / double(width) + 0.5) *
                                 (double(weight(0, c)) + (unit_offset ? 1 : 0)));
  }
  CHECK(max_difference(y, expected) <= 20 * epsilon);
}

TEST_CASE("host forward: rotate turns the halves of a head by the angle of the position") {
  gptq::host_forward b;
  // One pair per head of 3 features, the last one not rotated; position 1 turns by 90 degrees, position 2 by 180.
  matrix<float> cosines(3, 1);
  matrix<float> sines(3, 1);
  float const c[] = {1, 0, -1};
  float const s[] = {0, 1, 0};
  std::copy(c, c + 3, cosines.data());
  std::copy(s, s + 3, sines.data());
  matrix<float> x(3, 10);
  for (index_t i = 0; i < 30; ++i) x.data()[i] = float(i % 10);
  b.rotate(x, {1, 5}, 2, cosines, sines, row_of({2, 0, 1}));
  float const expected[3][10] = {
      {0, -1, -2, 3, 4, 5, -6, -7, 8, 9}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {0, -2, 1, 3, 4, 5, -7, 6, 8, 9}};
  for (index_t t = 0; t < 3; ++t)
    for (index_t i = 0; i < 10; ++i) CHECK(x(t, i) == expected[t][i]);
}

TEST_CASE("host forward: attention equals its definition") {
  gptq::host_forward b;
  attention_shape shape = fused_shape(6, 2, 16);
  std::vector<index_t> bounds = {0, 1, 150, 150, 214};  // one token, more than two tiles, nothing, exactly one tile
  SECTION("causal, grouped heads, fused projections") {}
  SECTION("soft cap") { shape.softcap = 1.5f; }
  SECTION("sliding window inside a tile") { shape.window = 5; }
  SECTION("sliding window over tiles") { shape.window = 70; }
  SECTION("window of one") { shape.window = 1; }
  SECTION("key and value interleaved per head") {
    shape.key = {96, 32};
    shape.value = {112, 32};
  }
  SECTION("no tokens") { bounds = {0}; }
  auto const x = random_matrix(bounds.back(), 160, 8);
  matrix<float> y(bounds.back(), 96);
  b.attention(x, x, x, {bounds, bounds}, shape, y);
  CHECK(max_difference(y, plain_attention(x, x, x, {bounds, bounds}, shape)) <= 30 * epsilon);
}

TEST_CASE("host forward: with earlier keys the last query stands at the last key") {
  gptq::host_forward b;
  attention_shape shape = fused_shape(2, 1, 8);
  shape.window = GENERATE(index_t(0), index_t(9));
  std::vector<index_t> const queries = {0, 1, 4};
  std::vector<index_t> const keys = {0, 100, 140};
  auto const q = random_matrix(4, 32, 9);
  auto const kv = random_matrix(140, 32, 10);
  matrix<float> y(4, 16);
  b.attention(q, kv, kv, {queries, keys}, shape, y);
  CHECK(max_difference(y, plain_attention(q, kv, kv, {queries, keys}, shape)) <= 30 * epsilon);
}

TEST_CASE("host forward: attention survives large scores and does not see later tokens") {
  gptq::host_forward b;
  attention_shape const shape = fused_shape(1, 1, 8);
  std::vector<index_t> const bounds = {0, 90};
  auto const x = random_matrix(90, 24, 11, 100);  // scores of some 1e4
  matrix<float> y(90, 8);
  b.attention(x, x, x, {bounds, bounds}, shape, y);
  CHECK(max_difference(y, y) == 0);  // no NaN
  auto other = copy_of(x);
  for (index_t t = 40; t < 90; ++t)
    for (index_t c = 0; c < 24; ++c) other(t, c) = -3 * x(t, c);
  matrix<float> z(90, 8);
  b.attention(other, other, other, {bounds, bounds}, shape, z);
  CHECK(max_difference(y.view().row_range(0, 40), z.view().row_range(0, 40)) == 0);
  CHECK(max_difference(y.view().row_range(40, 50), z.view().row_range(40, 50)) > 1);
}

TEST_CASE("host forward: gated activations equal their formulas") {
  gptq::host_forward b;
  using gptq::activation_function;
  auto const f = GENERATE(activation_function::silu, activation_function::gelu_tanh, activation_function::gelu_erf);
  auto gate = random_matrix(33, 50, 12, 3);
  gate(0, 0) = -200;
  gate(0, 1) = 200;
  gate(0, 2) = 0;
  auto const up = random_matrix(33, 50, 13);
  matrix<float> expected(33, 50);
  for (index_t i = 0; i < gate.size(); ++i) {
    double const g = double(gate.data()[i]);
    double const a = f == activation_function::silu ? g / (1 + std::exp(-g))
                     : f == activation_function::gelu_tanh
                         ? 0.5 * g * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (g + 0.044715 * g * g * g)))
                         : 0.5 * g * (1 + std::erf(g / std::sqrt(2.0)));
    expected.data()[i] = float(a * double(up.data()[i]));
  }
  matrix<float> y(33, 50);
  b.gated_activation(f, gate, up, y);
  CHECK(max_difference(y, expected) <= 200 * 2 * epsilon);
  b.gated_activation(f, gate, up, gate);
  CHECK(max_difference(y, gate) == 0);
}

TEST_CASE("host forward: cross entropy and divergence equal their definitions") {
  gptq::host_forward b;
  index_t const vocabulary = 700;
  float const scale = GENERATE(0.5f, 20.0f, 5000.0f);
  auto const p = random_matrix(20, vocabulary, 14, scale);
  auto q = random_matrix(20, vocabulary, 15, 1e-3f * scale);
  for (index_t i = 0; i < q.size(); ++i) q.data()[i] += p.data()[i];
  auto const targets = row_of({0, 699, 3, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4});
  std::vector<double> nll(20);
  std::vector<double> kl(20);
  std::vector<std::uint8_t> same(20);
  b.cross_entropy(p, targets, nll);
  b.divergence(p, q, kl, same);
  auto const log_softmax = [&](matrix<float> const& logits, index_t t) {
    std::vector<long double> out(static_cast<std::size_t>(vocabulary));
    float const* const row = logits.row(t);
    long double const top = *std::max_element(row, row + vocabulary);
    long double sum = 0;
    for (index_t c = 0; c < vocabulary; ++c) sum += std::exp((long double)(row[c]) - top);
    for (index_t c = 0; c < vocabulary; ++c)
      out[static_cast<std::size_t>(c)] = (long double)(row[c]) - top - std::log(sum);
    return out;
  };
  for (index_t t = 0; t < 20; ++t) {
    auto const n = static_cast<std::size_t>(t);
    auto const a = log_softmax(p, t);
    auto const c = log_softmax(q, t);
    long double divergence = 0;
    for (std::size_t i = 0; i < a.size(); ++i) divergence += std::exp(a[i]) * (a[i] - c[i]);
    double const tolerance = 1e-13 * (1 + double(scale));
    CHECK_THAT(nll[n], Catch::Matchers::WithinAbs(double(-a[static_cast<std::size_t>(targets(0, t))]), tolerance * 10));
    CHECK_THAT(kl[n], Catch::Matchers::WithinAbs(double(divergence), tolerance * 10));
    bool const agree =
        std::max_element(a.begin(), a.end()) - a.begin() == std::max_element(c.begin(), c.end()) - c.begin();
    CHECK(bool(same[n]) == agree);
  }
  b.divergence(p, p, kl, same);
  for (double const d : kl) CHECK(d == 0);
}
