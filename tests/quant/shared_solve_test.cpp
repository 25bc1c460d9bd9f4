/// Solves that several workers share.
#include "support/catch.hpp"

#include <gptq/backend/host.hpp>
#include <gptq/comm/threads.hpp>
#include <gptq/quant/quantize.hpp>

#include <cstring>
#include <random>
#include <vector>

namespace {

using gptq::index_t;
using gptq::matrix;
using backend = gptq::host_backend;

constexpr index_t in = 64, token_count = 200;

matrix<float> normal_matrix(index_t rows, index_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  matrix<float> m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

/// A layer, its inputs, and those of a float model.
struct one_layer {
  explicit one_layer(index_t outputs)
      : weight(normal_matrix(outputs, in, 1)),
        x(normal_matrix(token_count, in, 2)),
        x_float(normal_matrix(token_count, in, 2)) {
    for (index_t i = 0; i < x.size(); ++i) x.data()[i] += 0.1f * weight.data()[i % weight.size()];
  }

  /// By one of several workers.
  template <class C>
  gptq::quantized_stack<backend> solve(C& c, gptq::solver_settings const& settings) const {
    backend b;
    gptq::hessian<backend> h(b, in);
    gptq::asymmetric_sums<backend> sums(b, in, 0, token_count);
    h.add(x);
    sums.add(x.view(), x_float.view());
    gptq::solve_problem<backend> const p{.weight = weight.view(), .hessian = &h, .asymmetric = &sums};
    return gptq::quantize_stack(b, c, p, settings);
  }

  matrix<float> weight, x, x_float;
};

template <class T>
bool same(matrix<T> const& a, matrix<T> const& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

bool same(gptq::quantized_stack<backend> const& a, gptq::quantized_stack<backend> const& b) {
  bool losses = a.losses.size() == b.losses.size();
  for (std::size_t n = 0; losses && n < a.losses.size(); ++n)
    losses = std::memcmp(&a.losses[n], &b.losses[n], sizeof(gptq::output_loss)) == 0;
  auto const &x = a.linear, &y = b.linear;
  return losses && same(x.codes, y.codes) && same(x.zeros, y.zeros) && same(x.scales, y.scales) && x.g_idx == y.g_idx &&
         x.report.rel_loss == y.report.rel_loss && x.report.float_loss == y.report.float_loss &&
         x.report.scale_underflows == y.report.scale_underflows && x.report.tokens == y.report.tokens;
}

}  // namespace

TEST_CASE("shared solve: every worker gets what one alone finds, bit for bit") {
  gptq::solver_settings plain{.spec = {.group_size = 32}, .options = {}, .asymmetric = {}};
  auto full = plain;
  full.options.reestimations = full.options.descent_passes = 1;
  full.asymmetric = {.target = 1, .residual = 0};
  for (auto const& settings : {plain, full})
    for (index_t const outputs : {40, 300, 700}) {  // fewer tiles than workers, or more
      one_layer const p(outputs);
      gptq::solo<> alone;
      auto const expected = p.solve(alone, settings);
      for (int const workers : {1, 2, 3, 4}) {
        CAPTURE(outputs, workers);
        std::vector<gptq::quantized_stack<backend>> found(static_cast<std::size_t>(workers));
        gptq::run_workers(
            workers, [&](gptq::thread_worker& c) { found[static_cast<std::size_t>(c.rank())] = p.solve(c, settings); });
        for (auto const& each : found) CHECK(same(each, expected));
      }
    }
}

TEST_CASE("shared solve: an output whose scale does not fit is named by its number in the stack") {
  one_layer p(300);
  p.weight(290, 40) = 1e30f;
  gptq::solver_settings const settings{.spec = {.group_size = 32}, .options = {}, .asymmetric = {}};
  try {
    gptq::run_workers(3, [&](gptq::thread_worker& c) { p.solve(c, settings); });
    FAIL("nothing was thrown");
  } catch (gptq::scale_error const& e) {
    CHECK(e.output == 290);
    CHECK(e.group == 1);
  }
}
