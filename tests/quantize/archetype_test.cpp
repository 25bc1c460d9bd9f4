/// A backend that has what the forward concept asks for and nothing more: 16-bit activations, and memory that can't be
/// taken for the host's. If the model code leans on anything else of the host backend, this does not compile.
#include "support/archetype.hpp"
#include "support/model.hpp"

#include <gptq/core/float16.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace {

using gptq::bfloat16;
using gptq::index_t;
using gptq::matrix;
using gptq::matrix_view;

struct device_space {};  // a backend's own tag

template <class T>
using device_view = matrix_view<T, device_space>;

template <class T>
class device_matrix {
 public:
  device_matrix() = default;
  explicit device_matrix(matrix<T>&& m) : m_(std::move(m)) {}
  [[nodiscard]] index_t rows() const { return m_.rows(); }
  [[nodiscard]] index_t cols() const { return m_.cols(); }
  operator device_view<T>() { return {m_.data(), m_.rows(), m_.cols()}; }
  operator device_view<T const>() const { return {m_.data(), m_.rows(), m_.cols()}; }

 private:
  matrix<T> m_;
};

/// Each verb rounds its results to bfloat16 and computes in float.
class archetype {
 public:
  using space = device_space;
  using activation = bfloat16;
  template <class T>
  using matrix_type = device_matrix<T>;
  using view = device_view<bfloat16>;
  using const_view = device_view<bfloat16 const>;
  using table = device_view<float const>;
  using ids = device_view<std::int32_t const>;

  archetype() = default;
  archetype(archetype const&) = delete;
  archetype& operator=(archetype const&) = delete;

  template <class T>
  device_matrix<T> make(index_t rows, index_t cols) {
    matrix<T> m(rows, cols);
    std::fill_n(m.data(), m.size(), test::poison<T>());  // whoever reads what nobody has written fails
    return device_matrix<T>(std::move(m));
  }
  template <class To, class From>
  device_matrix<To> adopt(matrix<From>&& from) {
    matrix<To> to(from.rows(), from.cols());
    for (index_t i = 0; i < to.size(); ++i)
      if constexpr (std::is_same_v<To, From>)
        to.data()[i] = from.data()[i];
      else
        to.data()[i] = gptq::from_float<To>(from.data()[i]);
    return device_matrix<To>(std::move(to));
  }
  void copy(const_view from, view to) { store(load(from), to); }
  void download(const_view from, matrix_view<bfloat16> to) {
    for (index_t r = 0; r < from.rows; ++r) std::copy(from.row(r), from.row(r) + from.cols, to.row(r));
  }
  void embed(ids i, const_view t, float scale, view y) {
    compute(y, [&](auto out) { host_.embed(same(i), load(t), scale, out); });
  }
  void rms_norm(const_view x, const_view w, float eps, bool unit_offset, view y) {
    compute(y, [&](auto out) { host_.rms_norm(load(x), load(w), eps, unit_offset, out); });
  }
  void norm_heads(view x, gptq::head_layout layout, index_t heads, const_view w, float eps, bool unit_offset) {
    compute(x, [&](auto out) { host_.norm_heads(out, layout, heads, load(w), eps, unit_offset); });
  }
  void linear(const_view x, const_view w, const_view bias, view y) {
    compute(y, [&](auto out) { host_.linear(load(x), load(w), load(bias), out); });
  }
  void add_linear(const_view x, const_view w, const_view bias, view y) {
    compute(y, [&](auto out) { host_.add_linear(load(x), load(w), load(bias), out); });
  }
  void rotate(view x, gptq::head_layout layout, index_t heads, table cosines, table sines, ids positions) {
    compute(x, [&](auto out) { host_.rotate(out, layout, heads, same(cosines), same(sines), same(positions)); });
  }
  void attention(const_view q, const_view k, const_view v, gptq::sequence_bounds bounds,
                 gptq::attention_shape const& shape, view y) {
    compute(y, [&](auto out) { host_.attention(load(q), load(k), load(v), bounds, shape, out); });
  }
  void gated_activation(gptq::activation_function f, const_view gate, const_view up, view y) {
    compute(y, [&](auto out) { host_.gated_activation(f, load(gate), load(up), out); });
  }
  void add(const_view x, view y) {
    compute(y, [&](auto out) { host_.add(load(x), out); });
  }
  void softcap(float cap, view y) {
    compute(y, [&](auto out) { host_.softcap(cap, out); });
  }
  void cross_entropy(const_view logits, ids targets, std::span<double> nll) {
    host_.cross_entropy(load(logits), same(targets), nll);
  }
  void divergence(const_view p, const_view q, std::span<double> kl, std::span<std::uint8_t> same_top) {
    host_.divergence(load(p), load(q), kl, same_top);
  }

 private:
  template <class T>
  static matrix_view<T> same(device_view<T> v) {
    return {v.data, v.rows, v.cols, v.stride};
  }
  static matrix<float> load(const_view v) {
    matrix<float> m(v.rows, v.cols);
    for (index_t r = 0; r < v.rows; ++r)
      for (index_t c = 0; c < v.cols; ++c) m(r, c) = gptq::to_float(v(r, c));
    return m;
  }
  static void store(matrix<float> const& m, view v) {
    for (index_t r = 0; r < v.rows; ++r)
      for (index_t c = 0; c < v.cols; ++c) v(r, c) = gptq::to_bfloat16(m(r, c));
  }
  template <class F>
  static void compute(view y, F&& f) {
    matrix<float> out = load(y);
    f(out.view());
    store(out, y);
  }

  gptq::host_forward host_;
};

static_assert(gptq::evaluation_backend<archetype>);

/// Without attention it is none.
class without_attention : public archetype {
  using archetype::attention;
};
static_assert(!gptq::forward_backend<without_attention>);

}  // namespace

TEST_CASE("archetype: the model code runs on 16-bit activations in memory of its own") {
  auto const path = test::bundled_model();
  test::golden const expected(path / "golden.safetensors");
  archetype b;
  double const error = test::golden_error(b, gptq::model_weights(path), expected);
  CHECK(error <= 0.3);                // the bound for bfloat16
  CHECK(error > test::golden_bound);  // it did not run in float
}

TEST_CASE("archetype: evaluation and the walk group by group compile and run on it") {
  test::temp_dir const dir;
  gptq::model_weights const weights(test::tiny_model().write(dir));
  archetype b;
  gptq::evaluation_options options;
  options.context = 8;
  auto const ids = test::random_samples({40}, 32, 1).front();
  gptq::host_forward host;
  double const exact = gptq::evaluate(host, weights, ids, options).perplexity;
  auto const e = gptq::evaluate(b, weights, ids, options, &weights);
  CHECK_THAT(e.perplexity, Catch::Matchers::WithinRel(exact, 0.05));
  CHECK(*e.kl == 0);

  gptq::activations<archetype> states(b, weights.config(), weights.layers(), {ids},
                                      b.adopt<bfloat16>(weights.embedding()));
  auto const block = gptq::load_layer(b, weights, 0);
  auto saved = states.save();
  index_t rows = 0;
  for (std::size_t group = 0; group < block.groups.size(); ++group)
    states.collect(group, block, [&](auto x, auto const&) { rows += x.rows; });
  states.advance(block);
  states.restore(std::move(saved));
  CHECK(rows == 160);
}
