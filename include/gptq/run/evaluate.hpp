/// How well a model predicts a text: perplexity, and the divergence from a reference model over the same windows.
#pragma once

#include <gptq/core/model_backend.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/activations.hpp>
#include <gptq/run/layer_loader.hpp>
#include <gptq/run/lm_head.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How a text is scored, and how much memory that takes.
struct evaluation_options {
  index_t context = 512;  ///< tokens of a window; each predicts the next, so a window counts context − 1 predictions
  activation_options activations;
  std::size_t state_bytes = std::size_t(1) << 30;   ///< hidden states of windows that go together take up to this much
  std::size_t logit_bytes = std::size_t(64) << 20;  ///< logits are computed in pieces of this size
  std::function<void(index_t done, index_t all)> progress;  ///< called after each block; may be empty
};

/// What a model makes of a text, and how far it is from a reference.
struct evaluation {
  double perplexity = 0;  ///< exp of the mean of −log p over all predictions
  index_t tokens = 0;     ///< predictions
  index_t windows = 0;
  std::optional<double> kl;        ///< mean KL(reference || model) in nats
  std::optional<double> top1;      ///< share of predictions whose likeliest token is the reference's
  std::vector<double> window_nll;  ///< [windows] mean −log p
  std::vector<double> window_kl;   ///< [windows], empty without a reference
};

/// How values of single windows lie around their mean, and how sure that makes of it.
struct window_spread {
  double deviation = 0;       ///< standard deviation of a window, of n − 1 degrees of freedom; 0 for one window
  double standard_error = 0;  ///< of the mean: deviation / √windows
  double least = 0;
  double most = 0;
};

/// How `values`, one for each window, lie around their mean. All zero without any.
inline window_spread spread_of(std::span<double const> values) {
  window_spread s;
  if (values.empty()) return s;
  auto const n = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (double const v : values) mean += v / n;
  for (double const v : values) squares += (v - mean) * (v - mean);
  if (values.size() > 1) s.deviation = std::sqrt(squares / (n - 1));
  s.standard_error = s.deviation / std::sqrt(n);
  auto const [least, most] = std::minmax_element(values.begin(), values.end());
  s.least = *least;
  s.most = *most;
  return s;
}

namespace detail {

/// One model at work on a group of windows.
template <evaluation_backend B>
struct evaluated_model {
  model_weights const* weights;
  layer_loader<B> layers;
  activations<B> carried;

  evaluated_model(B& b, model_weights const& w, typename activations<B>::samples const& windows,
                  activation_options const& options)
      : weights(&w),
        layers(b, w),
        carried(b, w.config(), w.layers(), windows, b.template adopt<typename B::activation>(w.embedding()), options) {}

  void run_block(index_t i) {
    if (i < weights->config().blocks) carried.run(layers.take(i));
  }
};

template <evaluation_backend B>
void measure(B& b, evaluated_model<B> const& model, evaluated_model<B> const* reference,
             evaluation_options const& options, evaluation& out) {
  lm_head<B> head(b, *model.weights);
  std::optional<lm_head<B>> reference_head;
  if (reference) reference_head.emplace(b, *reference->weights);
  index_t const predictions = options.context - 1;
  auto const row_bytes = sizeof(typename B::activation) * static_cast<std::size_t>(head.vocabulary());
  index_t const piece = std::clamp(static_cast<index_t>(options.logit_bytes / row_bytes), index_t(1), predictions);
  std::vector<double> nll(static_cast<std::size_t>(predictions));
  std::vector<double> kl(nll.size());
  std::vector<std::uint8_t> same(nll.size());
  double agreed = 0;
  for (index_t row = 0; row < model.carried.tokens(); row += options.context) {
    for (index_t p = 0; p < predictions; p += piece) {
      index_t const n = std::min(piece, predictions - p);
      auto const part = [&](auto& values) {
        return std::span(values).subspan(static_cast<std::size_t>(p), static_cast<std::size_t>(n));
      };
      auto const logits = head.logits(model.carried.hidden_states().row_range(row + p, n));
      b.cross_entropy(logits, model.carried.ids().col_range(row + p + 1, n), part(nll));
      if (reference)
        b.divergence(reference_head->logits(reference->carried.hidden_states().row_range(row + p, n)), logits, part(kl),
                     part(same));
    }
    auto const mean = [&](std::vector<double> const& values) {
      double sum = 0;
      for (double const v : values) sum += v;
      return sum / double(predictions);
    };
    out.window_nll.push_back(mean(nll));
    if (reference) out.window_kl.push_back(mean(kl));
    if (!std::isfinite(out.window_nll.back()) || (reference && !std::isfinite(out.window_kl.back())))
      throw numeric_error("evaluate: the logits of window " + std::to_string(out.window_nll.size() - 1) +
                          " hold NaN or Inf");
    if (!reference) continue;
    for (std::uint8_t const s : same) agreed += s;
  }
  if (reference) out.top1 = out.top1.value_or(0) + agreed;
}

}  // namespace detail

