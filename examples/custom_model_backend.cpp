// A backend that runs models: the verbs of gptq/core/model_backend.hpp in plain loops over std::vector. It evaluates a model
// folder with the same headers as the host and the CUDA backend, and comes to the same perplexity.
//
//     custom_model_backend [folder of a model] [text]
#include <gptq/backend/host/forward.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/evaluate.hpp>
#include <gptq/text/tokenizer.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using gptq::index_t;

// The memory space of a backend is a type of its own: views of its matrices do not pass for host memory.
struct plain_space {};
template <class T>
using view = gptq::matrix_view<T, plain_space>;

// What make() gives: owns its elements, moves, and turns into views.
template <class T>
class plain_matrix {
 public:
  plain_matrix() = default;
  plain_matrix(index_t rows, index_t cols) : rows_(rows), cols_(cols), data_(static_cast<std::size_t>(rows * cols)) {}
  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }
  operator view<T>() { return {data_.data(), rows_, cols_}; }
  operator view<T const>() const { return {data_.data(), rows_, cols_}; }

 private:
  index_t rows_ = 0, cols_ = 0;
  std::vector<T> data_;
};

template <class T, class F>
void each(view<T> x, F&& f) {
  for (index_t r = 0; r < x.rows; ++r)
    for (index_t c = 0; c < x.cols; ++c) f(r, c);
}

struct plain_backend {
  using activation = float;
  using space = plain_space;
  template <class T>
  using matrix_type = plain_matrix<T>;
  using in = view<float const>;
  using out = view<float>;
  using ids = view<std::int32_t const>;

  // Memory. Elements come from the host as the matrices of a model and go back as logits.
  template <class T>
  plain_matrix<T> make(index_t rows, index_t cols) {
    return {rows, cols};
  }
  template <class To, class From>
  plain_matrix<To> adopt(gptq::matrix<From>&& from) {
    plain_matrix<To> to(from.rows(), from.cols());
    view<To> const v = to;
    each(v, [&](index_t r, index_t c) { v(r, c) = static_cast<To>(from(r, c)); });
    return to;
  }
  template <class T>
  void copy(view<T> from, view<std::remove_const_t<T>> to) {
    each(from, [&](index_t r, index_t c) { to(r, c) = from(r, c); });
  }
  template <class T>
  void download(view<T> from, gptq::matrix_view<std::remove_const_t<T>> to) {
    each(from, [&](index_t r, index_t c) { to(r, c) = from(r, c); });
  }

