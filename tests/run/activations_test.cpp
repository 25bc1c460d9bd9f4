#include "support/model.hpp"

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

using gptq::index_t;
using gptq::matrix;
using gptq::matrix_view;
using B = gptq::host_forward;
using stream = gptq::activations<B>;  // of one model

namespace {

double max_difference(matrix_view<float const> a, matrix_view<float const> b) {
  REQUIRE(a.rows == b.rows);
  REQUIRE(a.cols == b.cols);
  double most = 0;
  for (index_t r = 0; r < a.rows; ++r)
    for (index_t c = 0; c < a.cols; ++c) {
      double const d = std::abs(double(a(r, c)) - double(b(r, c)));
      if (!(d <= most)) most = d;
    }
  return most;
}

/// Products of other heights round otherwise; states are of size 1 to 10.
constexpr double rounding = 2e-5;

struct fixture {
  test::temp_dir dir;
  gptq::model_weights weights{test::tiny_model().write(dir)};
  B b;
  test::samples samples = test::random_samples({5, 0, 1, 17, 30, 4, 4, 9}, 32, 5);

  stream start(gptq::activation_options const& options = {}) {
    return {b, weights.config(), weights.layers(), samples, weights.embedding(), options};
  }
  /// All inputs of a group, one under the other.
  matrix<float> inputs(stream& s, std::size_t group, gptq::layer_weights<B> const& block) {
    matrix<float> all(s.tokens(), block.graph->groups[group].inputs());
    s.collect(group, block, [&](auto x, auto const& chunk) {
      REQUIRE(x.rows == chunk.rows);
      b.copy(x, all.view().row_range(chunk.first, chunk.rows));
    });
    return all;
  }
};

}  // namespace

TEST_CASE("activations: the states before the first block are rows of the embedding") {
  fixture f;
  auto s = f.start();
  CHECK(s.tokens() == 70);
  auto const embedding = f.weights.embedding();
  index_t row = 0;
  for (auto const& sample : f.samples)
    for (std::int32_t const id : sample) {
      for (index_t c = 0; c < 16; ++c) CHECK(s.hidden_states()(row, c) == embedding(id, c));
      ++row;
    }
}

TEST_CASE("activations: micro-batches are groups of whole samples, a long one alone, empty ones nowhere") {
  fixture f;
  auto const s = f.start({.micro_batch = 16});
  std::vector<std::vector<index_t>> bounds;
  index_t row = 0;
  for (auto const& chunk : s.micro_batches()) {
    CHECK(chunk.first == row);
    CHECK(chunk.bounds.back() == chunk.rows);
    row += chunk.rows;
    bounds.push_back(chunk.bounds);
    for (std::size_t i = 0; i + 1 < chunk.bounds.size(); ++i)
      for (index_t t = chunk.bounds[i]; t < chunk.bounds[i + 1]; ++t)
        CHECK(chunk.positions(0, t) == t - chunk.bounds[i]);
  }
  CHECK(bounds == std::vector<std::vector<index_t>>{{0, 5, 6}, {0, 17}, {0, 30}, {0, 4, 8}, {0, 9}});
}

TEST_CASE("activations: no micro-batch crosses the border of a leaf") {
  fixture f;
  auto const s = f.start({.micro_batch = 100, .leaves = 4});  // two samples a leaf, of which one has no token
  std::vector<std::pair<index_t, index_t>> leaves;
  for (auto const& batch : s.micro_batches()) leaves.emplace_back(batch.leaf, batch.rows);
  CHECK(leaves == std::vector<std::pair<index_t, index_t>>{{0, 5}, {1, 18}, {2, 34}, {3, 13}});
}

TEST_CASE("activations: stage by group gives what a whole block gives, wherever things are kept") {
  fixture f;
  gptq::activation_options options;
  options.keep_bytes = GENERATE(std::size_t(0), std::size_t(1) << 20);
  options.micro_batch = GENERATE(index_t(1), index_t(16), index_t(1000));
  auto whole = f.start();
  auto staged = f.start(options);
  for (index_t i = 0; i < 2; ++i) {
    auto const block = gptq::load_layer(f.b, f.weights, i);
    whole.run(block);
    for (std::size_t group = 0; group < block.groups.size(); ++group) f.inputs(staged, group, block);
    staged.advance(block);
    CHECK(max_difference(whole.hidden_states(), staged.hidden_states()) <= rounding);
  }
}

TEST_CASE("activations: a sample alone gives what it gives among others") {
  fixture f;
  auto together = f.start();
  auto const block = gptq::load_layer(f.b, f.weights, 0);
  together.run(block);
  index_t row = 0;
  for (auto const& sample : f.samples) {
    if (sample.empty()) continue;
    stream alone(f.b, f.weights.config(), f.weights.layers(), {sample}, f.weights.embedding());
    alone.run(block);
    CHECK(max_difference(alone.hidden_states(), together.hidden_states().row_range(row, alone.tokens())) <= rounding);
    row += alone.tokens();
  }
}

