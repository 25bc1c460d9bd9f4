/// The order of sums over calibration tokens: a tree over leaves, whoever adds them.
#include "support/archetype.hpp"
#include "support/catch.hpp"

#include <gptq/backend/host.hpp>
#include <gptq/comm/threads.hpp>
#include <gptq/core/leaves.hpp>
#include <gptq/quant/asymmetric_sums.hpp>
#include <gptq/quant/hessian.hpp>

#include <cstring>
#include <optional>
#include <random>
#include <vector>

namespace {

using gptq::index_t;
using gptq::matrix;
using gptq::matrix_view;
using backend = gptq::host_backend;

matrix<float> random_matrix(index_t rows, index_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  matrix<float> m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

constexpr index_t width = 37, outputs = 11, tokens = 20;  // of a leaf

/// The rows of a leaf, in two micro-batches.
struct leaf_data {
  explicit leaf_data(index_t leaf)
      : x(random_matrix(tokens, width, unsigned(leaf) + 1)),
        x_float(random_matrix(tokens, width, unsigned(leaf) + 101)),
        r(random_matrix(tokens, outputs, unsigned(leaf) + 201)),
        r_float(random_matrix(tokens, outputs, unsigned(leaf) + 301)) {}
  matrix<float> x, x_float, r, r_float;
};

struct sums {
  explicit sums(backend& b) : h(b, width), moved(b, width, outputs) {}
  void add(index_t leaf) {
    leaf_data const d(leaf);
    h.begin_leaf(leaf);
    moved.begin_leaf(leaf);
    for (index_t first : {0, 13}) {
      index_t const n = first ? tokens - 13 : 13;
      auto const rows = [&](matrix<float> const& m) { return m.view().row_range(first, n); };
      h.add(rows(d.x));
      moved.add(rows(d.x), rows(d.x_float));
      moved.add_residual(rows(d.x), rows(d.r), rows(d.r_float));
    }
  }
  gptq::hessian<backend> h;
  gptq::asymmetric_sums<backend> moved;
};

/// Elements of the lower triangle, then of the other two sums.
std::vector<float> elements(sums& s) {
  std::vector<float> all;
  for (index_t r = 0; r < width; ++r) all.insert(all.end(), s.h.gram().row(r), s.h.gram().row(r) + r + 1);
  for (auto const* m : {&s.moved.cross(), &s.moved.residual()}) all.insert(all.end(), m->data(), m->data() + m->size());
  return all;
}

bool same_bits(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// By definition; leaves that are left out count as nothing.
std::optional<std::vector<float>> node(backend& b, std::vector<bool> const& leaves, int level, index_t i) {
  if (level == 0) {
    if (i >= static_cast<index_t>(leaves.size()) || !leaves[static_cast<std::size_t>(i)]) return {};
    sums s(b);
    s.add(i);
    return elements(s);
  }
  auto left = node(b, leaves, level - 1, 2 * i);
  auto const right = node(b, leaves, level - 1, 2 * i + 1);
  if (!left) return right;
  for (std::size_t e = 0; right && e < left->size(); ++e) (*left)[e] += (*right)[e];
  return left;
}

/// Added by so many workers, each with leaves in a row, and merged.
std::vector<float> by_workers(backend& b, std::vector<bool> const& leaves, index_t workers) {
  auto const count = static_cast<index_t>(leaves.size());
  std::vector<sums> all;
  for (index_t w = 0; w < workers; ++w) {
    all.emplace_back(b);
    for (index_t i = count * w / workers; i < count * (w + 1) / workers; ++i)
      if (leaves[static_cast<std::size_t>(i)]) all.back().add(i);
  }
  for (index_t w = 1; w < workers; ++w) {
    all.front().h.merge(std::move(all[static_cast<std::size_t>(w)].h));
    all.front().moved.merge(std::move(all[static_cast<std::size_t>(w)].moved));
  }
  index_t present = 0;
  for (bool const p : leaves) present += p;
  CHECK(all.front().h.tokens() == present * tokens);
  return elements(all.front());
}

}  // namespace

TEST_CASE("ordered sum: 1 to 4 workers come to the sum of the tree, bit for bit") {
  backend b;
  for (index_t count = 1; count <= 8; ++count) {
    std::vector<bool> const leaves(static_cast<std::size_t>(count), true);
    auto const tree = node(b, leaves, 3, 0);
    for (index_t workers = 1; workers <= 4; ++workers) {
      CAPTURE(count, workers);
      CHECK(same_bits(by_workers(b, leaves, workers), *tree));
    }
  }
}

TEST_CASE("ordered sum: workers sum over a communicator, in each of them") {
  backend b;
  for (index_t const count : {1, 5, 8}) {
    auto const tree = node(b, std::vector<bool>(static_cast<std::size_t>(count), true), 3, 0);
    for (int const workers : {1, 2, 3, 4}) {
      CAPTURE(count, workers);
      std::vector<std::vector<float>> found(static_cast<std::size_t>(workers));
      gptq::run_workers(workers, [&](gptq::thread_worker& c) {
        backend own;
        gptq::hessian<backend> h(own, width);
        auto const mine = gptq::share_of(count, c.rank(), c.size());
        for (index_t leaf = mine.first; leaf < mine.first + mine.count; ++leaf) {
          h.begin_leaf(leaf);
          h.add(leaf_data(leaf).x.view().row_range(0, 13));
          h.add(leaf_data(leaf).x.view().row_range(13, tokens - 13));
        }
        h.sum_over(c, count * tokens, count);
        auto& all = found[static_cast<std::size_t>(c.rank())];
        for (index_t r = 0; r < width; ++r) all.insert(all.end(), h.gram().row(r), h.gram().row(r) + r + 1);
        if (h.tokens() != count * tokens) all.clear();
      });
      std::vector<float> const expected(tree->begin(), tree->begin() + width * (width + 1) / 2);
      for (auto const& each : found) CHECK(same_bits(each, expected));
    }
  }
}

TEST_CASE("ordered sum: a leaf without tokens counts as nothing") {
  backend b;
  for (unsigned mask = 1; mask < 64; mask += 3) {
    std::vector<bool> leaves;
    for (unsigned i = 0; i < 6; ++i) leaves.push_back((mask >> i & 1) != 0);
    auto const tree = node(b, leaves, 3, 0);
    for (index_t workers = 1; workers <= 4; ++workers) {
      CAPTURE(mask, workers);
      CHECK(same_bits(by_workers(b, leaves, workers), *tree));
    }
  }
}

TEST_CASE("ordered sum: without leaves the order is another") {
  backend b;
  sums one(b);
  for (index_t i = 0; i < 4; ++i) {
    leaf_data const d(i);
    one.h.add(d.x);
  }
  auto const tree = by_workers(b, std::vector<bool>(4, true), 1);
  bool same = true;
  for (index_t r = 0, at = 0; r < width; ++r)
    for (index_t c = 0; c <= r; ++c, ++at) same &= one.h.gram()(r, c) == tree[static_cast<std::size_t>(at)];
  CHECK_FALSE(same);
}

TEST_CASE("ordered sum: leaves out of order, after the sum was taken, or twice") {
  backend b;
  sums s(b);
  s.add(2);
  CHECK_THROWS_AS(s.h.begin_leaf(1), gptq::shape_error);
  sums again(b);
  again.add(2);
  CHECK_THROWS_AS(again.h.merge(std::move(s.h)), gptq::shape_error);
  sums taken(b);
  taken.add(0);
  CHECK(taken.h.gram().rows() == width);
  CHECK_THROWS_AS(taken.h.begin_leaf(1), gptq::shape_error);
}

TEST_CASE("ordered sum: backends pack a triangle and add it to another") {
  for (index_t n : {1, 2, 5, 64, 129}) {
    backend host;
    auto const x = random_matrix(n, n, 5), start = random_matrix(n, n, 6);
    matrix<float> packed((n + 1) / 2, n + 1), sum(n, n);
    host.copy(start.view(), sum.view());
    host.pack_lower(x.view(), packed.view());
    host.add_packed(packed.view(), sum.view());
    for (index_t r = 0; r < n; ++r)
      for (index_t c = 0; c < n; ++c) CHECK(sum(r, c) == (c <= r ? start(r, c) + x(r, c) : start(r, c)));
  }
  test::archetype plain;
  gptq::hessian<test::archetype> h(plain, 3), parts(plain, 3);
  auto const x = random_matrix(8, 3, 7);
  h.add(x);
  for (index_t leaf : {0, 1, 2, 3}) {
    parts.begin_leaf(leaf);
    parts.add(x.view().row_range(2 * leaf, 2));
  }
  matrix_view<double const> const a = h.gram(), c = parts.gram();
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j <= i; ++j) CHECK_THAT(a(i, j), Catch::Matchers::WithinRel(c(i, j), 1e-12));
}

TEST_CASE("leaves: samples in order, as many leaves as there can be up to eight") {
  CHECK(gptq::leaf_of(0, 1) == 0);
  for (index_t samples : {1, 3, 8, 9, 128}) {
    index_t before = 0;
    for (index_t s = 0; s < samples; ++s) {
      index_t const leaf = gptq::leaf_of(s, samples);
      CHECK((leaf == before || leaf == before + 1));
      before = leaf;
    }
    CHECK(before == (std::min)(samples, gptq::most_leaves) - 1);
  }
}
