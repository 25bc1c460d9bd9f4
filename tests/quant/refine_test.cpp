/// Asymmetric calibration, scale re-estimation and coordinate-descent passes, judged by direct formulas in double on the host.
#include "support/backend_under_test.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"

#include <cmath>

namespace {

using gptq::column_order;
using gptq::index_t;
using gptq::quant_spec;

/// A layer that sees inputs x where the float model sees x_float, and residual streams r and r_float.
struct moved_layer {
  test::layer base;
  gptq::matrix<float> x_float, r, r_float;
};

moved_layer make_moved(index_t out, index_t in, index_t tokens, unsigned seed, index_t dead = 0) {
  moved_layer m{test::make_layer(out, in, tokens, seed, dead), gptq::matrix<float>(tokens, in),
                gptq::matrix<float>(tokens, out), gptq::matrix<float>(tokens, out)};
  std::mt19937 random(seed + 1);
  std::normal_distribution<float> normal;
  auto const& x = m.base.x;
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t k = 0; k < in; ++k)
      m.x_float(t, k) = 0.97f * x(t, k) + 0.05f * x(t, (k + 7) % in) + 0.05f * normal(random);
    for (index_t n = 0; n < out; ++n) {
      m.r_float(t, n) = normal(random);
      m.r(t, n) = m.r_float(t, n) + 0.01f * x(t, n % in) + 0.01f * normal(random);
    }
  }
  return m;
}

/// Σ_t a(t, i)·b(t, j) for all i, j, times scale.
test::table cross(gptq::matrix<float> const& a, gptq::matrix<float> const& b, double scale) {
  test::table c = test::zeros(static_cast<std::size_t>(a.cols()), static_cast<std::size_t>(b.cols()));
  for (index_t t = 0; t < a.rows(); ++t)
    for (index_t i = 0; i < a.cols(); ++i)
      for (index_t j = 0; j < b.cols(); ++j)
        c[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] +=
            scale * static_cast<double>(a(t, i)) * static_cast<double>(b(t, j));
  return c;
}

gptq::matrix<float> difference(gptq::matrix<float> const& a, gptq::matrix<float> const& b) {
  gptq::matrix<float> d(a.rows(), a.cols());
  for (index_t i = 0; i < d.size(); ++i) d.data()[i] = a.data()[i] - b.data()[i];
  return d;
}

/// The damped Hessian of the layer as the default settings make it.
test::table damped_hessian(moved_layer const& m, double damp) {
  test::table h = test::scaled(m.base.gram, 2.0 / static_cast<double>(m.base.x.rows()));
  double sum = 0, live = 0;
  for (std::size_t i = 0; i < h.size(); ++i) {
    sum += h[i][i];
    live += h[i][i] != 0;
  }
  for (std::size_t i = 0; i < h.size(); ++i) h[i][i] += (h[i][i] == 0 ? sum / live : 0) + damp * sum / live;
  return h;
}

/// What the device has seen of a moved layer.
template <class B>
struct seen {
  seen(B& b, moved_layer const& m) : h(b, m.base.x.cols()), moved(b, m.base.x.cols(), m.r.cols(), m.base.x.rows()) {
    auto const x = test::to_backend(b, m.base.x), xf = test::to_backend(b, m.x_float);
    auto const r = test::to_backend(b, m.r), rf = test::to_backend(b, m.r_float);
    using view = gptq::view_of<B, float const>;
    h.add(view(x));
    moved.add(view(x), view(xf));
    moved.add_residual(view(x), view(r), view(rf));
  }
  gptq::hessian<B> h;
  gptq::asymmetric_sums<B> moved;
};

template <class B>
gptq::matrix<float> target_of(moved_layer const& m, quant_spec const& spec, gptq::asymmetric_options const& shift) {
  B b;
  seen<B> s(b, m);
  auto const f = gptq::factorize(b, s.h, spec, {});
  auto const w = test::to_backend(b, m.base.w);
  gptq::view_of<B, float const> const view = w;
  return test::to_host<float>(b, gptq::asymmetric_target(b, view, f, s.moved, shift));
}

