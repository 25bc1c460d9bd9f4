/// The safetensors container: one file, validated completely when it is opened.
///
///   [8 bytes] n, little-endian   [n bytes] JSON header, may end in spaces   [rest] tensor data, no holes
///   header: {"__metadata__": {string: string}, name: {"dtype", "shape", "data_offsets": [begin, end)}, …}
#pragma once

#include <gptq/io/file_mapping.hpp>
#include <gptq/io/json.hpp>
#include <gptq/io/tensor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The largest header that the reference implementation accepts.
inline constexpr std::uint64_t max_safetensors_header = 100'000'000;

/// An open, valid file. Its tensors are in the order of their data.
class safetensors_file {
 public:
  /// Throws format_error naming file, tensor and reason. Hostile input costs memory in proportion to the file's size.
  explicit safetensors_file(std::filesystem::path const& file) : mapping_(file) {
    std::span<std::byte const> const all = mapping_.bytes();
    if (all.size() < 8) fail("truncated: " + std::to_string(all.size()) + " bytes, 8 for the header length are needed");
    std::uint64_t n = 0;
    for (std::size_t i = 0; i < 8; ++i) n |= std::uint64_t(all[i]) << (8 * i);
    if (n > max_safetensors_header)
      fail("header length " + std::to_string(n) + " is above the limit of " + std::to_string(max_safetensors_header));
    if (n > all.size() - 8)
      fail("truncated: the header should take " + std::to_string(n) + " bytes, " + std::to_string(all.size() - 8) +
           " are left");
    std::string_view const header = mapping_.text().substr(8, static_cast<std::size_t>(n));
    if (header.empty() || header.front() != '{') fail("the header does not start with '{'");
    data_ = all.subspan(8 + static_cast<std::size_t>(n));
    read_header(parse_json(header, file.string() + ": header"));
    check_coverage();
  }

  [[nodiscard]] std::filesystem::path const& file() const { return mapping_.file(); }
  [[nodiscard]] std::uint64_t size() const { return mapping_.bytes().size(); }  ///< bytes of the file

  /// Gives back memory that holds what was read of the file; views stay valid.
  void release() const noexcept { mapping_.release(); }

  [[nodiscard]] std::vector<tensor_view> const& tensors() const { return tensors_; }
  [[nodiscard]] std::map<std::string, std::string> const& metadata() const { return metadata_; }

 private:
  [[noreturn]] void fail(std::string const& reason) const { throw format_error(file().string() + ": " + reason); }
  [[noreturn]] void fail(std::string const& tensor, std::string const& reason) const {
    fail("tensor '" + detail::printable(tensor) + "': " + reason);
  }

  void read_header(json const& header) {
    for (auto const& [name, entry] : header.items()) {
      if (name == "__metadata__")
        read_metadata(entry);
      else
        read_entry(name, entry);
    }
  }

  void read_metadata(json const& entry) {
    if (!entry.is_object()) fail("__metadata__ is not an object");
    for (auto const& [key, value] : entry.items()) {
      if (!value.is_string()) fail("__metadata__ \"" + detail::printable(key) + "\" is not a string");
      metadata_.emplace(key, value.get_ref<std::string const&>());
    }
  }

  void read_entry(std::string const& name, json const& entry) {
    if (!entry.is_object()) fail(name, "its entry is not an object");
    if (entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets"))
      fail(name, "its entry must have exactly dtype, shape and data_offsets");
    tensor_view t;
    t.name = name;
    t.file = file();

    json const& type = entry.at("dtype");
    if (!type.is_string()) fail(name, "dtype is not a string");
    auto const known = parse_dtype(type.get_ref<std::string const&>());
    if (!known) fail(name, "unknown dtype \"" + detail::printable(type.get_ref<std::string const&>(), 60) + "\"");
    t.type = *known;

    json const& shape = entry.at("shape");
    if (!shape.is_array()) fail(name, "shape is not an array");
    for (json const& n : shape) {
      std::int64_t size = 0;
      if (!n.is_number_unsigned() || !detail::convert(n, size))
        fail(name, "a size of its shape is not a non-negative integer");
      t.shape.push_back(size);
    }

    json const& offsets = entry.at("data_offsets");
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    if (!offsets.is_array() || offsets.size() != 2 || !detail::convert(offsets[0], begin) ||
        !detail::convert(offsets[1], end))
      fail(name, "data_offsets are not two non-negative integers");
    if (begin > end) fail(name, "data_offsets " + range(begin, end) + " are reversed");
    if (end > data_.size())
      fail(name, "data_offsets " + range(begin, end) + " are outside the file's " + std::to_string(data_.size()) +
                     " bytes of data");
    auto const bytes = byte_count(t.type, t.shape);
    if (!bytes) fail(name, "shape " + to_string(t.shape) + " overflows");
    if (*bytes != end - begin)
      fail(name, "shape " + to_string(t.shape) + " of " + to_string(t.type) + " takes " + std::to_string(*bytes) +
                     " bytes, but data_offsets " + range(begin, end) + " hold " + std::to_string(end - begin));
    t.bytes = data_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    tensors_.push_back(std::move(t));
  }

  void check_coverage() {
    auto const begin_of = [this](tensor_view const& t) {
      return static_cast<std::uint64_t>(t.bytes.data() - data_.data());
    };
    std::stable_sort(tensors_.begin(), tensors_.end(), [&](tensor_view const& a, tensor_view const& b) {
      // An empty tensor precedes the one whose data start at the same place.
      return std::pair(begin_of(a), a.bytes.size()) < std::pair(begin_of(b), b.bytes.size());
    });
    std::uint64_t end = 0;
    for (tensor_view const& t : tensors_) {
      std::uint64_t const begin = begin_of(t);
      if (begin < end) fail(t.name, "its data overlap those of another tensor at byte " + std::to_string(begin));
      if (begin > end) fail(t.name, "there is a hole of " + std::to_string(begin - end) + " bytes before its data");
      end = begin + t.bytes.size();
    }
    if (end != data_.size()) fail(std::to_string(data_.size() - end) + " bytes at the end belong to no tensor");
  }

  static std::string range(std::uint64_t begin, std::uint64_t end) {
    return "[" + std::to_string(begin) + ", " + std::to_string(end) + "]";
  }

  file_mapping mapping_;
  std::span<std::byte const> data_;
  std::vector<tensor_view> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace v0
}  // namespace gptq
