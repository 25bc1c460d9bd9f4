/// The stages of quantization on one GPU: Gram matrix, factor, solve, one block of Qwen2-7B. bench_cuda_stages [what]...
/// with what one of gram, factor, kernels, solve, block; all without arguments.
#include "timing.cuh"

#include <gptq/gptq.hpp>

#include <cstring>
#include <string>

namespace {

using bench::on_device;
using bench::print;
using bench::wall;
using gptq::bfloat16;
using gptq::index_t;

constexpr double tera = 1e12;

/// The whole product by one call, as one would write it without knowing of the symmetry.
void full_product(gptq::cuda_backend& b, gptq::device_view<bfloat16 const> x, gptq::device_view<float> gram) {
  gptq::detail::add_gram<bfloat16>(*b.context(), x, gram, {1, 1});
}

void gram(gptq::cuda_backend& b) {
  for (index_t in : {18944, 3584, 4096}) {
    index_t const tokens = 16384;
    auto const x = bench::activations<bfloat16>(b, tokens, in, 1);
    auto g = b.make<float>(in, in);
    b.fill(g, 0);
    gptq::device_view<bfloat16 const> const view = x;
    double const flop = 2.0 * double(tokens) * double(in) * double(in);
    auto const full = on_device(b, [&] { full_product(b, view, g); });
    std::string const name = "gram K = " + std::to_string(in);
    print((name + ", full product").c_str(), full, flop / tera, "TFLOP/s");
    for (int panels : {4, 5, 6, 7, 8, 10, 12, 14, 16})
      for (int lanes : {1, 2, 4}) {
        auto const t = on_device(
            b,
            [&] {
              gptq::detail::add_gram<bfloat16>(*b.context(), view, g, {panels, lanes});
            },
            5, 1, 1);
        std::printf("  %2d panels, %d lanes: %8.3f ms, full / ours %.2f\n", panels, lanes, t.median,
                    full.median / t.median);
      }
    auto const ours = on_device(b, [&] { b.add_gram(view, g.view()); });
    auto const again = on_device(b, [&] { full_product(b, view, g); });
    print((name + ", triangle").c_str(), ours, flop / 2 / tera, "TFLOP/s");
    std::printf("%-58s %9.2f x\n", (name + ", full / ours").c_str(), (full.median + again.median) / 2 / ours.median);
    print((name + ", check for NaN and Inf").c_str(), wall(b, [&] { b.all_finite(view); }),
          2e-9 * double(tokens) * double(in), "GB/s");
  }
}

/// A Hessian from enough tokens to be regular.
gptq::hessian<gptq::cuda_backend> make_hessian(gptq::cuda_backend& b, index_t in) {
  gptq::hessian<gptq::cuda_backend> h(b, in);
  for (std::uint32_t seed = 0; h.tokens() < 2 * in; ++seed) h.add(bench::activations<bfloat16>(b, 8192, in, seed + 5));
  return h;
}

void factor(gptq::cuda_backend& b) {
  for (index_t in : {3584, 4096, 18944}) {
    auto const h = make_hessian(b, in);
    std::string const name = "factor K = " + std::to_string(in);
    double const flop = double(in) * double(in) * double(in) / 3;
    int const repeats = in > 8192 ? 5 : 10;
    print((name + ", natural order").c_str(),
          wall(
              b, [&] { gptq::factorize(b, h, gptq::w4g128, {}); }, repeats, 2),
          flop / tera, "TFLOP/s");
    auto spec = gptq::w4g128;
    spec.order = gptq::column_order::group_aware;
    print((name + ", group-aware").c_str(),
          wall(
              b, [&] { gptq::factorize(b, h, spec, {}); }, repeats, 2),
          flop / tera, "TFLOP/s");
    // Its parts.
    auto a = b.make<float>(in, in);
    auto pivots = b.make<float>(1, in);
    gptq::matrix<std::int32_t> order(1, in);
    for (index_t i = 0; i < in; ++i) order(0, i) = std::int32_t(i);
    auto on = b.make<std::int32_t>(1, in);
    b.upload(order.view(), on.view());
    auto const d = gptq::diagonal(b, h);
    gptq::matrix<float> diagonal(1, in);
    double mean = 0;
    for (double x : d) mean += x / double(in);
    for (index_t i = 0; i < in; ++i) diagonal(0, i) = float(d[std::size_t(i)] + 0.01 * mean);
    gptq::device_view<float const> const g = h.gram();
    for (auto p : {gptq::precision::native, gptq::precision::fp64}) {
      bool const wide = p == gptq::precision::fp64;
      if (wide && in == 3584) continue;
      print(wide ? "  in fp64" : "  one attempt",
            wall(
                b,
                [&] {
                  if (!b.factorize_hessian(g, on.view(), 1.0, diagonal.view(), p, a, pivots))
                    std::printf("not positive\n");
                },
                wide ? 3 : repeats, 1),
            flop / tera, "TFLOP/s");
    }
  }
}

/// What the column loop is made of.
void kernels(gptq::cuda_backend& b) {
  index_t const in = 1024;
  auto const h = make_hessian(b, in);
  auto const f = gptq::factorize(b, h, gptq::w4g128, {});
  gptq::device_view<float const> const propagation = f.propagation;
  for (index_t n : {512, 3584, 4096, 37888}) {
    std::printf("kernels for 128 columns of %td outputs\n", n);
    auto w = bench::weights<float>(b, 128, n, 3);
    auto c = b.make<float>(128, n);
    auto scales = b.make<float>(1, n);
    auto zeros = b.make<std::uint8_t>(1, n);
    auto codes = b.make<std::uint8_t>(128, n);
    auto losses = b.make<double>(2, n);
    auto groups = b.make<std::int32_t>(1, 128);
    b.fill(c, 0);
    b.fill(groups, 0);
    b.fill(losses, 0.0);
    gptq::matrix<std::int32_t> order(1, 128);
    for (index_t i = 0; i < 128; ++i) order(0, i) = std::int32_t(i);
    auto on = b.make<std::int32_t>(1, 128);
    b.upload(order.view(), on.view());
    gptq::grid_options const minmax{.mse = 0};
    auto const triangle = propagation.block(0, 0, 128, 128);
    print("  fill", on_device(
                        b, [&] { b.fill(c, 0.0f); }, 10, 20));
    print("  copy", on_device(
                        b, [&] { b.copy(w.view(), c.view()); }, 10, 20));
    print("  add", on_device(
                       b, [&] { b.add(1.0f, w.view(), c.view()); }, 10, 20));
    print("  fit_grid, min-max", on_device(
                                     b, [&] { b.fit_grid<4, true>(w.view(), minmax, scales, zeros); }, 10, 20));
    print("  fit_grid, mse", on_device(
                                 b, [&] { b.fit_grid<4, true>(w.view(), {}, scales, zeros); }, 10, 20));
    b.fill(c, 0);
    print("  solve_unit_lower", on_device(
                                    b, [&] { b.solve_unit_lower(triangle, c); }, 10, 20));
    gptq::column_block<gptq::cuda_backend> const block{.propagation = triangle,
                                                       .correction = c.view(),
                                                       .pivots = f.pivots.view().col_range(0, 128),
                                                       .excess = f.excess.view().col_range(0, 128),
                                                       .groups = groups.view(),
                                                       .order = on.view(),
                                                       .scales = scales.view(),
                                                       .zeros = zeros.view(),
                                                       .weights = w.view(),
                                                       .codes = codes.view(),
                                                       .losses = losses.view()};
    print("  quantize_block", on_device(
                                  b, [&] { b.quantize_block<4>(block); }, 10, 20));
    auto const fused = [&](gptq::grid_options const& options) {
      return on_device(
          b, [&] { b.fit_and_quantize_block<4, true>(block, 128, options, scales.view(), zeros.view()); }, 10, 20);
    };
    print("  fit and quantize, min-max", fused(minmax));
    print("  fit and quantize, mse", fused({}));
    for (index_t k : {128, 384}) {
      auto x = bench::weights<float>(b, k, n, 4);
      auto a = bench::weights<float>(b, 128, k, 5);
      print(("  product 128 x " + std::to_string(k)).c_str(),
            on_device(
                b, [&] { b.multiply_add(1.0f, a.view(), gptq::transpose::no, x.view(), c.view()); }, 10, 20),
            2 * 128.0 * double(k) * double(n) / tera, "TFLOP/s");
    }
    for (index_t m : {512, 1024})
      for (index_t k : {512, 2048}) {
        auto x = bench::weights<float>(b, k, n, 4);
        auto a = bench::weights<float>(b, m, k, 5);
        auto y = b.make<float>(m, n);
        b.fill(y, 0);
        double const flop = 2 * double(m) * double(k) * double(n) / tera;
        gptq::device_view<float const> const av = a, xv = x;
        std::string const name = "  product " + std::to_string(m) + " x " + std::to_string(k);
        print((name + ", fp32").c_str(),
              on_device(
                  b, [&] { gptq::detail::multiply_fp32(b.context()->blas(), 1, av, xv, 1, y); }, 10, 5),
              flop, "TFLOP/s");
        print((name + ", bf16x3").c_str(),
              on_device(
                  b, [&] { gptq::detail::multiply_bf16x3(*b.context(), 1, av, xv, y); }, 10, 5),
              flop, "TFLOP/s");
      }
  }
}

void solve(gptq::cuda_backend& b) {
  struct shape {
    index_t out, in;
  };
  for (shape s : {shape{4096, 4096}, shape{4608, 3584}, shape{37888, 3584}, shape{3584, 18944}}) {
    auto const h = make_hessian(b, s.in);
    auto const w = bench::weights<bfloat16>(b, s.out, s.in, 9);
    gptq::device_view<bfloat16 const> const view = w;
    std::printf("solve %td x %td given H\n", s.out, s.in);
    for (bool quality : {false, true}) {
      gptq::quant_spec spec = gptq::w4g128;
      if (quality) spec.order = gptq::column_order::group_aware;
      gptq::quantize_options options;
      options.measure = quality;
      if (!quality) options.grid.mse = 0;
      char const* const how = quality ? "default settings" : "min-max, natural";
      gptq::linear_report report;
      int const repeats = s.in > 8192 ? 5 : 10;
      auto const all = wall(
          b,
          [&] {
            auto q = gptq::quantize_stack(b, view, h, spec, options);
            auto p = gptq::pack(b, q.linear, gptq::checkpoint_format::gptq);
            report = q.linear.report;
          },
          repeats);
      std::printf("%s: damped loss %.6e, relative %.6e\n", how, report.damped_loss, report.rel_loss);
      print("  factor + loop + pack", all);
      auto const f = gptq::factorize(b, h, spec, options);
      print("  loop",
            wall(
                b, [&] { gptq::quantize_stack(b, view, f, spec, options); }, repeats),
            double(s.out) * double(s.in) * double(s.in) / tera, "TFLOP/s");
      auto const q = gptq::quantize_stack(b, view, f, spec, options);
      print("  pack, to host memory", wall(
                                          b, [&] { gptq::pack(b, q.linear, gptq::checkpoint_format::gptq); }, repeats));
    }
  }
}

/// Hessians, factors, loops and packing of one block of Qwen2-7B from 262,144 tokens of each input.
void block(gptq::cuda_backend& b) {
  struct stage {
    char const* name;
    index_t out, in;
  };
  index_t const chunk = 16384;
  index_t const chunks = 16;
  for (bool quality : {false, true}) {
    gptq::quant_spec spec = gptq::w4g128;
    if (quality) spec.order = gptq::column_order::group_aware;
    gptq::quantize_options options;
    options.measure = quality;
    if (!quality) options.grid.mse = 0;
    double hessians = 0, factors = 0, loops = 0, packs = 0;
    for (stage s : {stage{"qkv", 4608, 3584}, stage{"o", 3584, 3584}, stage{"gate, up", 37888, 3584},
                    stage{"down", 3584, 18944}}) {
      auto const first = bench::activations<bfloat16>(b, chunk, s.in, 11);
      auto const second = bench::activations<bfloat16>(b, chunk, s.in, 12);
      auto const w = bench::weights<bfloat16>(b, s.out, s.in, 13);
      gptq::device_view<bfloat16 const> const view = w;
      std::vector<double> t[4];
      for (int i = 0; i < 4; ++i) {
        gptq::hessian<gptq::cuda_backend> h(b, s.in);
        t[0].push_back(wall(
                           b,
                           [&] {
                             for (int c = 0; c < chunks; ++c) h.add(c % 2 ? second : first);
                           },
                           1, 0)
                           .median);
        std::optional<gptq::factor<gptq::cuda_backend>> f;
        t[1].push_back(wall(
                           b, [&] { f.emplace(gptq::factorize(b, h, spec, options)); }, 1, 0)
                           .median);
        std::optional<gptq::quantized_stack<gptq::cuda_backend>> q;
        t[2].push_back(wall(
                           b, [&] { q.emplace(gptq::quantize_stack(b, view, *f, spec, options)); }, 1, 0)
                           .median);
        t[3].push_back(wall(
                           b, [&] { gptq::pack(b, q->linear, gptq::checkpoint_format::gptq); }, 1, 0)
                           .median);
        for (auto& x : t)
          if (i == 0) x.clear();  // warm-up
      }
      double const each[] = {bench::summary(t[0]).median, bench::summary(t[1]).median, bench::summary(t[2]).median,
                             bench::summary(t[3]).median};
      std::printf("  %-10s Hessian %8.2f  factor %7.2f  loop %7.2f  pack %7.2f ms\n", s.name, each[0], each[1], each[2],
                  each[3]);
      hessians += each[0];
      factors += each[1];
      loops += each[2];
      packs += each[3];
    }
    std::printf("block of Qwen2-7B, %s: Hessians %.1f + factors %.1f + loops %.1f + packing %.1f = %.1f ms\n",
                quality ? "default settings" : "min-max, natural", hessians, factors, loops, packs,
                hessians + factors + loops + packs);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  gptq::cuda_backend b;
  std::printf("%s, %.1f GiB free\n", b.device_name().c_str(), double(b.memory_budget()) / (1 << 30));
  auto const wanted = [&](char const* what) {
    for (int i = 1; i < argc; ++i)
      if (std::strcmp(argv[i], what) == 0) return true;
    return argc == 1;
  };
  if (wanted("gram")) gram(b);
  if (wanted("factor")) factor(b);
  if (wanted("kernels")) kernels(b);
  if (wanted("solve")) solve(b);
  if (wanted("block")) block(b);
  std::printf("peak device memory in matrices: %.2f GiB\n", double(b.peak_memory()) / (1 << 30));
} catch (gptq::error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
