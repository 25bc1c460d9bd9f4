/// A result folder that appears complete or not at all.
#pragma once

#include <gptq/io/json.hpp>
#include <gptq/io/message.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Whether a folder says that it holds a quantized model: quantize_config.json, or config.json with
/// quantization_config.
inline bool holds_quantized_model(std::filesystem::path const& folder) {
  std::error_code none;
  if (std::filesystem::is_regular_file(folder / "quantize_config.json", none)) return true;
  try {
    json const config = read_json(folder / "config.json");
    return config.is_object() && config.contains("quantization_config") && config.at("quantization_config").is_object();
  } catch (format_error const&) {
    return false;
  }
}

/// The folder is written under a temporary name beside the target, so two runs don't collide, and commit() moves it
/// into place; without commit() the destructor removes it.
///
/// An existing target is refused, unless overwriting was asked for and it is a folder (no link) that holds a quantized
/// model and no sub-folder. The target is never the source, inside it, around it, or a folder that files of the source
/// link into.
class output_folder {
 public:
  /// Checks the rules and creates the temporary folder, and folders above it that are missing. Throws format_error.
  output_folder(std::filesystem::path const& target, std::filesystem::path const& source, bool overwrite)
      : target_(normal(target)), source_(source), overwrite_(overwrite) {
    check_apart();
    check_target();
    try {
      create();
    } catch (...) {
      remove_created();
      throw;
    }
  }
  output_folder(output_folder const&) = delete;
  output_folder& operator=(output_folder const&) = delete;
  ~output_folder() {
    if (committed_) return;
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    remove_created();
  }

  /// What the constructor and check_space(bytes) would refuse, without creating anything.
  static void check(std::filesystem::path const& target, std::filesystem::path const& source, bool overwrite,
                    std::uint64_t bytes) {
    output_folder probe(target, source, overwrite, nothing_created());
    probe.check_apart();
    probe.check_target();
    while (!exists(probe.path_) && probe.path_.has_relative_path()) probe.path_ = probe.path_.parent_path();
    if (::access(probe.path_.c_str(), W_OK | X_OK) != 0)
      throw detail::file_error(probe.path_, "can't create a folder in it", errno);
    probe.check_space(bytes);
  }

  /// Where to write.
  [[nodiscard]] std::filesystem::path const& path() const { return path_; }

  /// Where it will be.
  [[nodiscard]] std::filesystem::path const& target() const { return target_; }

  /// Throws format_error if the file system has less free space than `bytes`.
  void check_space(std::uint64_t bytes) const {
    std::error_code code;
    auto const space = std::filesystem::space(path_, code);
    if (!code && space.available < bytes)
      throw format_error(target_.string() + ": not enough disk space: " + std::to_string(bytes) + " bytes needed, " +
                         std::to_string(space.available) + " free");
  }

  /// Moves the folder into place. If the target appeared meanwhile (or changed into something that must not be
  /// replaced) this throws format_error, and the complete result stays under its temporary name, which the message
  /// gives.
  void commit() {
    try {
      bool const replace = exists(target_);
      check_apart();
      check_target();
      if (replace)
        replace_target();
      else
        move_into_place();
    } catch (format_error const& e) {
      committed_ = true;
      throw format_error(std::string(e.what()) + "; the complete result is kept in " + path_.string());
    }
    committed_ = true;
  }

 private:
  struct nothing_created {};
  output_folder(std::filesystem::path const& target, std::filesystem::path const& source, bool overwrite,
                nothing_created)
      : target_(normal(target)),
        source_(source),
        overwrite_(overwrite),
        path_(target_.parent_path()),
        committed_(true) {}

  static bool exists(std::filesystem::path const& p) {
    std::error_code none;
    return std::filesystem::exists(std::filesystem::symlink_status(p, none));  // also a link to nothing
  }

  static std::filesystem::path normal(std::filesystem::path const& p) {
    if (p.empty()) throw format_error("the output folder has an empty name");
    std::error_code code;
    std::filesystem::path out = std::filesystem::absolute(p, code).lexically_normal();
    if (!out.has_filename()) out = out.parent_path();  // "folder/"
    if (code || !out.has_filename()) throw format_error(p.string() + ": can't be an output folder");
    return out;
  }

