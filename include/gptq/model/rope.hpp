/// Rotary position embedding: the frequencies of each scaling rule.
#pragma once

#include <gptq/core/matrix.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How frequencies f are scaled, with s the factor, L the length of a text, M that of the texts trained on at first:
///   none      f
///   linear    f / s
///   dynamic   the base grows by ((s·L/M) − (s−1))^(d/(d−2)) for L > M; up to M, f
///   llama3    f / s for wavelengths beyond M/low, f below M/high, blended between
///   yarn      f / s for pairs that turn less than `low` times in M, f beyond `high` times, blended by pair between
///   longrope  f / short_factors up to M, f / long_factors beyond
///   telechat  with L at least `trained_positions`, the base grows by a^(d/(d−2)), a = 2^ceil(log2(L/M) + 1) − 1
enum class rope_type : unsigned char { none, linear, dynamic, llama3, yarn, longrope, telechat };

/// Rotary embedding: how it is scaled, and the numbers for that. Those that its type does not name are not looked at.
struct rope_config {
  rope_type type = rope_type::none;
  index_t dim = 0;     ///< features of a head that are rotated, even
  double theta = 1e4;  ///< the base
  double factor = 1;
  double low_frequency = 1;
  double high_frequency = 1;
  double scale = 1;                        ///< of all cosines and sines
  bool whole_pairs = true;                 ///< yarn: the blend begins and ends at whole pairs
  index_t original_positions = 0;          ///< length that the model was trained on before scaling
  index_t trained_positions = 0;           ///< telechat: and after it
  std::vector<double> short_factors = {};  ///< longrope, [dim / 2] each
  std::vector<double> long_factors = {};
};

namespace detail {

/// The base that a text of that length is rotated with.
inline double rope_base(rope_config const& c, index_t length) {
  double growth = 1;
  auto const original = double(c.original_positions);
  if (c.type == rope_type::dynamic && length > c.original_positions)
    growth = c.factor * double(length) / original - (c.factor - 1);
  if (c.type == rope_type::telechat) {
    double const seen = double((std::max)(length, c.trained_positions));
    growth = (std::max)(std::exp2(std::ceil(std::log2(seen / original) + 1)) - 1, 1.0);
  }
  return growth == 1 ? c.theta : c.theta * std::pow(growth, double(c.dim) / double(c.dim - 2));
}

/// How much of pair i's frequency is kept by yarn, 1 to 0.
inline double yarn_share(rope_config const& c, index_t i) {
  constexpr double pi = 3.14159265358979323846;
  auto const pair_of = [&](double turns) {
    return double(c.dim) * std::log(double(c.original_positions) / (turns * 2 * pi)) / (2 * std::log(c.theta));
  };
  double low = pair_of(c.high_frequency);
  double high = pair_of(c.low_frequency);
  if (c.whole_pairs) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = (std::max)(low, 0.0);
  high = (std::min)(high, double(c.dim - 1));
  if (low == high) high += 0.001;
  return 1 - std::clamp((double(i) - low) / (high - low), 0.0, 1.0);
}

}  // namespace detail

/// The angle per position of each of the dim/2 pairs, in a text of that many tokens.
inline std::vector<double> rope_frequencies(rope_config const& c, index_t length = 1) {
  constexpr double pi = 3.14159265358979323846;
  double const base = detail::rope_base(c, length);
  std::vector<double> frequencies;
  for (index_t i = 0; i < c.dim / 2; ++i) {
    double f = std::pow(base, -2.0 * double(i) / double(c.dim));
    double kept = 1;
    if (c.type == rope_type::linear) kept = 0;
    if (c.type == rope_type::llama3) {
      double const turns = double(c.original_positions) * f / (2 * pi);  // over the original length
      kept = std::clamp((turns - c.low_frequency) / (c.high_frequency - c.low_frequency), 0.0, 1.0);
    }
    if (c.type == rope_type::yarn) kept = detail::yarn_share(c, i);
    if (c.type == rope_type::longrope)
      f /= (length > c.original_positions ? c.long_factors : c.short_factors)[static_cast<std::size_t>(i)];
    frequencies.push_back(f * (1 - kept) / c.factor + f * kept);
  }
  return frequencies;
}

/// What all cosines and sines are multiplied by, in a text of that many tokens.
inline double rope_scale(rope_config const& c, index_t length = 1) {
  if (c.type == rope_type::telechat && length > c.trained_positions)
    return 0.1 * std::log(double(length) / double(c.trained_positions)) + 1;
  return c.scale;
}

/// The longest text, up to `most` tokens, that is turned as one of that length is.
inline index_t rope_reach(rope_config const& c, index_t length, index_t most) {
  index_t last = most;
  if (c.type == rope_type::dynamic) last = (std::max)(length, c.original_positions);
  if (c.type == rope_type::longrope && length <= c.original_positions) last = c.original_positions;
  if (c.type == rope_type::telechat) last = (std::max)(length, c.trained_positions);
  return (std::min)(last, most);
}

}  // namespace v0
}  // namespace gptq
