/// The workers of one process: every verb with 1 to 5 workers, and what happens when one of them fails.
#include "support/catch.hpp"
#include "support/message_of.hpp"

#include <gptq/comm/solo.hpp>
#include <gptq/comm/threads.hpp>

#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

using gptq::index_range;
using gptq::index_t;
using gptq::matrix;
using gptq::matrix_view;
using gptq::thread_worker;
using gptq::worker_state;

static_assert(gptq::communicator<thread_worker>);
static_assert(gptq::communicator<gptq::solo<>>);
struct other_space {};
static_assert(gptq::communicator<gptq::solo<other_space>>);

namespace {

struct silent : gptq::solo<> {  // not a communicator: nobody learns how it stands
  void agree(gptq::worker_status const&);
};
static_assert(!gptq::communicator<silent>);

using leaf_list = std::vector<matrix<float>>;

/// Leaves whose sum depends on the order of addition.
leaf_list make_leaves(index_t count, index_t rows, index_t cols) {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> value(-1, 1);
  leaf_list all;
  for (index_t l = 0; l < count; ++l) {
    matrix<float>& m = all.emplace_back(rows, cols);
    for (index_t i = 0; i < m.size(); ++i) m.data()[i] = value(random) * (l % 3 == 0 ? 1000.0f : 1.0f);
  }
  return all;
}

matrix<float> copy_of(matrix<float> const& m) {
  matrix<float> c(m.rows(), m.cols());
  std::copy_n(m.data(), m.size(), c.data());
  return c;
}

int root_level(index_t leaves) {
  int level = 0;
  while ((index_t(1) << level) < leaves) ++level;
  return level;
}

/// The definition, written down: node (level, index) of a tree over the leaves.
matrix<float> node_of(leaf_list const& leaves, int level, index_t index) {
  if (level == 0) return copy_of(leaves[static_cast<std::size_t>(index)]);
  auto left = node_of(leaves, level - 1, 2 * index);
  if ((2 * index + 1) << (level - 1) >= static_cast<index_t>(leaves.size())) return left;
  auto const right = node_of(leaves, level - 1, 2 * index + 1);
  for (index_t i = 0; i < left.size(); ++i) left.data()[i] = left.data()[i] + right.data()[i];
  return left;
}

struct owned_node {
  int level;
  index_t index;
  matrix<float> sum;
};

/// The largest nodes that hold the leaves of a range and no others.
void add_nodes(leaf_list const& leaves, index_range range, int level, index_t index, std::vector<owned_node>& to) {
  auto const all = static_cast<index_t>(leaves.size());
  index_t const first = index << level, end = std::min((index + 1) << level, all);
  if (end <= range.first || first >= range.first + range.count || first >= end) return;
  if (first >= range.first && end <= range.first + range.count) {
    to.push_back({level, index, node_of(leaves, level, index)});
    return;
  }
  add_nodes(leaves, range, level - 1, 2 * index, to);
  add_nodes(leaves, range, level - 1, 2 * index + 1, to);
}

std::vector<owned_node> nodes_of(leaf_list const& leaves, index_range range) {
  std::vector<owned_node> nodes;
  add_nodes(leaves, range, root_level(static_cast<index_t>(leaves.size())), 0, nodes);
  return nodes;
}

std::vector<gptq::tree_node<float>> views_of(std::vector<owned_node> const& nodes) {
  std::vector<gptq::tree_node<float>> views;
  for (auto const& n : nodes) views.push_back({n.level, n.index, n.sum.view()});
  return views;
}

bool same(matrix<float> const& a, matrix<float> const& b) {
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

/// The root as every worker gets it, workers holding the leaves in order.
std::vector<matrix<float>> summed(leaf_list const& leaves, int workers,
                                  std::vector<gptq::worker_traffic>* traffic = nullptr) {
  std::vector<matrix<float>> totals(static_cast<std::size_t>(workers));
  if (traffic) traffic->resize(totals.size());
  gptq::run_workers(workers, [&](thread_worker& c) {
    auto const count = static_cast<index_t>(leaves.size());
    auto nodes = nodes_of(leaves, gptq::share_of(count, c.rank(), c.size()));
    auto& total = totals[static_cast<std::size_t>(c.rank())];
    total = matrix<float>(leaves[0].rows(), leaves[0].cols());
    std::fill_n(total.data(), total.size(), -7.0f);
    auto const views = views_of(nodes);
    c.sum(std::span(views), total.view());
    if (traffic) (*traffic)[static_cast<std::size_t>(c.rank())] = c.received();
  });
  return totals;
}

}  // namespace

TEST_CASE("deal: whole units, in order, none lost") {
  CHECK(gptq::deal(16, 3) == std::vector<index_t>{0, 6, 11, 16});
  CHECK(gptq::deal(10, 2, 4) == std::vector<index_t>{0, 8, 10});
  CHECK(gptq::deal(2, 4) == std::vector<index_t>{0, 1, 1, 2, 2});
  CHECK(gptq::deal(0, 2) == std::vector<index_t>{0, 0, 0});
  CHECK(gptq::share_of(10, 1, 2, 4).first == 8);
  CHECK(gptq::share_of(10, 1, 2, 4).count == 2);
}

TEST_CASE("sum: bit for bit the tree over all leaves, for any number of workers and leaves") {
  for (index_t const count : {1, 2, 3, 5, 13, 16}) {
    auto const leaves = make_leaves(count, 7, 5);
    auto const expected = node_of(leaves, root_level(count), 0);
    for (int const workers : {1, 2, 3, 4, 5}) {
      CAPTURE(count, workers);
      for (auto const& total : summed(leaves, workers)) CHECK(same(total, expected));
    }
  }
}

TEST_CASE("sum: the same from single leaves as from the largest nodes") {
  for (index_t const count : {1, 5, 6, 13}) {
    auto const leaves = make_leaves(count, 3, 5);
    auto const expected = node_of(leaves, root_level(count), 0);
    matrix<float> totals[2] = {matrix<float>(3, 5), matrix<float>(3, 5)};
    gptq::run_workers(2, [&](thread_worker& c) {
      std::vector<gptq::tree_node<float>> nodes;
      for (index_t l = c.rank(); l < count; l += 2)  // not even a range of leaves
        nodes.push_back({0, l, leaves[static_cast<std::size_t>(l)].view()});
      c.sum<float>(nodes, totals[c.rank()].view());
    });
    for (auto const& total : totals) CHECK(same(total, expected));
  }
}

TEST_CASE("sum: the order of addition matters in these tests") {
  auto const leaves = make_leaves(16, 7, 5);
  matrix<float> forward = copy_of(leaves[0]);
  for (std::size_t l = 1; l < leaves.size(); ++l)
    for (index_t i = 0; i < forward.size(); ++i) forward.data()[i] += leaves[l].data()[i];
  CHECK_FALSE(same(forward, node_of(leaves, 4, 0)));
}

TEST_CASE("sum: a leaf that nobody has is nothing, and without any the sum is 0") {
  auto leaves = make_leaves(5, 2, 3);
  matrix<float> pair(2, 3);  // (0 + 1) + (2 + –) is what the tree of leaves 0, 1, 2 and 4 has on its left
  for (index_t i = 0; i < 6; ++i)
    pair.data()[i] = ((leaves[0].data()[i] + leaves[1].data()[i]) + leaves[2].data()[i]) + leaves[4].data()[i];
  gptq::run_workers(3, [&](thread_worker& c) {
    std::vector<gptq::tree_node<float>> nodes;
    if (c.rank() == 0) nodes = {{0, 0, leaves[0].view()}, {0, 1, leaves[1].view()}, {0, 2, leaves[2].view()}};
    if (c.rank() == 2) nodes = {{0, 4, leaves[4].view()}};
    matrix<float> total(2, 3);
    c.sum<float>(nodes, total.view());
    if (!same(total, pair)) throw gptq::error("another sum");
    c.sum<float>({}, total.view());
    if (std::any_of(total.data(), total.data() + total.size(), [](float x) { return x != 0; }))
      throw gptq::error("not 0");
  });
}

TEST_CASE("sum: the total may lie where one of the own nodes was") {
  auto const leaves = make_leaves(13, 9, 4);
  auto const expected = node_of(leaves, 4, 0);
  for (int const workers : {1, 2, 3, 4}) {
    std::vector<char> right(static_cast<std::size_t>(workers));
    gptq::run_workers(workers, [&](thread_worker& c) {
      auto nodes = nodes_of(leaves, gptq::share_of(13, c.rank(), c.size()));
      auto const views = views_of(nodes);
      c.sum<float>(views, nodes.back().sum.view());
      right[static_cast<std::size_t>(c.rank())] = same(nodes.back().sum, expected);
    });
    for (char const r : right) CHECK(r);
  }
}

TEST_CASE("sum: bytes are those of an all-reduce, within a twentieth, for every worker") {
  constexpr index_t k = 256;
  auto const leaves = make_leaves(16, k / 2, k + 1);  // as many elements as a triangle of 256
  for (int const workers : {1, 2, 4}) {
    std::vector<gptq::worker_traffic> traffic;
    summed(leaves, workers, &traffic);
    double const formula = 2.0 * (workers - 1) / workers * (2.0 * k * k);
    for (auto const& t : traffic) {
      CHECK(static_cast<double>(t.sum) <= 1.05 * formula);
      CHECK(static_cast<double>(t.sum) >= 0.95 * formula);
      CHECK(t.gather + t.share == 0);
    }
  }
}

TEST_CASE("sum: a leaf that two nodes hold is refused, in every worker") {
  auto const leaves = make_leaves(4, 3, 3);
  std::atomic<int> refused{0};
  CHECK(test::message_of<gptq::shape_error>([&] {
          gptq::run_workers(2, [&](thread_worker& c) {
            auto const nodes = nodes_of(leaves, c.rank() == 0 ? index_range{0, 3} : index_range{2, 2});
            matrix<float> total(3, 3);
            try {
              c.sum<float>(views_of(nodes), total.view());
            } catch (gptq::shape_error const&) {
              ++refused;
              throw;
            }
          });
        }) == "sum: two nodes hold leaf 2");
  CHECK(refused == 2);
}

TEST_CASE("gather: tiles of columns come to all, whatever the stride; bytes are what the others have") {
  for (int const workers : {1, 2, 3, 4}) {
    auto const bounds = gptq::deal(10, workers, 4);  // with 4 workers, some have nothing
    gptq::run_workers(workers, [&](thread_worker& c) {
      matrix<std::uint8_t> wide(3, 12);
      std::fill_n(wide.data(), wide.size(), std::uint8_t(255));
      auto const x = wide.view().col_range(1, 10);
      auto const r = static_cast<std::size_t>(c.rank());
      for (index_t i = 0; i < 3; ++i)
        for (index_t j = bounds[r]; j < bounds[r + 1]; ++j) x(i, j) = static_cast<std::uint8_t>(16 * i + j);
      c.gather(x, bounds);
      bool right = wide(0, 0) == 255 && wide(2, 11) == 255;
      for (index_t i = 0; i < 3; ++i)
        for (index_t j = 0; j < 10; ++j) right &= x(i, j) == 16 * i + j;
      if (!right) throw gptq::error("wrong tiles");
      if (c.received().gather != static_cast<std::uint64_t>(3 * (10 - (bounds[r + 1] - bounds[r]))))
        throw gptq::error("wrong bytes");
    });
  }
  CHECK_THROWS_AS(gptq::run_workers(2,
                                    [](thread_worker& c) {
                                      matrix<float> x(1, 10);
                                      c.gather(x.view(), std::vector<index_t>{0, 5, 9});
                                    }),
                  gptq::shape_error);
}

TEST_CASE("share: what one worker has becomes everybody's") {
  for (int const workers : {1, 2, 3, 4})
    for (int root = 0; root < workers; ++root)
      gptq::run_workers(workers, [&](thread_worker& c) {
        matrix<std::int32_t> ids(2, 5);
        std::fill_n(ids.data(), ids.size(), 100 + c.rank());
        c.share(ids.view(), root);
        for (index_t i = 0; i < ids.size(); ++i)
          if (ids.data()[i] != 100 + root) throw gptq::error("wrong ids");
        if (c.received().share != (c.rank() == root ? 0u : 40u)) throw gptq::error("wrong bytes");
      });
}

TEST_CASE("agree: nobody passes before all have come") {
  for (int const workers : {1, 2, 3, 4}) {
    std::atomic<int> come{0};
    gptq::run_workers(workers, [&](thread_worker& c) {
      for (int round = 1; round <= 50; ++round) {
        ++come;
        if (c.agree({}).state != worker_state::ok) throw gptq::error("not ok");
        if (come < round * workers) throw gptq::error("passed too early");
        if (c.agree({}).worker != c.rank()) throw gptq::error("not this worker's status");
      }
    });
  }
}

TEST_CASE("agree: a failure is everybody's, and no verb goes on after it") {
  std::atomic<int> released{0};
  gptq::run_workers(3, [&](thread_worker& c) {
    auto const worst = c.agree(c.rank() == 1 ? gptq::worker_status{worker_state::failed, 0, "the disk is full"}
                                             : gptq::worker_status{});
    if (worst.state != worker_state::failed || worst.worker != 1 || worst.reason != "the disk is full") return;
    matrix<float> x(1, 3);
    try {
      c.share(x.view(), 0);
    } catch (gptq::worker_error const& e) {
      released += std::string(e.what()) == "worker 1: the disk is full" && e.worker == 1;
    }
  });
  CHECK(released == 3);
}

TEST_CASE("run_workers: an exception on one worker releases the others, and is the one that is thrown") {
  for (int const failing : {0, 1, 2}) {
    CAPTURE(failing);
    std::atomic<int> released{0};
    auto const text = test::message_of<gptq::numeric_error>([&] {
      gptq::run_workers(3, [&](thread_worker& c) {
        matrix<float> x(4, 4);
        c.share(x.view(), 0);
        if (c.rank() == failing) throw gptq::numeric_error("layer 3: NaN");
        try {
          c.gather(x.view(), gptq::deal(4, 3));
        } catch (gptq::worker_error const& e) {
          released += std::string(e.what()) == "worker " + std::to_string(failing) + ": layer 3: NaN";
          throw;
        }
      });
    });
    CHECK(text == "layer 3: NaN");
    CHECK(released == 2);
  }
}

TEST_CASE("run_workers: of several failures the lowest rank's, and what isn't an exception's object too") {
  CHECK(test::message_of<gptq::error>([] {
          gptq::run_workers(4, [](thread_worker& c) {
            if (c.agree({}).state == worker_state::ok && c.rank() > 0)
              throw gptq::error("from " + std::to_string(c.rank()));
          });
        }) == "from 1");
  CHECK_THROWS_AS(gptq::run_workers(2,
                                    [](thread_worker& c) {
                                      if (c.rank() == 1) throw 3;
                                      static_cast<void>(c.agree({}));
                                    }),
                  int);
  CHECK_THROWS_AS(gptq::run_workers(0, [](thread_worker&) {}), gptq::shape_error);
}

TEST_CASE("run_workers: a worker that ends early is not waited for") {
  CHECK(test::message_of<gptq::worker_error>([] {
          gptq::run_workers(3, [](thread_worker& c) {
            matrix<float> x(1, 1);
            if (c.rank() != 2) c.share(x.view(), 0);
          });
        }) == "worker 2: has ended, and others wait for it");
}

TEST_CASE("run_workers: a worker that does not come is named when the deadline is over") {
  std::atomic<bool> over{false};
  auto const text = test::message_of<gptq::worker_error>([&] {
    gptq::run_workers(3,
                      [&](thread_worker& c) {
                        matrix<float> x(2, 1);
                        if (c.rank() == 1)
                          while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(1));
                        try {
                          c.share(x.view(), 0);
                        } catch (...) {
                          over = true;
                          throw;
                        }
                      },
                      {.deadline = std::chrono::milliseconds(30)});
  });
  CHECK(text == "worker 1: did not come to share of 2 x 1 elements of 4 bytes of worker 0 within 30 ms");
}

