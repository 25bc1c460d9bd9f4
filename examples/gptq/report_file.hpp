/// A file that is written at the end of a long run: whether it can be is found out before, and it appears complete.
#pragma once

#include "app.hpp"
#include "report_page.hpp"

#include <gptq/core/error.hpp>
#include <gptq/io/json.hpp>
#include <gptq/io/message.hpp>
#include <gptq/io/output_file.hpp>

#include <fmt/format.h>

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <system_error>
#include <utility>

namespace app {

/// The ending says what kind of report is wanted: .json, or .html for a page to look at.
class report_file {
 public:
  /// An empty path is no report. `output` is a folder that will exist when the report is written; it may hold it. The
  /// report takes the place of no file of `source`, of the result, or among `inputs`.
  report_file(std::filesystem::path file, std::filesystem::path const& source, std::filesystem::path const& output,
              std::initializer_list<std::filesystem::path> inputs)
      : file_(std::move(file)) {
    if (file_.empty()) return;
    if (file_.extension() != ".json" && file_.extension() != ".html")
      throw usage_error(fmt::format("--report: {} must end in .json or .html", file_.string()));
    std::error_code none;
    if (std::filesystem::is_directory(file_, none)) refuse("a folder, not a file");
    if (std::filesystem::exists(file_, none) && !std::filesystem::is_regular_file(file_, none))
      refuse("not a regular file");
    auto const absolute = std::filesystem::absolute(file_, none).lexically_normal();
    auto target = std::filesystem::absolute(output, none).lexically_normal();
    if (!target.has_filename()) target = target.parent_path();
    if (absolute == target) refuse("is the output folder");
    if (std::filesystem::equivalent(absolute.parent_path(), source, none))
      refuse("is in the folder of the source, which is never written to");
    for (auto const& input : inputs)
      if (std::filesystem::equivalent(absolute, input, none)) refuse("is read by this run");
    if (absolute.parent_path() == target) {
      auto const name = absolute.filename();
      if (name == "quantize_config.json" || name == "model.safetensors.index.json" ||
          std::filesystem::exists(source / name, none))
        refuse("is the name of a file of the result");
      return;
    }
    // The report is to be written there under another name first.
    try {
      gptq::output_file(temporary()).discard();
    } catch (gptq::format_error const& e) {
      throw gptq::format_error(fmt::format("--report: {}", e.what()));
    }
  }

  [[nodiscard]] bool wanted() const { return !file_.empty(); }

  void write(gptq::json const& report) const {
    std::filesystem::path const temporary_file = temporary();
    gptq::output_file file(temporary_file);
    file.write(file_.extension() == ".html" ? report_page(report) : gptq::to_text(report));
    file.close();
    if (std::rename(temporary_file.c_str(), file_.c_str()) == 0) return;
    int const code = errno;
    ::unlink(temporary_file.c_str());
    throw gptq::detail::file_error(file_, "can't write", code);
  }

 private:
  [[noreturn]] void refuse(char const* why) const {
    throw gptq::format_error(fmt::format("--report {}: {}", file_.string(), why));
  }
  [[nodiscard]] std::filesystem::path temporary() const {
    return file_.parent_path() / fmt::format(".{}.partial-{}", file_.filename().string(), ::getpid());
  }

  std::filesystem::path file_;
};

}  // namespace app