/// Largest distance of (T − W)·(H + λI) from α·W·D + β·E, relative to the largest element of the latter.
double residue(moved_layer const& m, gptq::matrix<float> const& t, gptq::asymmetric_options const& shift) {
  double const c = 2.0 / static_cast<double>(m.base.x.rows());
  test::table const h = damped_hessian(m, 0.01);
  test::table const d = cross(difference(m.x_float, m.base.x), m.base.x, c);  // [in × in]
  test::table const e = cross(difference(m.r_float, m.r), m.base.x, c);       // [out × in]
  auto const in = h.size();
  double largest = 0, worst = 0;
  for (std::size_t n = 0; n < e.size(); ++n)
    for (std::size_t k = 0; k < in; ++k) {
      auto const row = static_cast<index_t>(n);
      double wanted = shift.residual * e[n][k], found = 0;
      for (std::size_t i = 0; i < in; ++i) {
        auto const col = static_cast<index_t>(i);
        wanted += shift.target * static_cast<double>(m.base.w(row, col)) * d[i][k];
        found += (static_cast<double>(t(row, col)) - static_cast<double>(m.base.w(row, col))) * h[i][k];
      }
      largest = (std::max)(largest, std::abs(wanted));
      worst = (std::max)(worst, std::abs(wanted - found));
    }
  return worst / largest;
}

template <class B>
gptq::quantized_stack<B> solve(B& b, seen<B> const& s, moved_layer const& m, quant_spec const& spec,
                               gptq::quantize_options const& options, gptq::asymmetric_options const& shift) {
  auto const w = test::to_backend(b, m.base.w);
  gptq::view_of<B, float const> const view = w;
  return shift.any() ? gptq::quantize_stack(b, view, s.h, s.moved, shift, spec, options)
                     : gptq::quantize_stack(b, view, s.h, spec, options);
}

/// Σ_t ‖target_t − Q·x_t‖² over Σ_t ‖target_t‖², target = W·(inputs).
template <class B>
double output_error(B& b, gptq::quantized_stack<B> const& q, moved_layer const& m, gptq::matrix<float> const& inputs) {
  auto const codes = test::to_host<std::uint8_t>(b, q.linear.codes),
             zeros = test::to_host<std::uint8_t>(b, q.linear.zeros);
  auto const scales = test::to_host<float>(b, q.linear.scales);
  double error = 0, energy = 0;
  for (index_t t = 0; t < m.base.x.rows(); ++t)
    for (index_t n = 0; n < m.base.w.rows(); ++n) {
      double wanted = 0, found = 0;
      for (index_t k = 0; k < m.base.w.cols(); ++k) {
        index_t const g = q.linear.g_idx[static_cast<std::size_t>(k)];
        wanted += static_cast<double>(m.base.w(n, k)) * static_cast<double>(inputs(t, k));
        found += static_cast<double>(scales(g, n)) * (int(codes(k, n)) - int(zeros(g, n))) *
                 static_cast<double>(m.base.x(t, k));
      }
      error += (wanted - found) * (wanted - found);
      energy += wanted * wanted;
    }
  return error / energy;
}

/// The most that moving one code by one lowers tr(E·H·Eᵀ), in units of what the step alone costs; below zero if nothing does.
template <class B>
double best_move(B& b, gptq::quantized_stack<B> const& q, moved_layer const& m, test::table const& h) {
  auto const codes = test::to_host<std::uint8_t>(b, q.linear.codes),
             zeros = test::to_host<std::uint8_t>(b, q.linear.zeros);
  auto const scales = test::to_host<float>(b, q.linear.scales);
  index_t const in = m.base.w.cols();
  double best = -1;
  for (index_t n = 0; n < m.base.w.rows(); ++n) {
    std::vector<double> scale, error;
    for (index_t k = 0; k < in; ++k) {
      index_t const g = q.linear.g_idx[static_cast<std::size_t>(k)];
      scale.push_back(static_cast<double>(scales(g, n)));
      error.push_back(static_cast<double>(m.base.w(n, k)) - scale.back() * (int(codes(k, n)) - int(zeros(g, n))));
    }
    for (std::size_t k = 0; k < error.size(); ++k) {
      double slope = 0;
      for (std::size_t i = 0; i < error.size(); ++i) slope += h[k][i] * error[i];
      int const code = codes(static_cast<index_t>(k), n);
      if (slope > 0 ? code < (1 << q.linear.spec.bits) - 1 : code > 0)
        best = (std::max)(best, 2 * std::abs(slope) / (scale[k] * h[k][k]) - 1);
    }
  }
  return best;
}

}  // namespace