TEST_CASE("activations: the inputs of each group are what the block computes there") {
  fixture f;
  auto const block = gptq::load_layer(f.b, f.weights, 0);
  auto s = f.start();
  auto const x0 = f.inputs(s, 0, block);
  auto const x1 = f.inputs(s, 1, block);
  auto const saved = s.save();
  auto const h = saved.all();
  auto const x2 = f.inputs(s, 2, block);
  auto const x3 = f.inputs(s, 3, block);

  // Group 0: rows of unit mean square, before the norm's weight.
  for (index_t t = 0; t < s.tokens(); ++t) {
    double squares = 0;
    for (index_t c = 0; c < 16; ++c) {
      double const v = double(x0(t, c)) / double(block.tensors[0](0, c));
      squares += v * v;
    }
    CHECK_THAT(squares / 16, Catch::Matchers::WithinAbs(1, 1e-3));
  }
  // Group 1: the first token of a sample attends to itself alone, so its context is its value.
  index_t row = 0;
  for (auto const& sample : f.samples) {
    if (sample.empty()) continue;
    for (index_t c = 0; c < 16; ++c) {
      double value = double(block.groups[0].bias(0, 24 + c % 8));
      for (index_t k = 0; k < 16; ++k) value += double(x0(row, k)) * double(block.groups[0].weight(24 + c % 8, k));
      CHECK_THAT(double(x1(row, c)), Catch::Matchers::WithinAbs(value, rounding));
    }
    row += static_cast<index_t>(sample.size());
  }
  // Group 2 follows from the states and group 1, group 3 from group 2.
  matrix<float> states(h.rows, h.cols);
  f.b.copy(h, states.view());
  gptq::multiply<true>(f.b, block.groups[1], x1, states.view());
  CHECK(max_difference(states, s.hidden_states()) <= rounding);
  for (index_t t = 0; t < s.tokens(); ++t)
    for (index_t n = 0; n < 24; ++n) {
      double gate = 0;
      double up = 0;
      for (index_t k = 0; k < 16; ++k) {
        gate += double(x2(t, k)) * double(block.groups[2].weight(n, k));
        up += double(x2(t, k)) * double(block.groups[2].weight(24 + n, k));
      }
      CHECK_THAT(double(x3(t, n)), Catch::Matchers::WithinAbs(gate / (1 + std::exp(-gate)) * up, rounding));
    }
}

TEST_CASE("activations: a group runs on the weights that groups before it were given") {
  fixture f;
  auto const block = gptq::load_layer(f.b, f.weights, 0);
  std::size_t const changed = GENERATE(0u, 1u, 2u, 3u);
  auto plain = f.start();
  auto other = f.start();
  auto edited = gptq::load_layer(f.b, f.weights, 0);
  std::vector<double> difference;
  for (std::size_t group = 0; group < block.groups.size(); ++group) {
    auto const a = f.inputs(plain, group, block);
    difference.push_back(max_difference(a, f.inputs(other, group, edited)));
    auto& w = edited.groups[group].weight;
    if (group == changed)
      for (index_t i = 0; i < w.size(); ++i) w.data()[i] *= 1.5f;
  }
  plain.advance(block);
  other.advance(edited);
  for (std::size_t group = 0; group < block.groups.size(); ++group)
    CHECK((difference[group] > 1e-3) == (group > changed));
  CHECK(max_difference(plain.hidden_states(), other.hidden_states()) > 1e-3);
  // And it is what running the edited block from the start gives.
  auto whole = f.start();
  whole.run(edited);
  CHECK(max_difference(whole.hidden_states(), other.hidden_states()) <= rounding);
}

TEST_CASE("activations: saved states bring a second way through a block") {
  fixture f;
  auto const block = gptq::load_layer(f.b, f.weights, 0);
  auto s = f.start();
  auto saved = s.save();
  std::size_t const reached = GENERATE(0u, 1u, 3u, 4u);
  for (std::size_t group = 0; group < reached; ++group) f.inputs(s, group, block);
  s.restore(std::move(saved));
  s.run(block);
  auto fresh = f.start();
  fresh.run(block);
  CHECK(max_difference(s.hidden_states(), fresh.hidden_states()) == 0);
}

TEST_CASE("activations: two models can be walked by micro-batches side by side") {
  fixture f;
  auto const block = gptq::load_layer(f.b, f.weights, 0);
  auto first = f.start({.micro_batch = 16});
  auto second = f.start({.micro_batch = 16});
  for (std::size_t group = 0; group < block.groups.size(); ++group)
    for (std::size_t c = 0; c < first.micro_batches().size(); ++c) {
      auto const x = first.input(group, block, c);
      auto const y = second.input(group, block, c);
      CHECK(max_difference(x, y) == 0);
      CHECK(x.data != y.data);
    }
}

