/// A read-only memory mapping of a regular file.
#pragma once

#include <gptq/io/message.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

namespace gptq {
inline namespace v0 {

/// Maps a whole file. The bytes stay valid, at the same place, until the mapping is destroyed; moving keeps them.
/// Pages are read on demand. A file that somebody shortens while it is mapped ends the process (SIGBUS), as with any
/// mapping.
class file_mapping {
 public:
  file_mapping() = default;

  /// Throws format_error if the file is missing, unreadable or not a regular file.
  explicit file_mapping(std::filesystem::path const& file) : file_(file) {
    struct descriptor {
      int value;
      ~descriptor() {
        if (value >= 0) ::close(value);
      }
    };
    // O_NONBLOCK: opening a pipe must not wait for a writer.
    descriptor const fd{::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (fd.value < 0) throw detail::file_error(file, "can't open", errno);
    struct stat status {};
    if (::fstat(fd.value, &status) != 0) throw detail::file_error(file, "can't read its size", errno);
    if (!S_ISREG(status.st_mode)) throw format_error(file.string() + ": not a regular file");
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return;  // mmap refuses an empty range
    void* const p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.value, 0);
    if (p == MAP_FAILED) throw detail::file_error(file, "can't map", errno);
    data_ = static_cast<std::byte const*>(p);
  }

  file_mapping(file_mapping&& other) noexcept
      : file_(std::move(other.file_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  file_mapping& operator=(file_mapping&& other) noexcept {
    if (this != &other) {
      unmap();
      file_ = std::move(other.file_);
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  ~file_mapping() { unmap(); }

  /// Gives the memory of pages that were read back to the system, which reads them again where they are asked for.
  void release() const noexcept {
    if (data_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
  }

  [[nodiscard]] std::filesystem::path const& file() const { return file_; }
  [[nodiscard]] std::span<std::byte const> bytes() const { return {data_, size_}; }
  [[nodiscard]] std::string_view text() const { return {reinterpret_cast<char const*>(data_), size_}; }

 private:
  void unmap() noexcept {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  std::filesystem::path file_;
  std::byte const* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace v0
}  // namespace gptq
