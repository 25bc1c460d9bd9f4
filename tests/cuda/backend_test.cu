/// What only the device has: its memory budget, copies through pinned buffers, products in bf16 halves, clear errors.
#include "support/catch.hpp"

#include <gptq/backend/cuda.cuh>
#include <gptq/gptq.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace {

using gptq::index_t;

gptq::matrix<float> random_matrix(index_t rows, index_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  gptq::matrix<float> m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

gptq::device_matrix<float> to_device(gptq::cuda_backend& b, gptq::matrix<float> const& m) {
  auto d = b.make<float>(m.rows(), m.cols());
  b.upload(m.view(), d.view());
  return d;
}

gptq::matrix<float> to_host(gptq::cuda_backend& b, gptq::device_view<float const> d) {
  gptq::matrix<float> m(d.rows, d.cols);
  b.download(d, m.view());
  return m;
}

/// ‖a·x − y‖ / ‖a·x‖ in double.
double product_error(gptq::matrix<float> const& a, gptq::matrix<float> const& x, gptq::matrix<float> const& y) {
  double difference = 0, norm = 0;
  std::vector<double> row(static_cast<std::size_t>(x.cols()));
  for (index_t r = 0; r < a.rows(); ++r) {
    std::fill(row.begin(), row.end(), 0.0);
    for (index_t k = 0; k < a.cols(); ++k)
      for (index_t c = 0; c < x.cols(); ++c)
        row[static_cast<std::size_t>(c)] += static_cast<double>(a(r, k)) * static_cast<double>(x(k, c));
    for (index_t c = 0; c < x.cols(); ++c) {
      double const exact = row[static_cast<std::size_t>(c)];
      difference += std::pow(static_cast<double>(y(r, c)) - exact, 2);
      norm += exact * exact;
    }
  }
  return std::sqrt(difference / norm);
}

}  // namespace

TEST_CASE("cuda memory: a budget is kept, its use is told, what is released is reused") {
  gptq::cuda_backend b({.memory_budget = 64 << 20});
  CHECK(b.memory_budget() == 64 << 20);
  {
    auto const half = b.make<float>(8, 1 << 20);
    CHECK(b.memory_in_use() == 32 << 20);
    CHECK_THROWS_AS(b.make<float>(9, 1 << 20), gptq::device_memory_error);
    CHECK_THROWS_WITH(b.make<float>(9, 1 << 20), test::contains("36 MiB") && test::contains("64 MiB"));
  }
  CHECK(b.memory_in_use() == 0);
  auto const all = b.make<float>(16, 1 << 20);
  CHECK(b.peak_memory() == 64 << 20);
  CHECK_THROWS_AS(b.make<float>(index_t(1) << 40, index_t(1) << 40), gptq::shape_error);
  CHECK_THROWS_AS(b.make<float>(-1, 4), gptq::shape_error);
}

TEST_CASE("cuda memory: matrices outlive their backend") {
  gptq::device_matrix<float> m;
  {
    gptq::cuda_backend b;
    m = b.make<float>(100, 100);
  }
  CHECK(m.rows() == 100);
}

TEST_CASE("cuda copies: every size and stride arrives, also past the pinned buffers") {
  gptq::cuda_backend b;
  for (auto [rows, cols] : {std::pair<index_t, index_t>{1, 1}, {3, 7}, {1000, 3001}, {1, 9000000}, {5, 2500000}}) {
    auto const m = random_matrix(rows, cols, 3);
    auto const d = to_device(b, m);
    auto const back = to_host(b, d);
    CHECK(std::equal(m.data(), m.data() + m.size(), back.data()));
    if (rows < 3 || cols < 3) continue;
    auto const inner = m.view().block(1, 1, rows - 2, cols - 2);
    auto wide = b.make<float>(rows, cols);
    b.fill(wide, 5);
    b.upload(inner, wide.view().block(0, 2, rows - 2, cols - 2));
    auto const result = to_host(b, wide);
    bool same = true;
    for (index_t r = 0; r < rows - 2; ++r) {
      same &= result(r, 0) == 5 && result(r, 1) == 5;
      for (index_t c = 0; c < cols - 2; ++c) same &= result(r, c + 2) == inner(r, c);
    }
    CHECK(same);
  }
}