  // Rows: one token each.
  void embed(ids tokens, in table, float scale, out y) {
    each(y, [&](index_t t, index_t c) { y(t, c) = scale * table(tokens(0, t), c); });
  }
  void rms_norm(in x, in weight, float eps, bool unit_offset, out y) {
    for (index_t t = 0; t < x.rows; ++t) norm(x.row(t), weight, eps, unit_offset, y.row(t));
  }
  void norm_heads(out x, gptq::head_layout layout, index_t heads, in weight, float eps, bool unit_offset) {
    for (index_t t = 0; t < x.rows; ++t)
      for (index_t h = 0; h < heads; ++h) {
        float* const head = x.row(t) + layout.first + h * layout.stride;
        norm(head, weight, eps, unit_offset, head);
      }
  }
  void linear(in x, in w, in bias, out y) {
    each(y, [&](index_t t, index_t n) { y(t, n) = dot(x.row(t), w.row(n), w.cols) + (bias.data ? bias(0, n) : 0); });
  }
  void add_linear(in x, in w, in bias, out y) {
    each(y, [&](index_t t, index_t n) { y(t, n) += dot(x.row(t), w.row(n), w.cols) + (bias.data ? bias(0, n) : 0); });
  }
  void rotate(out x, gptq::head_layout layout, index_t heads, in cosines, in sines, ids positions) {
    index_t const half = cosines.cols;
    for (index_t t = 0; t < x.rows; ++t)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < half; ++i) {
          float* const at = x.row(t) + layout.first + h * layout.stride + i;
          float const a = at[0], b = at[half], c = cosines(positions(0, t), i), s = sines(positions(0, t), i);
          at[0] = c * a - s * b;
          at[half] = c * b + s * a;
        }
  }
  void gated_activation(gptq::activation_function f, in gate, in up, out y) {
    auto const value = [&](double g) {
      switch (f) {
        case gptq::activation_function::silu: return g / (1 + std::exp(-g));
        case gptq::activation_function::gelu_tanh:
          return g / 2 * (1 + std::tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)));
        default: return g / 2 * std::erfc(-g * 0.7071067811865476);
      }
    };
    each(y, [&](index_t t, index_t c) { y(t, c) = static_cast<float>(value(gate(t, c))) * up(t, c); });
  }
  void add(in x, out y) {
    each(y, [&](index_t t, index_t c) { y(t, c) += x(t, c); });
  }
  void softcap(float cap, out y) {
    each(y, [&](index_t t, index_t c) { y(t, c) = cap * std::tanh(y(t, c) / cap); });
  }

  // Attention: the only verb that knows where a sample begins. The last query of a sample stands at its last key.
  void attention(in q, in k, in v, gptq::sequence_bounds bounds, gptq::attention_shape const& shape, out y) {
    for (std::size_t s = 0; s + 1 < bounds.queries.size(); ++s) {
      index_t const queries = bounds.queries[s + 1] - bounds.queries[s], first_key = bounds.keys[s];
      index_t const earlier = bounds.keys[s + 1] - first_key - queries;
      for (index_t t = 0; t < queries; ++t) {
        index_t const last = earlier + t;
        index_t const first = shape.window > 0 ? std::max(index_t(0), last - shape.window + 1) : 0;
        for (index_t h = 0; h < shape.heads; ++h)
          attend(q.row(bounds.queries[s] + t), k.row_range(first_key + first, last - first + 1),
                 v.row_range(first_key + first, last - first + 1), h, shape, y.row(bounds.queries[s] + t));
      }
    }
  }

  // For an evaluation: one number per token from a row of logits.
  void cross_entropy(in logits, ids targets, std::span<double> nll) {
    for (index_t t = 0; t < logits.rows; ++t)
      nll[static_cast<std::size_t>(t)] = log_sum(logits, t) - double(logits(t, targets(0, t)));
  }
  void divergence(in reference, in logits, std::span<double> kl, std::span<std::uint8_t> same_top) {
    for (index_t t = 0; t < logits.rows; ++t) {
      double const a = log_sum(reference, t), b = log_sum(logits, t);
      double sum = 0;
      for (index_t c = 0; c < logits.cols; ++c)
        sum += std::exp(double(reference(t, c)) - a) * (double(reference(t, c)) - a - double(logits(t, c)) + b);
      auto const top = [t](in x) { return std::max_element(x.row(t), x.row(t) + x.cols) - x.row(t); };
      kl[static_cast<std::size_t>(t)] = sum;
      same_top[static_cast<std::size_t>(t)] = top(reference) == top(logits);
    }
  }

 private:
  static float dot(float const* a, float const* b, index_t n) {
    float sum = 0;
    for (index_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
  }
  static void norm(float const* x, in weight, float eps, bool unit_offset, float* y) {
    double squares = 0;
    for (index_t c = 0; c < weight.cols; ++c) squares += double(x[c]) * double(x[c]);
    auto const inverse = static_cast<float>(1 / std::sqrt(squares / double(weight.cols) + double(eps)));
    for (index_t c = 0; c < weight.cols; ++c) y[c] = x[c] * inverse * (unit_offset ? 1 + weight(0, c) : weight(0, c));
  }
  // One query of one head against the keys that it sees.
  static void attend(float const* query, in keys, in values, index_t head, gptq::attention_shape const& shape,
                     float* y) {
    index_t const shared = head / (shape.heads / shape.kv_heads), size = shape.head_dim;
    std::vector<float> p(static_cast<std::size_t>(keys.rows));
    for (index_t j = 0; j < keys.rows; ++j) {
      float score = shape.scale * dot(query + shape.query.first + head * shape.query.stride,
                                      keys.row(j) + shape.key.first + shared * shape.key.stride, size);
      if (shape.softcap > 0) score = shape.softcap * std::tanh(score / shape.softcap);
      p[static_cast<std::size_t>(j)] = score;
    }
    float const top = *std::max_element(p.begin(), p.end());
    float sum = 0;
    for (float& x : p) sum += x = std::exp(x - top);
    std::fill_n(y + head * size, size, 0.0f);
    for (index_t j = 0; j < keys.rows; ++j)
      for (index_t i = 0; i < size; ++i)
        y[head * size + i] +=
            p[static_cast<std::size_t>(j)] / sum * values(j, shape.value.first + shared * shape.value.stride + i);
  }
  static double log_sum(in logits, index_t t) {
    double const top = *std::max_element(logits.row(t), logits.row(t) + logits.cols);
    double sum = 0;
    for (index_t c = 0; c < logits.cols; ++c) sum += std::exp(double(logits(t, c)) - top);
    return top + std::log(sum);
  }
};
static_assert(gptq::evaluation_backend<plain_backend>);

std::string read(std::filesystem::path const& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) try {
  std::filesystem::path const folder = argc > 1 ? argv[1] : "examples/models/bard-qwen2-1m";
  std::filesystem::path const text = argc > 2 ? std::filesystem::path(argv[2]) : folder / "evaluation.txt";
  gptq::model_weights const model(folder);
  auto tokens = gptq::tokenizer::from_file(folder / "tokenizer.json").encode(read(text));
  tokens.resize(std::min(tokens.size(), std::size_t(512)));

  gptq::evaluation_options options;
  options.context = 128;
  plain_backend plain;
  gptq::host_forward host;
  double const ours = gptq::evaluate(plain, model, tokens, options).perplexity;
  double const theirs = gptq::evaluate(host, model, tokens, options).perplexity;
  std::printf("perplexity %.4f, host backend %.4f\n", ours, theirs);
  return std::abs(ours / theirs - 1) < 1e-4 ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
