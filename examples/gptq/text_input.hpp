/// Files of text and of token ids that were named on the command line. Everything that needs a tokenizer is behind these
/// functions, in text_input.cpp.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/text/calibration_set.hpp>
#include <gptq/text/encode_report.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace app {

/// Refuses what can't be read as text, before any work: throws format_error naming option, file and reason. Pipes pass.
/// `whole`: the file will be held in memory.
void require_text_file(std::string const& option, std::filesystem::path const& file, bool whole);

/// What an encoding lost or replaced, as lines for people.
std::vector<std::string> encoding_notes(std::filesystem::path const& file, gptq::encode_report const& report);

/// Refuses ids outside a model's vocabulary. `tokenizer` is what tokenizer::from_file was given: a file, or a folder of
/// which it prefers tokenizer.json.
void require_vocabulary(std::filesystem::path tokenizer, std::span<std::int32_t const> ids, gptq::index_t vocabulary);

/// Token ids of the whole file that an option names, by the tokenizer of a folder or a tokenizer.json; warns on stderr of
/// what was lost. With a `vocabulary` above 0, ids outside it are refused: the tokenizer is another model's.
std::vector<std::int32_t> encode_file(std::string const& option, std::filesystem::path const& file,
                                      std::filesystem::path const& tokenizer, bool add_special,
                                      gptq::index_t vocabulary = 0);

/// All records of a file of token ids, one after the other, as if they were one text.
std::vector<std::int32_t> read_all_ids(std::string const& option, std::filesystem::path const& file,
                                       gptq::index_t vocabulary);

struct calibration_request {
  std::string file;
  std::string format;       ///< lines, windows, records, ids; empty: what the ending of the file says
  std::string chat_format;  ///< of conversations; empty: what the template in the model folder stands for
  bool show_sample = false;
  gptq::calibration_options size;
};

/// The format of a request: .txt is lines; .json and .jsonl are records, or ids if the first line of a .jsonl holds
/// some; for any other ending the option is needed (usage_error).
std::string calibration_format(calibration_request const& request);

/// Reads the samples for a model whose embedding has `vocabulary` rows.
gptq::calibration_set read_calibration(calibration_request const& request, std::filesystem::path const& model,
                                       gptq::index_t vocabulary);

/// The first sample as text, by the tokenizer of the model.
std::string first_sample(gptq::calibration_set const& set, std::filesystem::path const& model);

/// What deserves a warning. `positions`: tokens that the model was made for, 0 if it does not say.
std::vector<std::string> calibration_warnings(calibration_request const& request, gptq::calibration_set const& set,
                                              gptq::index_t positions);

}  // namespace app
