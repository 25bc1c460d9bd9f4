/// The device and the host on the same Hessian in the same order: codes by rules 1 and 2 of the numerics page, that is,
/// the first difference of an output must be a tie of the rounding, or where the Hessian is of few tokens, losses.
#include "cuda/against_host.hpp"
#include "support/catch.hpp"
#include "support/compare_codes.hpp"
#include "support/synthetic.hpp"

#include <gptq/backend/host.hpp>
#include <gptq/gptq.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace {

using gptq::column_order;
using gptq::index_t;
using gptq::quant_spec;

struct both {
  gptq::quantized_linear host, device;
  test::oracle_result oracle;
};

both solve_both(test::layer const& l, quant_spec const& spec, gptq::quantize_options const& options) {
  std::vector<std::int32_t> order;
  both r;
  r.host = test::solve_given<gptq::host_backend>(l, spec, options, {}, &order);
  r.device = test::solve_on_device(l, spec, options, order);
  r.oracle = test::solve(test::scaled(l.gram, 2.0 / static_cast<double>(l.x.rows())), test::as_table(l.w), spec,
                         options, order);
  return r;
}

}  // namespace

TEST_CASE("cuda against host: the same codes but for ties, also in odd shapes", "[component]") {
  for (auto [out, in] :
       {std::pair{5, 172}, std::pair{37, 172}, std::pair{33, 300}, std::pair{1, 100}, std::pair{95, 256}})
    for (int bits : {3, 4})
      for (int g : {-1, 128}) {
        auto const l = test::make_layer(out, in, 3 * in, 11);
        quant_spec const spec{.bits = bits, .group_size = g, .sym = bits == 4, .order = column_order::desc_act};
        gptq::quantize_options const options{.grid = {.mse = bits == 4 ? 0.0f : 2.4f}};
        CAPTURE(out, in, bits, g);
        auto const r = solve_both(l, spec, options);
        CHECK(r.device.g_idx == r.host.g_idx);
        for (auto const* q : {&r.host, &r.device}) {
          auto const c = test::compare_codes<float>(*q, r.oracle, options.grid.mse > 0);
          CHECK(c.unexplained == 0);
          CHECK(c.acceptable(test::tolerance<float>::differing_rows));
        }
        CHECK_THAT(r.device.report.damped_loss, Catch::Matchers::WithinRel(r.host.report.damped_loss, 1e-2));
      }
}

TEST_CASE("cuda against host: one token, and fewer tokens than inputs", "[component]") {
  for (int tokens : {1, 2, 40}) {
    auto const l = test::make_layer(37, 172, tokens, 13);
    CAPTURE(tokens);
    auto const r = solve_both(l, {.bits = 4, .group_size = -1}, {});
    CHECK(r.device.report.status == r.host.report.status);
    CHECK(r.device.report.damp_used == r.host.report.damp_used);
    CHECK_THAT(r.device.report.damped_loss, Catch::Matchers::WithinRel(r.host.report.damped_loss, 1e-2));
  }
}
