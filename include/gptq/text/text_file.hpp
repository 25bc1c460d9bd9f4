/// Text files, whole or line by line; pipes too. A byte-order mark at the start is no part of the text; that of UTF-16 is
/// refused.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/io/message.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

namespace gptq {
inline namespace v0 {

/// Reads lines that end in LF; the last may lack it. Throws format_error naming the file that can't be read or is UTF-16.
class line_reader {
 public:
  explicit line_reader(std::filesystem::path file) : file_(std::move(file)) {
    std::error_code ignored;
    if (std::filesystem::is_directory(file_, ignored)) throw format_error(file_.string() + ": a folder, not a file");
    errno = 0;
    in_.open(file_, std::ios::binary);
    if (!in_) throw detail::file_error(file_, "can't open", errno);
  }

  [[nodiscard]] std::filesystem::path const& file() const { return file_; }

  /// The next line without its end; false after the last.
  bool next(std::string& line) {
    errno = 0;
    if (!std::getline(in_, line)) {
      if (in_.bad()) throw detail::file_error(file_, "can't read", errno);
      return false;
    }
    if (++number_ == 1) drop_mark(line);
    return true;
  }

  /// The number of the line read last, from 1.
  [[nodiscard]] index_t number() const { return number_; }

  /// What is left of the file.
  std::string rest() {
    std::string text;
    char buffer[1 << 16];
    errno = 0;
    while (in_.read(buffer, sizeof buffer) || in_.gcount() > 0)
      text.append(buffer, static_cast<std::size_t>(in_.gcount()));
    if (in_.bad()) throw detail::file_error(file_, "can't read", errno);
    if (number_ == 0) drop_mark(text);
    return text;
  }

 private:
  void drop_mark(std::string& text) const {
    std::string_view const start = std::string_view(text).substr(0, 3);
    if (start == "\xEF\xBB\xBF") text.erase(0, 3);
    if (start.starts_with("\xFF\xFE") || start.starts_with("\xFE\xFF"))
      throw format_error(file_.string() + ": UTF-16 text; UTF-8 is needed");
  }

  std::filesystem::path file_;
  std::ifstream in_;
  index_t number_ = 0;
};

/// The whole text of a file, line ends as they are. Throws format_error naming the file that can't be read.
inline std::string read_text(std::filesystem::path const& file) { return line_reader(file).rest(); }

}  // namespace v0
}  // namespace gptq
