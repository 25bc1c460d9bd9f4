/// Threads: no result of the host backend depends on their number, and an exception in one of them arrives.
#include "support/catch.hpp"
#include "support/random_linear.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/gptq.hpp>

#include <cstring>
#include <functional>
#include <random>
#include <vector>

#if defined(_OPENMP)

namespace {

using gptq::index_t;
using gptq::matrix;

/// Correlated inputs whose channels differ in strength.
matrix<float> inputs(index_t tokens, index_t features, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> strength(static_cast<std::size_t>(features));
  for (float& s : strength) s = std::exp(0.7f * normal(random));
  matrix<float> x(tokens, features);
  for (index_t t = 0; t < tokens; ++t) {
    float common = 0;
    for (index_t k = 0; k < features; ++k) {
      common = 0.8f * common + normal(random);
      x(t, k) = common * strength[static_cast<std::size_t>(k)];
    }
  }
  return x;
}

matrix<float> near(matrix<float> const& x, unsigned seed) {
  auto const noise = inputs(x.rows(), x.cols(), seed);
  matrix<float> y(x.rows(), x.cols());
  for (index_t i = 0; i < x.size(); ++i) y.data()[i] = x.data()[i] + 0.05f * noise.data()[i];
  return y;
}

class bytes {
 public:
  template <class T>
  void add(matrix<T> const& m) {
    add(m.view());
  }
  template <class T>
  void add(gptq::matrix_view<T> m) {
    for (index_t r = 0; r < m.rows; ++r) {
      auto const* const p = reinterpret_cast<char const*>(m.row(r));
      all_.insert(all_.end(), p, p + static_cast<std::size_t>(m.cols) * sizeof(T));
    }
  }
  bool operator==(bytes const&) const = default;

 private:
  std::vector<char> all_;
};

/// f() with these numbers of threads gives the same bytes.
void check_threads(std::function<bytes()> const& f) {
  int const before = omp_get_max_threads();
  omp_set_num_threads(1);
  bytes const one = f();
  for (int const threads : {2, 3, 4, 16}) {
    omp_set_num_threads(threads);
    CAPTURE(threads);
    CHECK(f() == one);
  }
  omp_set_num_threads(before);
}

/// Everything between the inputs of a layer and its codes, for a stack of `out` outputs.
bytes solve(index_t in, index_t out, index_t tokens, gptq::quant_spec const& spec, gptq::preset const& preset) {
  auto const x = inputs(tokens, in, 1), x_float = near(x, 2), r = inputs(tokens, out, 3), r_float = near(r, 4);
  auto const weight = inputs(out, in, 5);
  using view = gptq::matrix_view<float const>;
  gptq::host_backend b;
  gptq::hessian h{b, in};
  gptq::asymmetric_sums sums(b, in, out, tokens);
  for (index_t leaf : {0, 1, 2}) {
    index_t const first = leaf * tokens / 3, count = (leaf + 1) * tokens / 3 - first;
    auto const rows = [&](matrix<float> const& m) { return m.view().row_range(first, count); };
    h.begin_leaf(leaf);
    sums.begin_leaf(leaf);
    h.add(rows(x));
    sums.add(view(rows(x)), view(rows(x_float)));
    sums.add_residual(view(rows(x)), view(rows(r)), view(rows(r_float)));
  }
  auto const solved = preset.shift.any()
                          ? gptq::quantize_stack(b, weight.view(), h, sums, preset.shift, spec, preset.options)
                          : gptq::quantize_stack(b, weight.view(), h, spec, preset.options);
  bytes all;
  for (index_t k = 0; k < in; ++k) all.add(h.gram().view().block(k, 0, 1, k + 1));
  all.add(sums.cross().view());
  all.add(solved.linear.codes);
  all.add(solved.linear.scales);
  return all;
}

}  // namespace

TEST_CASE("threads: codes, scales and sums are the same for any number of them") {
  auto const group_aware = gptq::column_order::group_aware;
  for (index_t const out : {256, 320, 896})
    check_threads([&] { return solve(384, out, 900, {.bits = 4, .order = group_aware}, gptq::default_preset); });
  check_threads([] { return solve(704, 256, 1100, {.bits = 2, .group_size = 64, .sym = false}, gptq::best_preset); });
  check_threads([] { return solve(256, 1408, 700, {.bits = 3, .group_size = -1}, gptq::best_preset); });
}

TEST_CASE("threads: hidden states are the same for any number of them") {
  auto const x = inputs(1300, 384, 1), weight = inputs(1000, 384, 2), norm = inputs(1, 384, 3);
  gptq::attention_shape const shape{
      .heads = 4, .kv_heads = 2, .head_dim = 32, .query = {0, 32}, .key = {128, 32}, .value = {192, 32}, .scale = 0.2f};
  for (index_t const rows : {1, 2, 3, 50, 513, 1300})
    check_threads([&] {
      gptq::host_forward b;
      auto const in = x.view().row_range(0, rows);
      matrix<float> linear(rows, 1000), normed(rows, 384), attended(rows, 128);
      b.linear(in, weight, {}, linear.view());
      b.add_linear(in, weight, {}, linear.view());
      b.rms_norm(in, norm, 1e-6f, false, normed.view());
      std::vector<index_t> const bounds = {0, rows / 2, rows};
      b.attention(in, in, in, {bounds, bounds}, shape, attended.view());
      bytes all;
      all.add(linear);
      all.add(normed);
      all.add(attended);
      return all;
    });
}

TEST_CASE("threads: products from packed codes are the same for any number of them") {
  auto const x = inputs(70, 384, 1);
  for (int const bits : {2, 3, 4, 8}) {
    auto const packed = gptq::pack(test::random_linear(384, 1000, {.bits = bits}), gptq::checkpoint_format::gptq_v2);
    for (index_t const rows : {1, 2, 70})
      check_threads([&] {
        gptq::host_model_backend b;
        matrix<float> y(rows, 1000);
        b.linear(x.view().row_range(0, rows), gptq::view(packed), {}, y.view());
        bytes all;
        all.add(y);
        return all;
      });
  }
}

TEST_CASE("threads: an exception in one task ends the loop and arrives") {
  CHECK_THROWS_AS(gptq::detail::parallel_for(100,
                                             [](index_t i) {
                                               if (i == 37) throw gptq::shape_error("37");
                                             }),
                  gptq::shape_error);
}

#endif