TEST_CASE("target: solves its normal equations, in every order, with dead inputs and ragged blocks") {
  for (auto order : {column_order::natural, column_order::desc_act, column_order::group_aware}) {
    auto const m = make_moved(33, 160, 400, 5, 2);
    quant_spec const spec{.group_size = 32, .order = order};
    for (gptq::asymmetric_options shift : {gptq::asymmetric_options{1, 0}, {0.5, 0.25}, {0, 1}}) {
      auto const t = target_of<test::backend>(m, spec, shift);
      CHECK(residue(m, t, shift) < 2e-4);
      CHECK(residue(m, m.base.w, shift) > 0.9);  // the mutant that shifts nothing
    }
  }
}

TEST_CASE("target: inputs and residual that did not move leave the weights alone") {
  auto m = make_moved(16, 128, 300, 6);
  for (index_t i = 0; i < m.x_float.size(); ++i) m.x_float.data()[i] = m.base.x.data()[i];
  for (index_t i = 0; i < m.r.size(); ++i) m.r_float.data()[i] = m.r.data()[i];
  auto const t = target_of<test::backend>(m, {}, {1, 1});
  for (index_t i = 0; i < t.size(); ++i) REQUIRE(t.data()[i] == m.base.w.data()[i]);
}

TEST_CASE("target: the reported losses are those of a direct product, and the shift lowers the one it aims at") {
  test::backend b;
  auto const m = make_moved(24, 128, 500, 7);
  seen<test::backend> const s(b, m);
  quant_spec const spec{.bits = 4, .group_size = 64, .order = column_order::group_aware};
  auto const plain = solve(b, s, m, spec, {}, {});
  for (bool refine : {false, true}) {
    gptq::quantize_options options;
    options.reestimations = options.descent_passes = refine ? 2 : 0;
    auto const shifted = solve(b, s, m, spec, options, {1, 0});
    auto const& r = shifted.linear.report;
    CHECK_THAT(r.float_loss, Catch::Matchers::WithinRel(output_error(b, shifted, m, m.x_float), 2e-3));
    CHECK_THAT(r.rel_loss, Catch::Matchers::WithinRel(output_error(b, shifted, m, m.base.x), 2e-3));
    CHECK(r.float_loss < 0.9 * output_error(b, plain, m, m.x_float));
    CHECK(r.rel_loss > plain.linear.report.rel_loss);  // no longer the objective
    CHECK(r.refined_loss <= r.pass_loss);
  }
}

TEST_CASE(
    "refine: scale re-estimation and coordinate-descent passes lower the objective, for every width, grouping and "
    "order") {
  test::backend b;
  auto const m = make_moved(20, 256, 600, 8, 2);
  seen<test::backend> const s(b, m);
  for (int bits : {2, 3, 4, 8})
    for (bool sym : {true, false})
      for (quant_spec spec : {quant_spec{.group_size = 128},
                              {.group_size = 16, .order = column_order::group_aware},
                              {.group_size = 256},
                              {.group_size = -1, .order = column_order::desc_act},
                              {.group_size = 32, .order = column_order::desc_act},
                              {.group_size = 32, .order = column_order::desc_act, .static_groups = true}}) {
        spec.bits = bits;
        spec.sym = sym;
        CAPTURE(bits, sym, spec.group_size, static_cast<int>(spec.order), spec.static_groups);
        double previous = -1;
        for (auto const& [refit, sweeps] : {std::pair{0, 0}, {1, 0}, {1, 1}, {2, 2}, {3, 3}}) {
          gptq::quantize_options options;
          options.reestimations = refit;
          options.descent_passes = sweeps;
          auto const r = solve(b, s, m, spec, options, {}).linear.report;
          double const loss = r.rel_loss;
          if (refit + sweeps > 0) {
            CHECK(r.refined_loss == loss);
            // Monotone in the damped objective; undamped, damping may take back a little.
            CHECK(loss <= previous * 1.02);
          }
          previous = loss;
        }
        double const pass = solve(b, s, m, spec, {}, {}).linear.report.rel_loss;
        CHECK(previous < (bits < 8 ? 0.995 : 1.0) * pass);
      }
}

