/// Calibration samples as token ids, and how they came about.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/text/encode_report.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How much to read.
struct calibration_options {
  index_t samples = 128;           ///< at most; the first of the file
  index_t sequence_length = 2048;  ///< tokens a sample has at most
};

/// Samples of unequal length, none empty; each is to be run at its own length, without padding.
struct calibration_set {
  std::vector<std::vector<std::int32_t>> samples;
  index_t asked = 0;     ///< samples asked for; fewer means that the file has no more
  index_t tokens = 0;    ///< in all samples
  index_t shortest = 0;  ///< tokens of a sample
  index_t longest = 0;
  index_t cut = 0;       ///< samples that were longer than the sequence length
  index_t dropped = 0;   ///< empty lines, records without ids, and a last window that was not full
  encode_report report;  ///< of the text that was read; nothing for ids

  /// Whether there are as many samples as asked for.
  [[nodiscard]] bool full() const { return static_cast<index_t>(samples.size()) >= asked; }

  /// Adds a sample, cut to `length`; an empty one is dropped.
  void add(std::vector<std::int32_t> ids, index_t length) {
    if (ids.empty()) {
      ++dropped;
      return;
    }
    if (static_cast<index_t>(ids.size()) > length) {
      ids.resize(static_cast<std::size_t>(length));
      ++cut;
    }
    auto const n = static_cast<index_t>(ids.size());
    shortest = samples.empty() ? n : (std::min)(shortest, n);
    longest = (std::max)(longest, n);
    tokens += n;
    samples.push_back(std::move(ids));
  }
};

namespace detail {
inline calibration_set start_calibration(calibration_options const& options) {
  if (options.samples < 1) throw shape_error("samples must be at least 1, not " + std::to_string(options.samples));
  if (options.sequence_length < 1)
    throw shape_error("sequence_length must be at least 1, not " + std::to_string(options.sequence_length));
  calibration_set set;
  set.asked = options.samples;
  return set;
}
}  // namespace detail

}  // namespace v0
}  // namespace gptq