  /// Whether `inner` is `outer` or lies below it; links and mounts followed, missing ends of `inner` ignored.
  static bool within(std::filesystem::path const& inner, std::filesystem::path const& outer) {
    std::error_code none;
    for (std::filesystem::path p = std::filesystem::weakly_canonical(inner, none); !p.empty(); p = p.parent_path()) {
      if (std::filesystem::equivalent(p, outer, none)) return true;
      if (p == p.parent_path()) break;
    }
    return false;
  }

  void check_apart() const {
    auto const refuse = [&](std::string const& what) {
      throw format_error(target_.string() + ": can't be the output: it " + what + " the source " + source_.string());
    };
    if (within(target_, source_)) refuse("is, or is inside,");
    if (!exists(target_)) return;
    if (within(source_, target_)) refuse("contains");
    std::error_code code;
    for (std::filesystem::directory_iterator at(source_, code), end; !code && at != end; at.increment(code))
      if (at->is_symlink(code) && within(at->path(), target_)) refuse("holds files of");
  }

  void check_target() const {
    if (!exists(target_)) return;
    auto const refuse = [&](std::string const& why) { throw format_error(target_.string() + ": " + why); };
    std::error_code code;
    if (!overwrite_) refuse("already exists");
    if (std::filesystem::is_symlink(target_, code)) refuse("is a symbolic link, which is never replaced");
    if (!std::filesystem::is_directory(target_, code)) refuse("is not a folder, so it is not replaced");
    if (!holds_quantized_model(target_)) refuse("does not hold a quantized model, so it is not replaced");
    for (std::filesystem::directory_iterator at(target_, code), end; !code && at != end; at.increment(code))
      if (at->is_directory(code))
        refuse("holds the folder " + at->path().filename().string() + ", so it is not replaced");
  }

  void create() {
    std::filesystem::path const parent = target_.parent_path();
    std::vector<std::filesystem::path> missing;
    for (std::filesystem::path p = parent; !exists(p); p = p.parent_path()) missing.push_back(p);
    for (auto p = missing.rbegin(); p != missing.rend(); ++p) {
      if (::mkdir(p->c_str(), 0777) == 0)
        created_.push_back(*p);
      else if (errno != EEXIST)
        throw detail::file_error(*p, "can't create the folder", errno);
    }
    std::string const stem = "." + target_.filename().string() + ".partial-" + std::to_string(::getpid());
    for (int attempt = 0;; ++attempt) {
      path_ = parent / (stem + "-" + std::to_string(attempt));
      if (::mkdir(path_.c_str(), 0777) == 0) return;
      if (errno != EEXIST || attempt == 1000) throw detail::file_error(path_, "can't create the folder", errno);
    }
  }

  void remove_created() noexcept {
    for (auto p = created_.rbegin(); p != created_.rend(); ++p) ::rmdir(p->c_str());  // stays if somebody uses it
  }

  /// rename() with a flag; false where kernel or file system do not know the flag.
  bool rename_with(unsigned flag) {
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), flag) == 0) return true;
    if (errno == ENOSYS || errno == EINVAL) return false;
    throw detail::file_error(target_, "can't move the result into place", errno);
  }

  void move_into_place() {
    // A plain rename would replace an empty folder that appeared a moment ago.
    if (!rename_with(RENAME_NOREPLACE) && ::rename(path_.c_str(), target_.c_str()) != 0)
      throw detail::file_error(target_, "can't move the result into place", errno);
  }

  void replace_target() {
    std::error_code ignored;
    if (rename_with(RENAME_EXCHANGE)) {
      std::filesystem::remove_all(path_, ignored);
      return;
    }
    std::filesystem::path const old = path_.string() + "-replaced";
    if (::rename(target_.c_str(), old.c_str()) != 0) throw detail::file_error(target_, "can't replace it", errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) {
      int const code = errno;
      ::rename(old.c_str(), target_.c_str());
      throw detail::file_error(target_, "can't move the result into place", code);
    }
    std::filesystem::remove_all(old, ignored);
  }

  std::filesystem::path target_;
  std::filesystem::path source_;
  bool overwrite_;
  std::filesystem::path path_;
  std::vector<std::filesystem::path> created_;  ///< folders above the target
  bool committed_ = false;
};

}  // namespace v0
}  // namespace gptq