TEST_CASE("refine: many sweeps end where no code can move by one to good effect, over several products") {
  test::backend b;
  auto const m = make_moved(6, 576, 900, 11);  // units of 256 columns on the host, 512 on a device, and a ragged end
  test::table const h = damped_hessian(m, 0.01);
  seen<test::backend> const s(b, m);
  for (quant_spec spec : {quant_spec{.group_size = 64},
                          {.group_size = 16, .order = column_order::group_aware},
                          {.group_size = -1, .order = column_order::desc_act},
                          {.group_size = 32, .order = column_order::desc_act, .static_groups = true}}) {
    spec.bits = 3;
    CAPTURE(spec.group_size);
    gptq::quantize_options options;
    CHECK(best_move(b, solve(b, s, m, spec, options, {}), m, h) > 0.2);
    options.descent_passes = 60;
    CHECK(best_move(b, solve(b, s, m, spec, options, {}), m, h) < 5e-3);
  }
}

TEST_CASE("refine: layers whose products a device makes of halves") {
  test::backend b;
  auto const m = make_moved(520, 576, 700, 12);
  seen<test::backend> const s(b, m);
  quant_spec const spec{.bits = 3, .group_size = 64};
  gptq::quantize_options options;
  double previous = solve(b, s, m, spec, options, {}).linear.report.rel_loss;
  for (int sweeps : {1, 2, 3}) {
    options.descent_passes = sweeps;
    options.reestimations = 1;
    double const loss = solve(b, s, m, spec, options, {}).linear.report.rel_loss;
    CHECK(loss < (sweeps == 1 ? 0.99 : 1.0) * previous);
    previous = loss;
  }
}

TEST_CASE("refine: scales that were rounded to float16 stay float16, zero points stay as they are") {
  test::backend b;
  auto const m = make_moved(12, 128, 300, 9);
  seen<test::backend> const s(b, m);
  gptq::quantize_options options;
  auto const before = solve(b, s, m, {.bits = 3, .sym = false}, options, {});
  options.reestimations = 2;
  auto const after = solve(b, s, m, {.bits = 3, .sym = false}, options, {});
  auto const scales = test::to_host<float>(b, after.linear.scales), old = test::to_host<float>(b, before.linear.scales);
  index_t changed = 0;
  for (index_t i = 0; i < scales.size(); ++i) {
    CHECK(scales.data()[i] == gptq::to_float(gptq::to_float16(scales.data()[i])));
    changed += scales.data()[i] != old.data()[i];
  }
  CHECK(changed > 0);
  auto const zeros = test::to_host<std::uint8_t>(b, after.linear.zeros),
             z = test::to_host<std::uint8_t>(b, before.linear.zeros);
  for (index_t i = 0; i < zeros.size(); ++i) CHECK(zeros.data()[i] == z.data()[i]);
}

TEST_CASE("refine: asked for without a Hessian it is refused, and shapes that differ are") {
  test::backend b;
  auto const m = make_moved(8, 128, 200, 10);
  seen<test::backend> const s(b, m);
  auto const f = gptq::factorize(b, s.h, quant_spec{}, {});
  auto const w = test::to_backend(b, m.base.w);
  gptq::view_of<test::backend, float const> const view = w;
  gptq::quantize_options options;
  options.descent_passes = 1;
  CHECK_THROWS_AS(gptq::quantize_stack(b, view, f, quant_spec{}, options), gptq::shape_error);
  gptq::asymmetric_sums<test::backend> const narrow(b, 64);
  CHECK_THROWS_AS(gptq::asymmetric_target(b, view, f, narrow, {1, 0}), gptq::shape_error);
  gptq::asymmetric_sums<test::backend> const other(b, 128, 4);
  CHECK_THROWS_AS(gptq::asymmetric_target(b, view, f, other, {1, 1}), gptq::shape_error);
}
