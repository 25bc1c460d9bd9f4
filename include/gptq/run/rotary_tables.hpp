/// Cosines and sines of the rotary embedding as tables in a backend's memory.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/model_backend.hpp>
#include <gptq/model/rope.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// cos and sin of position·frequency, [rows × dim/2] each, not rounded to a 16-bit type. Under some rules texts of
/// different lengths turn differently: then there are several tables, one under the other.
template <forward_backend B>
class rotary_tables {
 public:
  /// The tables for texts of these lengths.
  rotary_tables(B& b, rope_config const& c, std::vector<index_t> lengths) {
    std::sort(lengths.begin(), lengths.end());
    struct rule {
      std::vector<double> frequencies;
      double scale;
      index_t first_row, rows;
    };
    std::vector<rule> rules;
    for (index_t const n : lengths) {
      rule next{rope_frequencies(c, n), rope_scale(c, n), rules.empty() ? 0 : rules.back().first_row, n};
      if (rules.empty() || next.frequencies != rules.back().frequencies || next.scale != rules.back().scale) {
        next.first_row += rules.empty() ? 0 : rules.back().rows;
        rules.push_back(std::move(next));
      }
      rules.back().rows = n;
      first_rows_.emplace_back(n, rules.back().first_row);
    }
    index_t const rows = rules.empty() ? 0 : rules.back().first_row + rules.back().rows;
    matrix<float> cosines(rows, c.dim / 2);
    matrix<float> sines(rows, c.dim / 2);
    for (rule const& r : rules)
      for (index_t p = 0; p < r.rows; ++p)
        for (index_t i = 0; i < c.dim / 2; ++i) {
          double const angle = double(p) * r.frequencies[static_cast<std::size_t>(i)];
          cosines(r.first_row + p, i) = static_cast<float>(r.scale * std::cos(angle));
          sines(r.first_row + p, i) = static_cast<float>(r.scale * std::sin(angle));
        }
    cosines_ = b.template adopt<float>(std::move(cosines));
    sines_ = b.template adopt<float>(std::move(sines));
  }

  [[nodiscard]] view_of<B, float const> cosines() const { return cosines_; }
  [[nodiscard]] view_of<B, float const> sines() const { return sines_; }

  /// The row of position 0 in a text of that many tokens, one of the lengths given.
  [[nodiscard]] index_t first_row(index_t length) const {
    auto const at = std::lower_bound(first_rows_.begin(), first_rows_.end(), std::pair(length, index_t(0)));
    if (at == first_rows_.end() || at->first != length)
      throw shape_error("rotary_tables: no text of " + std::to_string(length) + " tokens");
    return at->second;
  }

 private:
  matrix_of<B, float> cosines_;
  matrix_of<B, float> sines_;
  std::vector<std::pair<index_t, index_t>> first_rows_;  ///< by length, ascending
};

}  // namespace v0
}  // namespace gptq
