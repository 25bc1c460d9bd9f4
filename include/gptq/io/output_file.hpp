/// A file being written: every failure (a full disk, a file limit) is an error that names file and reason.
#pragma once

#include <gptq/io/message.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

namespace gptq {
inline namespace v0 {

/// Creates a file that must not exist and writes to it. Unless close() was reached, the destructor removes the file.
class output_file {
 public:
  output_file() = default;
  explicit output_file(std::filesystem::path const& file)
      : file_(file), fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
    if (fd_ < 0) throw detail::file_error(file, "can't create", errno);
  }
  output_file(output_file&& other) noexcept : file_(std::move(other.file_)), fd_(std::exchange(other.fd_, -1)) {}
  output_file& operator=(output_file&& other) noexcept {
    if (this != &other) {
      discard();
      file_ = std::move(other.file_);
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~output_file() { discard(); }

  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] std::filesystem::path const& file() const { return file_; }

  void write(std::span<std::byte const> bytes) {
    while (!bytes.empty()) {
      ssize_t const n = ::write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw detail::file_error(file_, "can't write", errno);
      if (n == 0) throw detail::file_error(file_, "can't write", ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Writes at that place, beyond what was written so far or over it.
  void write_at(std::uint64_t offset, std::span<std::byte const> bytes) {
    while (!bytes.empty()) {
      ssize_t const n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw detail::file_error(file_, "can't write", n < 0 ? errno : ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
  }

  /// Ends the writing and keeps the file. Some file systems report a full disk only here.
  void close() {
    if (fd_ < 0) return;
    if (::close(std::exchange(fd_, -1)) != 0) {
      int const code = errno;
      ::unlink(file_.c_str());
      throw detail::file_error(file_, "can't write", code);
    }
  }

  /// Closes and removes the file, unless close() kept it.
  void discard() noexcept {
    if (fd_ < 0) return;
    ::close(std::exchange(fd_, -1));
    ::unlink(file_.c_str());
  }

 private:
  std::filesystem::path file_;
  int fd_ = -1;
};

}  // namespace v0
}  // namespace gptq
