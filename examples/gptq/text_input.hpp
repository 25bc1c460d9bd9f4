/// Files of text and of token ids that were named on the command line.
#pragma once

#include "console.hpp"

#include <gptq/core/error.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/text/encode_report.hpp>
#include <gptq/text/text_file.hpp>

#if GPTQ_WITH_TEXT
#include <gptq/text/tokenizer.hpp>
#endif

#include <fmt/format.h>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace app {

/// Text that is tokenized as a whole is held in memory several times over.
inline constexpr std::uint64_t max_text = std::uint64_t{1} << 31;

/// Refuses what can't be read as text, before any work: throws format_error naming option, file and reason. Pipes pass.
inline void require_text_file(std::string const& option, std::filesystem::path const& file, bool whole) {
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
  if (whole && static_cast<std::uint64_t>(status.st_size) > max_text)
    refuse(fmt::format("{} of text, more than the {} that are tokenized at once",
                       megabytes(static_cast<std::uint64_t>(status.st_size)), megabytes(max_text)));
}

/// What an encoding lost or replaced, as lines for people.
inline std::vector<std::string> encoding_notes(std::filesystem::path const& file, gptq::encode_report const& report) {
  std::vector<std::string> notes;
  if (report.replaced_sequences > 0)
    notes.push_back(fmt::format("{}: bytes that are not UTF-8 were read as U+FFFD, {}", file.string(),
                                counted(report.replaced_sequences, "time")));
  if (report.lost_characters > 0)
    notes.push_back(fmt::format(
        "{}: {} not in the vocabulary and were left out", file.string(),
        report.lost_characters == 1 ? "1 character is" : fmt::format("{} characters are", report.lost_characters)));
  return notes;
}

#if GPTQ_WITH_TEXT

inline gptq::tokenizer open_tokenizer(std::filesystem::path const& folder_or_file) {
  return gptq::tokenizer::from_file(folder_or_file);
}

/// Refuses ids that the model has no embedding for: the tokenizer is another model's.
inline void require_vocabulary(std::filesystem::path const& folder, std::span<std::int32_t const> ids,
                               gptq::index_t vocabulary) {
  auto const outside = std::find_if(ids.begin(), ids.end(), [&](std::int32_t id) { return id >= vocabulary; });
  if (outside != ids.end())
    throw gptq::format_error(fmt::format("{}: the tokenizer gives id {}, outside the model's vocabulary of {}",
                                         (folder / "tokenizer.json").string(), *outside, vocabulary));
}

#else

[[noreturn]] inline void refuse_text(std::string const& option) {
  throw gptq::error(option + ": this gptq was built without tokenizers (PCRE2, utf8proc); only token ids can be read");
}

#endif

}  // namespace app