TEST_CASE("cuda copies: many uploads without a wait keep their order") {
  gptq::cuda_backend b;
  auto d = b.make<float>(200, 50000);
  gptq::matrix<float> row(1, 50000);
  for (index_t r = 0; r < 200; ++r) {
    std::fill_n(row.data(), row.size(), static_cast<float>(r));
    b.upload(row.view(), d.view().row_range(r, 1));
  }
  auto const back = to_host(b, d);
  bool same = true;
  for (index_t r = 0; r < 200; ++r)
    same &= back(r, 0) == static_cast<float>(r) && back(r, 49999) == static_cast<float>(r);
  CHECK(same);
}

TEST_CASE("cuda checks: one NaN or Inf is found wherever it is, in every type and alignment") {
  gptq::cuda_backend b;
  std::mt19937 random(1);
  for (auto [rows, cols] : {std::pair<index_t, index_t>{1, 1}, {7, 13}, {64, 1024}, {33, 520}, {300, 8192}}) {
    gptq::matrix<float> m(rows, cols);
    std::fill_n(m.data(), m.size(), 3.4e38f);
    auto d = to_device(b, m);
    gptq::device_view<float const> const view = d;
    CHECK(b.all_finite(view));
    for (int i = 0; i < 20; ++i) {
      auto const r = static_cast<index_t>(random() % static_cast<unsigned>(rows));
      auto const c = static_cast<index_t>(random() % static_cast<unsigned>(cols));
      b.fill(d.view().block(r, c, 1, 1), i % 2 ? std::numeric_limits<float>::infinity() : std::nanf(""));
      CHECK_FALSE(b.all_finite(view));
      if (cols > 1) CHECK(b.all_finite(view.block(0, 0, rows, c)));
      b.fill(d.view().block(r, c, 1, 1), 0);
    }
    auto half = b.make<gptq::float16>(rows, cols);
    b.fill(half, gptq::float16{0x7bff});
    CHECK(b.all_finite(gptq::device_view<gptq::float16 const>(half)));
    b.fill(half.view().block(rows - 1, cols - 1, 1, 1), gptq::float16{0xfc00});
    CHECK_FALSE(b.all_finite(gptq::device_view<gptq::float16 const>(half)));
    auto brain = b.make<gptq::bfloat16>(rows, cols);
    b.fill(brain, gptq::bfloat16{0x7f7f});
    CHECK(b.all_finite(gptq::device_view<gptq::bfloat16 const>(brain)));
    b.fill(brain.view().block(0, cols / 2, 1, 1), gptq::bfloat16{0xffff});
    CHECK_FALSE(b.all_finite(gptq::device_view<gptq::bfloat16 const>(brain)));
  }
}

TEST_CASE("cuda products: bf16 halves keep 16 bits, fp32 keeps all") {
  auto const a = random_matrix(300, 600, 1);
  auto const x = random_matrix(600, 520, 2);
  for (auto products : {gptq::product_precision::fp32, gptq::product_precision::bf16x3}) {
    gptq::cuda_backend b({.products = products});
    auto const da = to_device(b, a);
    auto const dx = to_device(b, x);
    auto y = b.make<float>(300, 520);
    b.fill(y, 0);
    b.multiply_add(0.5f, da.view(), gptq::transpose::no, dx.view(), y);
    b.multiply_add(0.5f, da.view(), gptq::transpose::no, dx.view(), y);
    double const error = product_error(a, x, to_host(b, y));
    CHECK(error < (products == gptq::product_precision::fp32 ? 1e-6 : 2e-5));
    CHECK(error > 1e-9);
    if (products == gptq::product_precision::bf16x3) CHECK(error > 5e-7);  // it was that path
  }
}

