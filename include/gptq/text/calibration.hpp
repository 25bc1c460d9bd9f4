/// Calibration samples from text, with any tokenizer.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/text/calibration_set.hpp>
#include <gptq/text/encode_report.hpp>
#include <gptq/text/text_file.hpp>
#include <gptq/text/utf8.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// One sample a line: white space at its ends is removed (so CRLF is fine), empty lines are dropped, the first `samples`
/// others are tokenized by themselves, with BOS as the tokenizer's template says, and cut to `sequence_length`.
/// Throws format_error naming a file that can't be read or holds no text.
template <text_encoder Tokenizer>
calibration_set read_lines(std::filesystem::path const& file, Tokenizer const& tokenizer,
                           calibration_options const& options = {}) {
  calibration_set set = detail::start_calibration(options);
  line_reader lines(file);
  std::string storage;
  for (std::string line; !set.full() && lines.next(line);) {
    std::string_view const text = utf8::strip(utf8::repair(line, storage, &set.report.replaced_sequences));
    if (text.empty())
      ++set.dropped;
    else
      set.add(tokenizer.encode(text, true, &set.report), options.sequence_length);
  }
  if (set.samples.empty()) throw format_error(file.string() + ": no line with text");
  return set;
}

/// The whole file as one text without BOS, cut into consecutive full windows of `sequence_length`; the first `samples`.
/// Throws format_error naming a file that can't be read or is shorter than one window.
template <text_encoder Tokenizer>
calibration_set read_windows(std::filesystem::path const& file, Tokenizer const& tokenizer,
                             calibration_options const& options = {}) {
  calibration_set set = detail::start_calibration(options);
  std::vector<std::int32_t> const ids = tokenizer.encode(read_text(file), false, &set.report);
  auto const total = static_cast<index_t>(ids.size());
  if (total == 0) throw format_error(file.string() + ": no text");
  index_t begin = 0;
  for (; !set.full() && total - begin >= options.sequence_length; begin += options.sequence_length) {
    auto const first = ids.begin() + begin;
    std::vector<std::int32_t> sample;  // g++ 12 warns without cause of a vector constructed from the range
    sample.assign(first, first + options.sequence_length);
    set.add(std::move(sample), options.sequence_length);
  }
  if (set.samples.empty())
    throw format_error(file.string() + ": " + std::to_string(total) + " tokens, fewer than one window of " +
                       std::to_string(options.sequence_length));
  if (!set.full() && begin < total) ++set.dropped;
  return set;
}

}  // namespace v0
}  // namespace gptq
