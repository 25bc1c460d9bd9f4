/// Rotary position embedding: the frequencies of each scaling rule, and their cosines and sines as tables.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/forward.hpp>
#include <gptq/core/matrix.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How frequencies f are scaled, with s the factor:
///   none     f
///   linear   f / s
///   dynamic  a larger base for text longer than the model was trained on; up to that length, f
///   llama3   f / s for wavelengths beyond original/low, f below original/high, blended between
enum class rope_type : unsigned char { none, linear, dynamic, llama3 };

struct rope_config {
  rope_type type = rope_type::none;
  index_t dim = 0;     ///< features of a head that are rotated, even
  double theta = 1e4;  ///< the base
  double factor = 1;
  double low_frequency = 1;
  double high_frequency = 1;
  index_t original_positions = 0;  ///< length that the model was trained on before scaling
};

/// The angle per position of each of the dim/2 pairs.
inline std::vector<double> rope_frequencies(rope_config const& c) {
  constexpr double pi = 3.14159265358979323846;
  std::vector<double> frequencies;
  for (index_t i = 0; i < c.dim / 2; ++i) {
    double f = std::pow(c.theta, -2.0 * double(i) / double(c.dim));
    if (c.type == rope_type::linear) f /= c.factor;
    if (c.type == rope_type::llama3) {
      double const turns = double(c.original_positions) * f / (2 * pi);  // over the original length
      double const blend = (turns - c.low_frequency) / (c.high_frequency - c.low_frequency);
      double const t = blend < 0 ? 0 : blend > 1 ? 1 : blend;
      f = f * (1 - t) / c.factor + f * t;
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

/// cos and sin of position·frequency, [positions × dim/2] each, not rounded to a 16-bit type.
template <forward_backend B>
struct rotary_tables {
  matrix_of<B, float> cosines;
  matrix_of<B, float> sines;
};

/// The tables for positions 0 … positions − 1. Throws shape_error if the rule can't serve that length.
template <forward_backend B>
rotary_tables<B> make_rotary_tables(B& b, rope_config const& c, index_t positions) {
  if (c.type == rope_type::dynamic && positions > c.original_positions)
    throw shape_error("dynamic rotary positions serve samples up to max_position_embeddings (" +
                      std::to_string(c.original_positions) + ") only, not " + std::to_string(positions) + " tokens");
  std::vector<double> const frequencies = rope_frequencies(c);
  auto const pairs = static_cast<index_t>(frequencies.size());
  matrix<float> cosines(positions, pairs);
  matrix<float> sines(positions, pairs);
  for (index_t p = 0; p < positions; ++p)
    for (index_t i = 0; i < pairs; ++i) {
      double const angle = double(p) * frequencies[static_cast<std::size_t>(i)];
      cosines(p, i) = static_cast<float>(std::cos(angle));
      sines(p, i) = static_cast<float>(std::sin(angle));
    }
  return {b.template adopt<float>(std::move(cosines)), b.template adopt<float>(std::move(sines))};
}

}  // namespace v0
}  // namespace gptq
