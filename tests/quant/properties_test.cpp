/// What must hold whatever the numbers are.
#include "support/backend_under_test.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"
#include "support/tolerance.hpp"

#include <cstring>

namespace {

using backend = test::backend;
using gptq::index_t;

struct solved {
  gptq::matrix<std::uint8_t> codes;
  gptq::matrix<float> scales;
  gptq::linear_report report;
};

solved solve(gptq::matrix<float> const& weight, gptq::matrix<float> const& inputs, gptq::quant_spec const& spec,
             gptq::quantize_options const& options = {}) {
  backend b;
  gptq::hessian<backend> h(b, inputs.cols());
  h.add(test::to_backend(b, inputs));
  auto const w = test::to_backend(b, weight);
  gptq::view_of<backend, float const> const view = w;
  auto const q = gptq::quantize_stack(b, view, h, spec, options).linear;
  return {test::to_host<std::uint8_t>(b, q.codes), test::to_host<float>(b, q.scales), q.report};
}

bool same(gptq::matrix<std::uint8_t> const& a, gptq::matrix<std::uint8_t> const& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size())) == 0;
}

/// Inputs whose Gram matrix is exactly diagonal: one non-zero a token.
gptq::matrix<float> uncorrelated(index_t in, float (*strength)(index_t)) {
  gptq::matrix<float> x(in, in);
  std::fill_n(x.data(), x.size(), 0.0f);
  for (index_t i = 0; i < in; ++i) x(i, i) = strength(i);
  return x;
}

}  // namespace

TEST_CASE("properties: the loss is at most that of rounding to nearest") {
  for (unsigned seed : {1u, 2u, 3u}) {
    auto const l = test::make_layer(32, 256, 900, seed);
    for (int bits : {2, 3, 4, 8})
      for (auto order : {gptq::column_order::natural, gptq::column_order::desc_act, gptq::column_order::group_aware}) {
        auto const r = solve(l.w, l.x, {.bits = bits, .group_size = 64, .order = order}).report;
        CAPTURE(seed, bits, static_cast<int>(order), r.rel_loss, r.rel_loss_rtn);
        CHECK(r.rel_loss < r.rel_loss_rtn);
        CHECK(r.rel_loss > 0);
      }
  }
}

TEST_CASE("properties: without correlation GPTQ is rounding to nearest, in every order") {
  auto const l = test::make_layer(16, 192, 10, 5);
  auto const x = uncorrelated(192, [](index_t i) { return 1.0f + static_cast<float>(i % 7); });
  gptq::quant_spec spec{.bits = 3, .group_size = 64};
  auto const natural = solve(l.w, x, spec);
  CHECK_THAT(natural.report.rel_loss, Catch::Matchers::WithinRel(natural.report.rel_loss_rtn, 1e-6));
  spec.order = gptq::column_order::group_aware;
  CHECK(same(solve(l.w, x, spec).codes, natural.codes));
}

TEST_CASE("properties: a constant diagonal makes every order the natural one") {
  auto const l = test::make_layer(16, 128, 10, 6);
  auto const x = uncorrelated(128, [](index_t) { return 2.0f; });
  gptq::quant_spec spec{.bits = 4, .group_size = 32};
  auto const natural = solve(l.w, x, spec);
  spec.order = gptq::column_order::desc_act;
  CHECK(same(solve(l.w, x, spec).codes, natural.codes));
}

TEST_CASE("properties: outputs are independent: any subset or stack of them gives the same codes") {
  auto const l = test::make_layer(150, 256, 700, 8);
  gptq::quant_spec const spec{.bits = 4, .group_size = 64, .order = gptq::column_order::group_aware};
  auto const whole = solve(l.w, l.x, spec);
  index_t row = 0;
  for (index_t count : {1, 63, 70, 16}) {
    gptq::matrix<float> part(count, 256);
    std::memcpy(part.data(), l.w.row(row), static_cast<std::size_t>(part.size()) * sizeof(float));
    auto const alone = solve(part, l.x, spec);
    bool equal = true;
    for (index_t k = 0; k < 256; ++k)
      for (index_t n = 0; n < count; ++n) equal &= alone.codes(k, n) == whole.codes(k, row + n);
    CHECK(equal);
    row += count;
  }
  CHECK(row == 150);
}

TEST_CASE("properties: the scale of the inputs changes no code") {
  auto l = test::make_layer(24, 128, 500, 9, 5);
  gptq::quant_spec const spec{.bits = 4, .group_size = 32, .order = gptq::column_order::group_aware};
  auto const one = solve(l.w, l.x, spec);
  for (index_t i = 0; i < l.x.size(); ++i) l.x.data()[i] *= 0.03125f;  // exact
  CHECK(same(solve(l.w, l.x, spec).codes, one.codes));
}

TEST_CASE("properties: the compile-time spec gives what the runtime spec gives") {
  auto const l = test::make_layer(24, 256, 500, 10);
  backend b;
  gptq::hessian h{b, 256};
  h.add(test::to_backend(b, l.x));
  auto const q = gptq::quantize<gptq::w4g128>(b, test::to_backend(b, l.w), h, {.damp_percent = 0.02});
  CHECK(same(test::to_host<std::uint8_t>(b, q.codes), solve(l.w, l.x, gptq::w4g128, {.damp_percent = 0.02}).codes));
  CHECK(q.report.damp_used == 0.02);
}

TEST_CASE("properties: 16-bit weights are taken as they are") {
  auto l = test::make_layer(24, 128, 500, 12);
  gptq::matrix<gptq::bfloat16> narrow(24, 128);
  for (index_t i = 0; i < narrow.size(); ++i) {
    narrow.data()[i] = gptq::to_bfloat16(l.w.data()[i]);
    l.w.data()[i] = gptq::to_float(narrow.data()[i]);
  }
  backend b;
  gptq::hessian h{b, 128};
  h.add(test::to_backend(b, l.x));
  auto const q = gptq::quantize<gptq::w4g128>(b, test::to_backend(b, narrow), h);
  CHECK(same(test::to_host<std::uint8_t>(b, q.codes), solve(l.w, l.x, gptq::w4g128).codes));
}
