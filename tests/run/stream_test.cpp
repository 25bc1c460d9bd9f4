#include "support/model.hpp"

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

using gptq::index_t;
using gptq::matrix;
using gptq::matrix_view;
using B = gptq::host_forward;
using stream = gptq::token_stream<B>;

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

  stream start(gptq::stream_options const& options = {}) {
    return {b, weights.config(), samples, weights.embedding(), options};
  }
  /// All inputs of a stage, one under the other.
  matrix<float> inputs(stream& s, int stage, gptq::block_weights<B> const& block) {
    matrix<float> all(s.tokens(), s.config().stage_inputs(stage));
    s.collect(stage, block, [&](auto x, auto const& chunk) {
      REQUIRE(x.rows == chunk.rows);
      b.copy(x, all.view().row_range(chunk.first, chunk.rows));
    });
    return all;
  }
};

}  // namespace

TEST_CASE("stream: the states before the first block are rows of the embedding") {
  fixture f;
  auto s = f.start();
  CHECK(s.tokens() == 70);
  auto const embedding = f.weights.embedding();
  index_t row = 0;
  for (auto const& sample : f.samples)
    for (std::int32_t const id : sample) {
      for (index_t c = 0; c < 16; ++c) CHECK(s.states()(row, c) == embedding(id, c));
      ++row;
    }
}