TEST_CASE("run_workers: different verbs or sizes are refused, in every worker") {
  std::atomic<int> refused{0};
  auto const attempt = [&](auto&& first, auto&& second) {
    refused = 0;
    return test::message_of<gptq::shape_error>([&] {
      gptq::run_workers(2, [&](thread_worker& c) {
        matrix<float> x(2, 2);
        try {
          c.rank() == 0 ? first(c, x) : second(c, x);
        } catch (gptq::shape_error const&) {
          ++refused;
          throw;
        }
      });
    });
  };
  auto const share = [](thread_worker& c, matrix<float>& x) { c.share(x.view(), 0); };
  CHECK(attempt(share, [](thread_worker& c, matrix<float>& x) { c.share(x.view().row_range(0, 1), 0); }) ==
        "worker 0 calls share of 2 x 2 elements of 4 bytes of worker 0 where worker 1 calls share of 1 x 2 elements of "
        "4 bytes of worker 0");
  CHECK(refused == 2);
  CHECK_THAT(attempt(share, [](thread_worker& c, matrix<float>&) { static_cast<void>(c.agree({})); }),
             test::contains("where worker 1 calls agree"));
  CHECK(refused == 2);
}

TEST_CASE("solo: the only worker has the root, else it is refused") {
  gptq::solo<> c;
  matrix<float> x(2, 2), y(2, 2);
  std::vector<gptq::tree_node<float>> const nodes{{4, 0, x.view()}};
  c.sum<float>(nodes, x.view());
  CHECK_THROWS_AS(c.sum<float>(nodes, y.view()), gptq::shape_error);
  CHECK(c.size() == 1);
  CHECK(c.agree({worker_state::failed, 0, "no"}).reason == "no");
}
