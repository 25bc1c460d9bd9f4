/// Calibration samples as the options of quantize ask for them.
#pragma once

#include "app.hpp"
#include "text_input.hpp"

#include <gptq/text/calibration_set.hpp>
#include <gptq/text/ids.hpp>

#if GPTQ_WITH_TEXT
#include <gptq/text/calibration.hpp>
#endif

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

namespace app {

struct calibration_request {
  std::string file;
  std::string format;  ///< lines, windows, ids; empty: what the ending of the file says
  gptq::calibration_options size;
};

/// The format of a request: .txt is lines, .jsonl is ids; for any other ending the option is needed.
inline std::string calibration_format(calibration_request const& request) {
  if (!request.format.empty()) return request.format;
  std::string const ending = std::filesystem::path(request.file).extension().string();
  if (ending == ".txt") return "lines";
  if (ending == ".jsonl") return "ids";
  throw usage_error(fmt::format(
      "--calibration-format: lines, windows or ids must be given for {}, which ends in neither .txt nor .jsonl",
      request.file));
}

/// Reads the samples for a model whose embedding has `vocabulary` rows.
inline gptq::calibration_set read_calibration(calibration_request const& request, std::filesystem::path const& model,
                                              gptq::index_t vocabulary) {
  std::string const format = calibration_format(request);
  require_text_file("--calibration", request.file, format == "windows");
  if (format == "ids") return gptq::read_ids(request.file, vocabulary, request.size);
#if GPTQ_WITH_TEXT
  gptq::tokenizer const tokenizer = open_tokenizer(model);
  gptq::calibration_set set = format == "lines" ? gptq::read_lines(request.file, tokenizer, request.size)
                                                : gptq::read_windows(request.file, tokenizer, request.size);
  for (auto const& sample : set.samples) require_vocabulary(model, sample, vocabulary);
  return set;
#else
  static_cast<void>(model);
  refuse_text("--calibration-format " + format);
#endif
}

/// What deserves a warning. `positions`: tokens that the model was made for, 0 if it does not say.
inline std::vector<std::string> calibration_warnings(calibration_request const& request,
                                                     gptq::calibration_set const& set, gptq::index_t positions) {
  std::vector<std::string> warnings = encoding_notes(request.file, set.report);
  if (!set.full())
    warnings.push_back(fmt::format("{}: {}, fewer than the {} asked for (--samples)", request.file,
                                   counted(static_cast<std::int64_t>(set.samples.size()), "sample"), set.asked));
  if (positions > 0 && set.longest > positions)
    warnings.push_back(
        fmt::format("--sequence-length: the longest sample has {} tokens, more than the {} positions of the model",
                    set.longest, positions));
  return warnings;
}

}  // namespace app