TEST_CASE("stream: chunks are groups of whole samples, a long one alone, empty ones nowhere") {
  fixture f;
  auto const s = f.start({.chunk_tokens = 16});
  std::vector<std::vector<index_t>> bounds;
  index_t row = 0;
  for (auto const& chunk : s.chunks()) {
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

TEST_CASE("stream: stage by stage gives what a whole block gives, wherever things are kept") {
  fixture f;
  gptq::stream_options options;
  options.keep_bytes = GENERATE(std::size_t(0), std::size_t(1) << 20);
  options.chunk_tokens = GENERATE(index_t(1), index_t(16), index_t(1000));
  auto whole = f.start();
  auto staged = f.start(options);
  for (index_t i = 0; i < 2; ++i) {
    auto const block = gptq::load_block(f.b, f.weights, i);
    whole.run(block);
    for (int stage = 0; stage < gptq::stage_count; ++stage) f.inputs(staged, stage, block);
    staged.advance(block);
    CHECK(max_difference(whole.states(), staged.states()) <= rounding);
  }
}

TEST_CASE("stream: a sample alone gives what it gives among others") {
  fixture f;
  auto together = f.start();
  auto const block = gptq::load_block(f.b, f.weights, 0);
  together.run(block);
  index_t row = 0;
  for (auto const& sample : f.samples) {
    if (sample.empty()) continue;
    stream alone(f.b, f.weights.config(), {sample}, f.weights.embedding());
    alone.run(block);
    CHECK(max_difference(alone.states(), together.states().row_range(row, alone.tokens())) <= rounding);
    row += alone.tokens();
  }
}

TEST_CASE("stream: the inputs of each stage are what the block computes there") {
  fixture f;
  auto const block = gptq::load_block(f.b, f.weights, 0);
  auto s = f.start();
  gptq::decoder_block<B> const decoder(f.b, f.weights.config(), {30});
  auto const x0 = f.inputs(s, 0, block);
  auto const x1 = f.inputs(s, 1, block);
  auto const saved = s.save();
  auto const h = saved.all();
  auto const x2 = f.inputs(s, 2, block);
  auto const x3 = f.inputs(s, 3, block);

  // Stage 0: rows of unit mean square, before the norm's weight.
  for (index_t t = 0; t < s.tokens(); ++t) {
    double squares = 0;
    for (index_t c = 0; c < 16; ++c) {
      double const v = double(x0(t, c)) / double(block.norms[gptq::attention_norm](0, c));
      squares += v * v;
    }
    CHECK_THAT(squares / 16, Catch::Matchers::WithinAbs(1, 1e-3));
  }
  // Stage 1: the first token of a sample attends to itself alone, so its context is its value.
  index_t row = 0;
  for (auto const& sample : f.samples) {
    if (sample.empty()) continue;
    for (index_t c = 0; c < 16; ++c) {
      double value = double(block.stages[0].bias(0, 24 + c % 8));
      for (index_t k = 0; k < 16; ++k) value += double(x0(row, k)) * double(block.stages[0].weight(24 + c % 8, k));
      CHECK_THAT(double(x1(row, c)), Catch::Matchers::WithinAbs(value, rounding));
    }
    row += static_cast<index_t>(sample.size());
  }
  // Stage 2 follows from the states and stage 1, stage 3 from stage 2.
  matrix<float> states(h.rows, h.cols);
  f.b.copy(h, states.view());
  decoder.add_context(block, x1, {}, states);
  CHECK(max_difference(states, s.states()) <= rounding);
  for (index_t t = 0; t < s.tokens(); ++t)
    for (index_t n = 0; n < 24; ++n) {
      double gate = 0;
      double up = 0;
      for (index_t k = 0; k < 16; ++k) {
        gate += double(x2(t, k)) * double(block.stages[2].weight(n, k));
        up += double(x2(t, k)) * double(block.stages[2].weight(24 + n, k));
      }
      CHECK_THAT(double(x3(t, n)), Catch::Matchers::WithinAbs(gate / (1 + std::exp(-gate)) * up, rounding));
    }
}

TEST_CASE("stream: a stage runs on the weights that stages before it were given") {
  fixture f;
  auto const block = gptq::load_block(f.b, f.weights, 0);
  int const changed = GENERATE(0, 1, 2, 3);
  auto plain = f.start();
  auto other = f.start();
  auto edited = gptq::load_block(f.b, f.weights, 0);
  std::vector<double> difference;
  for (int stage = 0; stage < gptq::stage_count; ++stage) {
    auto const a = f.inputs(plain, stage, block);
    difference.push_back(max_difference(a, f.inputs(other, stage, edited)));
    auto& w = edited.stages[static_cast<std::size_t>(stage)].weight;
    if (stage == changed)
      for (index_t i = 0; i < w.size(); ++i) w.data()[i] *= 1.5f;
  }
  plain.advance(block);
  other.advance(edited);
  for (int stage = 0; stage < gptq::stage_count; ++stage)
    CHECK((difference[static_cast<std::size_t>(stage)] > 1e-3) == (stage > changed));
  CHECK(max_difference(plain.states(), other.states()) > 1e-3);
  // And it is what running the edited block from the start gives.
  auto whole = f.start();
  whole.run(edited);
  CHECK(max_difference(whole.states(), other.states()) <= rounding);
}

TEST_CASE("stream: saved states bring a second way through a block") {
  fixture f;
  auto const block = gptq::load_block(f.b, f.weights, 0);
  auto s = f.start();
  auto saved = s.save();
  int const reached = GENERATE(0, 1, 3, 4);
  for (int stage = 0; stage < reached; ++stage) f.inputs(s, stage, block);
  s.restore(std::move(saved));
  s.run(block);
  auto fresh = f.start();
  fresh.run(block);
  CHECK(max_difference(s.states(), fresh.states()) == 0);
}

TEST_CASE("stream: two streams can be walked chunk by chunk side by side") {
  fixture f;
  auto const block = gptq::load_block(f.b, f.weights, 0);
  auto first = f.start({.chunk_tokens = 16});
  auto second = f.start({.chunk_tokens = 16});
  for (int stage = 0; stage < gptq::stage_count; ++stage)
    for (std::size_t c = 0; c < first.chunks().size(); ++c) {
      auto const x = first.input(stage, block, c);
      auto const y = second.input(stage, block, c);
      CHECK(max_difference(x, y) == 0);
      CHECK(x.data != y.data);
    }
}

TEST_CASE("stream: stages out of order are refused") {
  fixture f;
  auto const block = gptq::load_block(f.b, f.weights, 0);
  auto s = f.start();
  auto const ignore = [](auto, auto const&) {};
  CHECK_THROWS_AS(s.collect(1, block, ignore), gptq::shape_error);
  CHECK_THROWS_AS(s.advance(block), gptq::shape_error);
  s.collect(0, block, ignore);
  CHECK_THROWS_AS(s.collect(0, block, ignore), gptq::shape_error);
  CHECK_THROWS_AS(s.run(block), gptq::shape_error);
  CHECK_THROWS_AS(s.restore(gptq::token_rows<B>(f.b, 3, 16, false, 3)), gptq::shape_error);
}

TEST_CASE("stream: no tokens and ids outside the vocabulary are refused") {
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
static_assert(gptq::fetching_backend<lending_backend> && !gptq::fetching_backend<B>);

}  // namespace

TEST_CASE("stream: states that wait in host memory go through the same steps") {
  fixture f;
  lending_backend lending;
  gptq::stream_options options;
  options.keep_bytes = GENERATE(std::size_t(0), std::size_t(1) << 20);
  options.chunk_tokens = GENERATE(index_t(1), index_t(16), index_t(30), index_t(1000));
  auto plain = f.start(options);
  options.states_on_host = true;
  gptq::token_stream<lending_backend> lent(lending, f.weights.config(), f.samples, f.weights.embedding(), options);
  CHECK_THROWS_AS(lent.states(), gptq::shape_error);
  CHECK_THROWS_AS(f.start(options), gptq::shape_error);
  for (index_t i = 0; i < 2; ++i) {
    auto const block = gptq::load_block(f.b, f.weights, i);
    auto const same = gptq::load_block(lending, f.weights, i);
    auto before = lent.save();
    for (int round = 0; round < 2; ++round) {
      for (int stage = 0; stage < gptq::stage_count; ++stage)
        for (std::size_t c = 0; c < plain.chunks().size(); ++c) {
          auto const x = lent.input(stage, same, c);
          if (round == 1) CHECK(max_difference(plain.input(stage, block, c), x) == 0);
        }
      if (round == 0) lent.restore(std::move(before));
    }
    plain.advance(block);
    lent.advance(same);
  }
  if (plain.chunks().size() > 1) CHECK(lending.fetched > 0);
}

TEST_CASE("stream: with less memory, before any stage, it goes on in smaller chunks") {
  fixture f;
  auto plain = f.start();
  auto small = f.start();
  auto const block = gptq::load_block(f.b, f.weights, 0);
  int const at = GENERATE(0, 1, 2, 3, 4);
  int reductions = 0;
  for (int stage = 0; stage <= gptq::stage_count; ++stage) {
    if (stage == at)
      while (small.reduce()) ++reductions;
    if (stage == gptq::stage_count) break;
    auto const a = f.inputs(plain, stage, block);
    auto const b = f.inputs(small, stage, block);
    CHECK(max_difference(a, b) <= rounding);
  }
  plain.advance(block);
  small.advance(block);
  CHECK(max_difference(plain.states(), small.states()) <= rounding);
  CHECK(reductions == 3);  // nothing kept of the last stage; chunks of up to 35 tokens; of 30, the longest sample
  CHECK(small.chunk_tokens() == 30);
  small.input(0, block, 0);
  CHECK_FALSE(small.reduce());
}
