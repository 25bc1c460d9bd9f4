/// Measuring a model on a text, for perplexity and for quantize --evaluate. The definitions are in perplexity.cpp.
#pragma once

#include "compute.hpp"
#include "device.hpp"

#include <gptq/core/matrix.hpp>
#include <gptq/io/json.hpp>
#include <gptq/run/evaluate.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace app {

struct evaluation_request {
  std::string model;
  std::string reference;  ///< may be empty
  std::string text;       ///< for messages: the file that ids came from
  gptq::index_t context = 512;
  gptq::index_t max_tokens = 0;  ///< 0: all
};

struct evaluation_run {
  gptq::evaluation result;
  device_usage usage;
  double seconds = 0;
};

/// Cuts ids to request.max_tokens. Throws shape_error where that leaves no window.
void cut_to_windows(evaluation_request const& request, std::vector<std::int32_t>& ids);

/// Runs both models over the windows of ids, with a progress display on stderr.
evaluation_run evaluate_folder(evaluation_request const& request, compute_options const& compute,
                               std::vector<std::int32_t> const& ids);

/// perplexity, tokens, windows, context, kl, top1, kl_windows
gptq::json to_json(evaluation_request const& request, evaluation_run const& run);
std::string to_text(evaluation_request const& request, evaluation_run const& run);

}  // namespace app
