/// Text from a model, token by token: the likeliest one, or one drawn by its probability.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/float16.hpp>
#include <gptq/io/json.hpp>
#include <gptq/run/cached_model.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How tokens are chosen, and when to stop.
struct generate_options {
  index_t max_new_tokens = 64;
  double temperature = 0;  ///< logits are divided by it before one is drawn; 0: the first largest one
  std::uint64_t seed = 0;
  std::vector<std::int32_t> stop_ids = {};             ///< the text ends before the first of these
  std::function<void(std::int32_t id)> on_token = {};  ///< called with each new token but a stop id; may be empty
  packed_layers packed = packed_layers::keep;
};

/// Why it stopped.
enum class generation_end : unsigned char { stop_id, max_new_tokens, positions };

/// What was generated, and how fast.
struct generation {
  std::vector<std::int32_t> ids;  ///< the new tokens, without the stop id
  generation_end end = generation_end::max_new_tokens;
  double prompt_seconds = 0;  ///< from the prompt's ids to the first new one; weights are loaded before
  double seconds = 0;         ///< for the others
  index_t steps = 0;          ///< how many the others were, with the stop id
};

/// Picks a token from logits.
class token_sampler {
 public:
  explicit token_sampler(double temperature = 0, std::uint64_t seed = 0) : temperature_(temperature), random_(seed) {}

  /// Throws numeric_error for logits that hold NaN or Inf.
  std::int32_t operator()(std::span<float const> logits) {
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (!std::isfinite(logits[i]))
        throw numeric_error("generate: the logit of token " + std::to_string(i) + " is NaN or Inf");
    auto const top = std::max_element(logits.begin(), logits.end());
    if (!(temperature_ > 0)) return static_cast<std::int32_t>(top - logits.begin());
    weights_.clear();
    double sum = 0;
    for (float const x : logits) weights_.push_back(sum += std::exp((double(x) - double(*top)) / temperature_));
    double const at = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;  // the same with every standard library
    return static_cast<std::int32_t>(std::upper_bound(weights_.begin(), weights_.end() - 1, at) - weights_.begin());
  }

 private:
  double temperature_;
  std::mt19937_64 random_;
  std::vector<double> weights_;  ///< running sums
};

/// The ids that end a text, as generation_config.json or else config.json says; none where neither does.
inline std::vector<std::int32_t> read_stop_ids(std::filesystem::path const& folder) {
  char const* const key = "eos_token_id";
  for (char const* const name : {"generation_config.json", "config.json"}) {
    std::filesystem::path const file = folder / name;
    std::error_code none;
    if (!std::filesystem::exists(file, none)) continue;
    json const config = read_json(file);
    if (!config.is_object() || !config.contains(key) || config.at(key).is_null()) continue;
    json const& found = config.at(key);
    std::vector<std::int32_t> ids;
    for (json const& id : found.is_array() ? found : json::array({found})) {
      if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > INT32_MAX)
        throw format_error(file.string() + ": \"" + key + "\" must be a token id or a list of some");
      ids.push_back(id.get<std::int32_t>());
    }
    return ids;
  }
  return {};
}

/// The most tokens that a text may have, 0 where there is no such limit: `dynamic` positions go on beyond.
inline index_t position_limit(model_config const& c) { return c.rope.type == rope_type::dynamic ? 0 : c.max_positions; }

/// Goes on with the prompt, at least one token. Throws shape_error for a prompt longer than the positions of the model and
/// for ids outside the vocabulary, numeric_error for logits that are no numbers.
template <forward_backend B>
generation generate(B& b, model_weights const& weights, std::span<std::int32_t const> prompt,
                    generate_options const& options = {}) {
  using clock = std::chrono::steady_clock;
  using activation = typename B::activation;
  auto const length = static_cast<index_t>(prompt.size());
  index_t const limit = position_limit(weights.config());
  if (length == 0) throw shape_error("the prompt has no tokens");
  if (limit > 0 && length > limit)
    throw shape_error("the prompt has " + std::to_string(length) + " tokens, more than the " + std::to_string(limit) +
                      " positions of the model");
  index_t const room = length + (std::max)(options.max_new_tokens - 1, index_t(0));  // the last one stays outside
  cached_model<B> model(b, weights, limit > 0 ? std::min(room, limit) : room, {.packed = options.packed});
  token_sampler sample(options.temperature, options.seed);
  matrix<activation> logits(1, weights.config().vocabulary);
  std::vector<float> values(static_cast<std::size_t>(logits.cols()));
  auto const next = [&](std::span<std::int32_t const> ids) {
    b.download(model.append(ids), logits.view());
    std::transform(logits.data(), logits.data() + logits.cols(), values.begin(), [](activation x) {
      if constexpr (std::is_floating_point_v<activation>)
        return static_cast<float>(x);
      else
        return to_float(x);
    });
    return sample(values);
  };
  auto const since = [](clock::time_point from) { return std::chrono::duration<double>(clock::now() - from).count(); };

  generation out;
  auto start = clock::now();
  while (static_cast<index_t>(out.ids.size()) < options.max_new_tokens) {
    if (model.tokens() == model.capacity()) {
      out.end = generation_end::positions;
      break;
    }
    bool const first = out.ids.empty();
    std::int32_t const id = next(first ? prompt : std::span<std::int32_t const>(&out.ids.back(), 1));
    if (first) {
      out.prompt_seconds = since(start);
      start = clock::now();
    } else {
      ++out.steps;
    }
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) {
      out.end = generation_end::stop_id;
      break;
    }
    out.ids.push_back(id);
    if (options.on_token) options.on_token(id);
  }
  out.seconds = since(start);
  return out;
}

}  // namespace v0
}  // namespace gptq