/// Cuts `ids` into windows of options.context tokens from the start, leaves out the rest, and measures the model on
/// them, each window on its own. With a reference, both models walk the windows block by block; one block's weights are
/// resident at a time. Throws shape_error for too few tokens, ids outside a vocabulary, or vocabularies that differ, and
/// numeric_error for logits that are no numbers.
template <evaluation_backend B>
evaluation evaluate(B& b, model_weights const& weights, std::span<std::int32_t const> ids,
                    evaluation_options const& options = {}, model_weights const* reference = nullptr) {
  index_t const context = options.context;
  if (context < 2) throw shape_error("context must be at least 2 tokens, not " + std::to_string(context));
  index_t const windows = static_cast<index_t>(ids.size()) / context;
  if (windows == 0)
    throw shape_error("the text has " + std::to_string(ids.size()) + " tokens, fewer than one window of " +
                      std::to_string(context));
  if (reference && reference->config().vocabulary != weights.config().vocabulary)
    throw shape_error("the reference has a vocabulary of " + std::to_string(reference->config().vocabulary) +
                      ", the model one of " + std::to_string(weights.config().vocabulary));

  evaluation out;
  index_t const window_bytes = static_cast<index_t>(sizeof(typename B::activation)) * context * weights.config().hidden;
  index_t const group = std::max(index_t(1), static_cast<index_t>(options.state_bytes) / window_bytes);
  index_t const blocks = std::max(weights.config().blocks, reference ? reference->config().blocks : 0);
  index_t const passes = (windows + group - 1) / group;
  for (index_t pass = 0; pass < passes; ++pass) {
    typename activations<B>::samples samples;
    for (index_t w = pass * group; w < std::min(windows, (pass + 1) * group); ++w) {
      auto const window = ids.subspan(static_cast<std::size_t>(w * context), static_cast<std::size_t>(context));
      samples.emplace_back(window.begin(), window.end());
    }
    detail::evaluated_model<B> model(b, weights, samples, options.activations);
    std::optional<detail::evaluated_model<B>> other;
    if (reference) other.emplace(b, *reference, samples, options.activations);
    for (index_t i = 0; i < blocks; ++i) {
      model.run_block(i);
      if (other) other->run_block(i);
      if (options.progress) options.progress(pass * blocks + i + 1, passes * blocks);
    }
    detail::measure(b, model, other ? &*other : nullptr, options, out);
  }
  out.windows = windows;
  out.tokens = windows * (context - 1);
  double nll = 0;
  for (double const w : out.window_nll) nll += w;
  out.perplexity = std::exp(nll / double(windows));
  if (reference) {
    double kl = 0;
    for (double const w : out.window_kl) kl += w;
    out.kl = kl / double(windows);
    *out.top1 /= double(out.tokens);
  }
  return out;
}

}  // namespace v0
}  // namespace gptq