TEST_CASE("cuda gram: panels and lanes give what one product gives") {
  gptq::cuda_backend b;
  auto const m = random_matrix(200, 700, 4);
  gptq::matrix<gptq::bfloat16> narrow(200, 700);
  for (index_t i = 0; i < m.size(); ++i) narrow.data()[i] = gptq::to_bfloat16(m.data()[i]);
  auto x = b.make<gptq::bfloat16>(200, 700);
  b.upload(narrow.view(), x.view());
  gptq::device_view<gptq::bfloat16 const> const view = x;
  auto whole = b.make<float>(700, 700);
  b.fill(whole, 0);
  gptq::detail::add_gram<gptq::bfloat16>(*b.context(), view, whole, {1, 1});
  auto const expected = to_host(b, whole);
  for (int panels : {2, 3, 6})
    for (int lanes : {1, 2, 4}) {
      auto g = b.make<float>(700, 700);
      b.fill(g, 0);
      gptq::detail::add_gram<gptq::bfloat16>(*b.context(), view, g, {panels, lanes});
      gptq::detail::add_gram<gptq::bfloat16>(*b.context(), view, g, {panels, lanes});
      auto const ours = to_host(b, g);
      double worst = 0;
      for (index_t r = 0; r < 700; ++r)
        for (index_t c = 0; c <= r; ++c) worst = (std::max)(worst, double(std::abs(ours(r, c) - 2 * expected(r, c))));
      CHECK(worst < 1e-3);
    }
}

TEST_CASE("cuda factor: fp64 succeeds where fp32 fails, both say no to an indefinite matrix") {
  gptq::cuda_backend b;
  index_t const n = 64;
  gptq::matrix<float> gram(n, n), diagonal(1, n);
  gptq::matrix<std::int32_t> stored(1, n);
  for (index_t r = 0; r < n; ++r) {
    stored(0, r) = static_cast<std::int32_t>(r);
    diagonal(0, r) = 1.0f;
    for (index_t c = 0; c < n; ++c) gram(r, c) = 0.99999f;
  }
  auto const g = to_device(b, gram);
  auto order = b.make<std::int32_t>(1, n);
  b.upload(stored.view(), order.view());
  auto f = b.make<float>(n, n), pivots = b.make<float>(1, n);
  auto const factorize = [&](gptq::precision p) {
    return b.factorize_hessian(g.view(), order, 1.0, diagonal.view(), p, f, pivots);
  };
  CHECK(factorize(gptq::precision::fp64));
  for (float bad : {-1.0f, std::nanf("")}) {
    diagonal(0, 40) = bad;
    for (auto p : {gptq::precision::native, gptq::precision::fp64}) CHECK_FALSE(factorize(p));
  }
}

TEST_CASE("cuda copies: a diagonal comes down as one column") {
  gptq::cuda_backend b;
  auto const m = random_matrix(300, 300, 5);
  auto const d = to_device(b, m);
  gptq::matrix<float> diagonal(300, 1);
  b.download(gptq::device_view<float const>(d.data(), 300, 1, 301), diagonal.view());
  bool same = true;
  for (index_t i = 0; i < 300; ++i) same &= diagonal(i, 0) == m(i, i);
  CHECK(same);
}

TEST_CASE("cuda solve: bf16 halves in the large products change next to nothing") {
  auto const w = random_matrix(512, 1536, 6);
  auto const x = random_matrix(3000, 1536, 7);
  gptq::linear_report reports[2];
  std::vector<std::uint8_t> codes[2];
  for (auto products : {gptq::product_precision::fp32, gptq::product_precision::bf16x3}) {
    auto const i = static_cast<std::size_t>(products);
    gptq::cuda_backend b({.products = products});
    gptq::hessian h(b, 1536);
    h.add(to_device(b, x));
    auto const q = gptq::quantize_stack(b, to_device(b, w).view(), h, gptq::w4g128).linear;
    reports[i] = q.report;
    gptq::matrix<std::uint8_t> host(1536, 512);
    b.download(q.codes, host.view());
    codes[i].assign(host.data(), host.data() + host.size());
  }
  CHECK_THAT(reports[1].rel_loss, Catch::Matchers::WithinRel(reports[0].rel_loss, 1e-3));
  std::size_t differing = 0;
  for (std::size_t i = 0; i < codes[0].size(); ++i) differing += codes[0][i] != codes[1][i];
  CHECK(double(differing) < 0.005 * double(codes[0].size()));
}

TEST_CASE("cuda errors: a device that is not there is named") {
  CHECK_THROWS_WITH(gptq::cuda_backend({.device = 99}), test::contains("no CUDA device 99"));
}