TEST_CASE("activations: groups out of order are refused") {
  fixture f;
  auto const block = gptq::load_layer(f.b, f.weights, 0);
  auto s = f.start();
  auto const ignore = [](auto, auto const&) {};
  CHECK_THROWS_AS(s.collect(1, block, ignore), gptq::shape_error);
  CHECK_THROWS_AS(s.advance(block), gptq::shape_error);
  s.collect(0, block, ignore);
  CHECK_THROWS_AS(s.collect(0, block, ignore), gptq::shape_error);
  CHECK_THROWS_AS(s.run(block), gptq::shape_error);
  CHECK_THROWS_AS(s.restore(gptq::token_rows<B>(f.b, 3, 16, false, 3)), gptq::shape_error);
}

TEST_CASE("activations: no tokens and ids outside the vocabulary are refused") {
  fixture f;
  f.samples = {{}, {}};
  CHECK_THROWS_AS(f.start(), gptq::shape_error);
  f.samples = {};
  CHECK_THROWS_AS(f.start(), gptq::shape_error);
  f.samples = {{1, 2}, {3, 32}};
  CHECK_THAT(test::message_of<gptq::shape_error>([&] { f.start(); }),
             test::contains("sample 1") && test::contains("32"));
}

namespace {

/// A backend whose states may wait elsewhere. A copy ahead takes what is there when it begins, and is there when it is
/// waited for and not before.
class lending_backend : public B {
 public:
  static constexpr bool fetches = true;
  struct lent {
    matrix<float> m;
    matrix_view<float> view() { return m.view(); }
  };
  template <class T>
  lent make_pinned(index_t rows, index_t cols) {
    return {matrix<T>(rows, cols)};
  }
  void fetch(matrix_view<float> from, matrix_view<float> to) { copy(from, to); }
  void store(matrix_view<float> from, matrix_view<float> to) { copy(from, to); }
  void fetch_ahead(matrix_view<float> from, matrix_view<float> to) {
    on_the_way_.push_back({matrix<float>(from.rows, from.cols), to});
    copy(from, on_the_way_.back().first.view());
  }
  void join_fetch() {
    for (auto& [values, to] : on_the_way_) copy(matrix_view<float const>(values.view()), to);
    fetched += static_cast<int>(on_the_way_.size());
    on_the_way_.clear();
  }
  int fetched = 0;

 private:
  std::vector<std::pair<matrix<float>, matrix_view<float>>> on_the_way_;
};
static_assert(gptq::fetching_backend<lending_backend> && gptq::fetches_as_promised<lending_backend>);
static_assert(!gptq::fetching_backend<B>);

}  // namespace

TEST_CASE("activations: states that wait in host memory go through the same steps") {
  fixture f;
  lending_backend lending;
  gptq::activation_options options;
  options.keep_bytes = GENERATE(std::size_t(0), std::size_t(1) << 20);
  options.micro_batch = GENERATE(index_t(1), index_t(16), index_t(30), index_t(1000));
  auto plain = f.start(options);
  options.on_host = true;
  gptq::activations<lending_backend> lent(lending, f.weights.config(), f.weights.layers(), f.samples,
                                          f.weights.embedding(), options);
  CHECK_THROWS_AS(lent.hidden_states(), gptq::shape_error);
  CHECK_THROWS_AS(f.start(options), gptq::shape_error);
  for (index_t i = 0; i < 2; ++i) {
    auto const block = gptq::load_layer(f.b, f.weights, i);
    auto const same = gptq::load_layer(lending, f.weights, i);
    auto before = lent.save();
    for (int round = 0; round < 2; ++round) {
      for (std::size_t group = 0; group < block.groups.size(); ++group)
        for (std::size_t c = 0; c < plain.micro_batches().size(); ++c) {
          auto const x = lent.input(group, same, c);
          if (round == 1) CHECK(max_difference(plain.input(group, block, c), x) == 0);
        }
      if (round == 0) lent.restore(std::move(before));
    }
    plain.advance(block);
    lent.advance(same);
  }
  if (plain.micro_batches().size() > 1) CHECK(lending.fetched > 0);
}

TEST_CASE("activations: with less memory, before any group, it goes on in smaller micro-batches") {
  fixture f;
  auto plain = f.start();
  auto small = f.start();
  auto const block = gptq::load_layer(f.b, f.weights, 0);
  std::size_t const at = GENERATE(0u, 1u, 2u, 3u, 4u);
  int reductions = 0;
  for (std::size_t group = 0; group <= block.groups.size(); ++group) {
    if (group == at)
      while (small.reduce()) ++reductions;
    if (group == block.groups.size()) break;
    auto const a = f.inputs(plain, group, block);
    auto const b = f.inputs(small, group, block);
    CHECK(max_difference(a, b) <= rounding);
  }
  plain.advance(block);
  small.advance(block);
  CHECK(max_difference(plain.hidden_states(), small.hidden_states()) <= rounding);
  CHECK(reductions == 3);  // nothing kept of the last group; chunks of up to 35 tokens; of 30, the longest sample
  CHECK(small.micro_batch() == 17);  // which the longest sample exceeds
  small.input(0, block, 0);
  CHECK_FALSE(small.reduce());
}
