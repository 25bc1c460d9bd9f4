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
#include <vector>

namespace gptq {
inline namespace v0 {

/// Creates a file that must not exist and appends to it. Unless close() was reached, the destructor removes the file.
class output_file {
 public:
  output_file() = default;
  explicit output_file(std::filesystem::path const& file)
      : file_(file), fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
    if (fd_ < 0) throw detail::file_error(file, "can't create", errno);
  }
  output_file(output_file&& other) noexcept
      : file_(std::move(other.file_)), fd_(std::exchange(other.fd_, -1)), size_(std::exchange(other.size_, 0)) {}
  output_file& operator=(output_file&& other) noexcept {
    if (this != &other) {
      discard();
      file_ = std::move(other.file_);
      fd_ = std::exchange(other.fd_, -1);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  ~output_file() { discard(); }

  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] std::filesystem::path const& file() const { return file_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

  void write(std::span<std::byte const> bytes) {
    while (!bytes.empty()) {
      ssize_t const n = ::write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw detail::file_error(file_, "can't write", errno);
      if (n == 0) throw detail::file_error(file_, "can't write", ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      size_ += static_cast<std::uint64_t>(n);
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Replaces what was written from the start of the file on.
  void rewrite(std::string_view text) {
    for (off_t done = 0; !text.empty();) {
      ssize_t const n = ::pwrite(fd_, text.data(), text.size(), done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw detail::file_error(file_, "can't write", n < 0 ? errno : ENOSPC);
      text.remove_prefix(static_cast<std::size_t>(n));
      done += static_cast<off_t>(n);
    }
  }

  /// Appends everything written to `other`, from byte `first` of it on.
  void append(output_file const& other, std::uint64_t first = 0) {
    std::vector<std::byte> buffer(std::size_t{1} << 20);
    for (std::uint64_t done = first; done < other.size_;) {
      std::size_t const want =
          std::size_t(std::uint64_t{buffer.size()} < other.size_ - done ? buffer.size() : other.size_ - done);
      ssize_t const n = ::pread(other.fd_, buffer.data(), want, static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw detail::file_error(other.file_, "can't read back", n < 0 ? errno : EIO);
      write(std::span(buffer).first(static_cast<std::size_t>(n)));
      done += static_cast<std::uint64_t>(n);
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
    size_ = 0;
  }

 private:
  std::filesystem::path file_;
  int fd_ = -1;
  std::uint64_t size_ = 0;
};

}  // namespace v0
}  // namespace gptq
