#include "text_input.hpp"

#include "app.hpp"
#include "chat_option.hpp"
#include "console.hpp"

#include <gptq/core/error.hpp>
#include <gptq/text/encode_report.hpp>
#include <gptq/text/ids.hpp>
#include <gptq/text/text_file.hpp>

#if GPTQ_WITH_TEXT
#include <gptq/text/calibration.hpp>
#include <gptq/text/chat_records.hpp>
#include <gptq/text/tokenizer.hpp>
#endif

#include <fmt/format.h>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <span>
#include <system_error>

namespace app {
namespace {

/// Text that is tokenized as a whole is held in memory several times over.
constexpr std::uint64_t max_text = std::uint64_t{1} << 31;

#if !GPTQ_WITH_TEXT

[[noreturn]] void refuse_text(std::string const& option) {
  throw gptq::error(option + ": this gptq was built without tokenizers (PCRE2, utf8proc); only token ids can be read");
}

#endif

/// Whether the first line of a file that can be read twice holds token ids.
bool starts_with_ids(std::filesystem::path const& file) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(file, none)) return true;
  std::string line;
  gptq::line_reader lines(file);
  while (lines.next(line) && line.find_first_not_of(" \t\r") == std::string::npos) continue;
  auto const start = line.find_first_not_of(" \t\r");
  if (start == std::string::npos || line[start] == '[') return true;
  try {
    return gptq::parse_json(line, "").contains("input_ids");
  } catch (gptq::format_error const&) {
    return false;
  }
}

}  // namespace

std::vector<std::string> encoding_notes(std::filesystem::path const& file, gptq::encode_report const& report) {
  std::vector<std::string> notes;
  if (report.replaced_sequences > 0)
    notes.push_back(fmt::format("{}: bytes that are not UTF-8 were read as U+FFFD, {}", file.string(),
                                counted(report.replaced_sequences, "time")));
  if (report.lost_characters > 0)
    notes.push_back(fmt::format("{}: {} not in the vocabulary and left out", file.string(),
                                counted(report.lost_characters, "character")));
  return notes;
}

void require_vocabulary(std::filesystem::path tokenizer, std::span<std::int32_t const> ids, gptq::index_t vocabulary) {
  auto const outside = std::find_if(ids.begin(), ids.end(), [&](std::int32_t id) { return id >= vocabulary; });
  if (outside == ids.end()) return;
  if (std::filesystem::is_directory(tokenizer))
    tokenizer /= std::filesystem::exists(tokenizer / "tokenizer.json") ? "tokenizer.json" : "tokenizer.model";
  throw gptq::format_error(fmt::format("{}: the tokenizer gives id {}, outside the model's vocabulary of {}",
                                       tokenizer.string(), *outside, vocabulary));
}

void require_text_file(std::string const& option, std::filesystem::path const& file, bool whole) {
  auto const refuse = [&](std::string const& why) {
    throw gptq::format_error(fmt::format("{} {}: {}", option, file.string(), why));
  };
  auto const reason = [] { return std::generic_category().message(errno); };
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) refuse(reason());
  if (S_ISDIR(status.st_mode)) refuse("a folder, not a file");
  if (!S_ISREG(status.st_mode) && !S_ISFIFO(status.st_mode)) refuse("a device, not a file");
  if (::access(file.c_str(), R_OK) != 0) refuse(reason());
  if (!S_ISREG(status.st_mode)) return;
  if (status.st_size == 0) refuse("the file is empty");
  auto const size = static_cast<std::uint64_t>(status.st_size);
  if (whole && size > max_text)
    refuse(fmt::format("{} of text; no more than {} are tokenized at once", megabytes(size), megabytes(max_text)));
}

std::vector<std::int32_t> encode_file(std::string const& option, std::filesystem::path const& file,
                                      std::filesystem::path const& tokenizer, bool add_special,
                                      gptq::index_t vocabulary) {
#if GPTQ_WITH_TEXT
  require_text_file(option, file, true);
  gptq::encode_report report;
  auto const encoder = gptq::tokenizer::from_file(tokenizer);
  std::vector<std::int32_t> ids = encoder.encode(gptq::read_text(file), add_special, &report);
  for (auto const& note : encoding_notes(file, report)) warn(note);
  if (vocabulary > 0) require_vocabulary(tokenizer, ids, vocabulary);
  return ids;
#else
  static_cast<void>(file), static_cast<void>(tokenizer), static_cast<void>(add_special);
  static_cast<void>(vocabulary);
  refuse_text(option);
#endif
}

std::vector<std::int32_t> read_all_ids(std::string const& option, std::filesystem::path const& file,
                                       gptq::index_t vocabulary) {
  require_text_file(option, file, false);
  constexpr auto all = (std::numeric_limits<gptq::index_t>::max)();
  std::vector<std::int32_t> ids;
  for (auto const& record : gptq::read_ids(file, vocabulary, {.samples = all, .sequence_length = all}).samples)
    ids.insert(ids.end(), record.begin(), record.end());
  return ids;
}

std::string calibration_format(calibration_request const& request) {
  if (!request.format.empty()) return request.format;
  std::string const ending = std::filesystem::path(request.file).extension().string();
  if (ending == ".txt") return "lines";
  if (ending == ".json") return "records";
  if (ending == ".jsonl") return starts_with_ids(request.file) ? "ids" : "records";
  throw usage_error(
      fmt::format("--calibration-format: needed for {}, which ends in none of .txt (lines), .json and .jsonl (records)",
                  request.file));
}

gptq::calibration_set read_calibration(calibration_request const& request, std::filesystem::path const& model,
                                       gptq::index_t vocabulary) {
  std::string const format = calibration_format(request);
  require_text_file("--calibration", request.file, format == "windows");
  if (format == "ids") return gptq::read_ids(request.file, vocabulary, request.size);
#if GPTQ_WITH_TEXT
  auto const encoder = gptq::tokenizer::from_file(model);
  auto const chat = [&] { return conversation_format(request.chat_format, model, encoder); };
  gptq::calibration_set set = format == "lines" ? gptq::read_lines(request.file, encoder, request.size)
                              : format == "windows"
                                  ? gptq::read_windows(request.file, encoder, request.size)
                                  : gptq::read_records(request.file, encoder, vocabulary, chat, request.size);
  for (auto const& sample : set.samples) require_vocabulary(model, sample, vocabulary);
  return set;
#else
  static_cast<void>(model);
  refuse_text("--calibration-format " + format);
#endif
}

std::string first_sample(gptq::calibration_set const& set, std::filesystem::path const& model) {
#if GPTQ_WITH_TEXT
  return gptq::tokenizer::from_file(model).decode(set.samples.front());
#else
  static_cast<void>(set), static_cast<void>(model);
  refuse_text("--show-sample");
#endif
}

std::vector<std::string> calibration_warnings(calibration_request const& request, gptq::calibration_set const& set,
                                              gptq::index_t positions) {
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
