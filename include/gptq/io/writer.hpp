/// Writes the weights of a model folder as they come: one shard in the making, little memory.
#pragma once

#include <gptq/io/json.hpp>
#include <gptq/io/output_file.hpp>
#include <gptq/io/tensor.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// model.safetensors, or model-0000i-of-0000n.safetensors and model.safetensors.index.json if it takes several.
///
/// Inside a shard, tensors with wide elements come first, then in order of arrival: no holes are allowed, and so every
/// tensor is aligned to its elements. Data go to one temporary file for each width; a shard that is full becomes header
/// plus these, so the disk must have room for one shard more than the result.
///
/// With room for the header kept from the start, tensors that take a multiple of 8 bytes, which leave what follows
/// aligned, are written where they stay, before all others and in order of arrival: nothing of them is copied later.
///
/// Every write error (a full disk) is a format_error naming file and reason. Unless finish() has returned, the
/// destructor removes every file that was written.
class checkpoint_writer {
 public:
  /// `folder` must exist and hold no weights. A shard is closed before it would pass `shard_size` bytes of data; a
  /// tensor that is larger gets a shard of its own. `metadata` goes into every shard, beside {"format": "pt"}.
  /// `header_room`: bytes to keep for a shard's header, filled up with spaces; one that needs more costs a copy.
  checkpoint_writer(std::filesystem::path folder, std::uint64_t shard_size,
                    std::map<std::string, std::string> metadata = {}, std::size_t header_room = 0)
      : folder_(std::move(folder)),
        shard_size_(shard_size),
        metadata_(std::move(metadata)),
        header_room_((header_room + 7) / 8 * 8) {
    if (shard_size == 0) throw shape_error("shard_size must be above 0");
    metadata_.insert_or_assign("format", "pt");
    std::error_code code;
    for (std::filesystem::directory_iterator at(folder_, code), end; !code && at != end; at.increment(code))
      if (at->path().filename().string().find(".safetensors") != std::string::npos)
        throw format_error(at->path().string() + ": already exists");
    if (code) throw format_error(folder_.string() + ": can't write into it: " + code.message());
  }
  checkpoint_writer(checkpoint_writer const&) = delete;
  checkpoint_writer& operator=(checkpoint_writer const&) = delete;
  ~checkpoint_writer() {
    if (finished_) return;
    std::error_code ignored;
    for (std::filesystem::path const& file : kept_) std::filesystem::remove(file, ignored);
  }

  /// Appends one tensor: row-major, little-endian. Throws shape_error if `bytes` does not fit dtype and shape,
  /// format_error if the name was used before.
  void add(std::string name, dtype type, std::vector<std::int64_t> shape, std::span<std::byte const> bytes) {
    if (byte_count(type, shape) != std::uint64_t{bytes.size()})
      throw shape_error("tensor '" + name + "': " + std::to_string(bytes.size()) + " bytes do not fit shape " +
                        to_string(shape) + " of " + to_string(type));
    if (name == "__metadata__" || !names_.insert(name).second)
      throw format_error(folder_.string() + ": tensor '" + detail::printable(name) + "' can't be written twice");
    if (!entries_.empty() && bytes.size() > shard_size_ - (std::min)(shard_size_, filled_)) close_shard();
    bool const stays = header_room_ > 0 && bytes.size() % 8 == 0;
    if (stays) {
      if (!placed_.is_open()) {
        placed_ = output_file(folder_ / shard_file(".tmp"));
        placed_.write(std::string(header_room_, ' '));
      }
      placed_.write(bytes);
    } else {
      std::size_t const width = static_cast<std::size_t>(std::countr_zero(size_of(type)));
      if (!data_[width].is_open())
        data_[width] = output_file(folder_ / ("data-" + std::to_string(size_of(type)) + ".tmp"));
      data_[width].write(bytes);
    }
    filled_ += bytes.size();
    entries_.push_back({std::move(name), type, std::move(shape), bytes.size(), stays});
  }

  /// Copies a tensor as it is.
  void add(tensor_view const& t) { add(t.name, t.type, t.shape, t.bytes); }

  /// Completes the last shard, gives all their final names and writes the index if there are several.
  void finish() {
    if (!entries_.empty() || kept_.empty()) close_shard();
    std::size_t const n = kept_.size();
    json map = json::object();
    for (auto const& [tensor, shard] : weight_map_)
      map.get_ref<json::object_t&>().emplace_back(tensor, shard_name(shard, n));
    for (std::size_t shard = 0; shard < n; ++shard) {
      std::filesystem::path const target = folder_ / shard_name(shard, n);
      std::error_code code;
      std::filesystem::rename(kept_[shard], target, code);
      if (code)
        throw format_error(target.string() + ": can't rename " + kept_[shard].filename().string() + ": " +
                           code.message());
      kept_[shard] = target;
    }
    if (n > 1) {
      std::filesystem::path const file = folder_ / "model.safetensors.index.json";
      write_json(file, {{"metadata", {{"total_size", total_}}}, {"weight_map", std::move(map)}});
      kept_.push_back(file);
    }
    finished_ = true;
  }

  /// Bytes of tensor data so far.
  [[nodiscard]] std::uint64_t total_size() const { return total_ + filled_; }

 private:
  struct entry {
    std::string name;
    dtype type;
    std::vector<std::int64_t> shape;
    std::uint64_t bytes;
    bool stays;  ///< it was written where it belongs
  };

  /// Of the shard in the making.
  std::string shard_file(char const* end) const { return "shard-" + std::to_string(kept_.size() + 1) + end; }

  static std::string shard_name(std::size_t shard, std::size_t n) {
    if (n == 1) return "model.safetensors";
    std::array<char, 64> text;
    std::snprintf(text.data(), text.size(), "model-%05zu-of-%05zu.safetensors", shard + 1, n);
    return text.data();
  }

  /// Length and JSON, padded so that the data start at a multiple of 8, and not before `least`.
  std::string header(std::size_t least) const {
    json document = json::object();
    auto& members = document.get_ref<json::object_t&>();
    members.emplace_back("__metadata__", metadata_);
    std::uint64_t begin = 0;
    auto const list = [&](entry const& e) {
      members.emplace_back(
          e.name, json{{"dtype", to_string(e.type)}, {"shape", e.shape}, {"data_offsets", {begin, begin + e.bytes}}});
      begin += e.bytes;
    };
    for (entry const& e : entries_)
      if (e.stays) list(e);
    for (std::size_t width = data_.size(); width-- > 0;)
      for (entry const& e : entries_)
        if (!e.stays && size_of(e.type) == std::size_t{1} << width) list(e);
    std::string text;
    try {
      text = document.dump();
    } catch (json::exception const&) {
      throw format_error(folder_.string() + ": a tensor name or metadata entry is not valid UTF-8");
    }
    text.append((8 - text.size() % 8) % 8, ' ');
    if (text.size() + 8 < least) text.append(least - text.size() - 8, ' ');
    std::string length;
    for (unsigned i = 0; i < 8; ++i)
      length += static_cast<char>(static_cast<unsigned char>(std::uint64_t{text.size()} >> (8 * i)));
    return length + text;
  }

  void close_shard() {
    std::size_t const shard = kept_.size();
    output_file out = std::move(placed_);
    std::string const head = header(out.is_open() ? header_room_ : 0);
    if (out.is_open() && head.size() == header_room_) {
      out.rewrite(head);
    } else {
      output_file const placed = std::exchange(out, output_file(folder_ / shard_file("-whole.tmp")));
      out.write(head);
      if (placed.is_open()) out.append(placed, header_room_);
    }
    for (std::size_t width = data_.size(); width-- > 0;) {
      if (!data_[width].is_open()) continue;
      out.append(data_[width]);
      data_[width].discard();
    }
    out.close();
    kept_.push_back(out.file());
    for (entry const& e : entries_) weight_map_.emplace(e.name, shard);
    entries_.clear();
    total_ += std::exchange(filled_, 0);
  }

  std::filesystem::path folder_;
  std::uint64_t shard_size_;
  std::map<std::string, std::string> metadata_;
  std::size_t header_room_;
  output_file placed_;               ///< the open shard with what stays where it is
  std::array<output_file, 4> data_;  ///< of the open shard, the rest: elements of 1, 2, 4 and 8 bytes
  std::vector<entry> entries_;       ///< of the open shard
  std::uint64_t filled_ = 0;         ///< bytes of the open shard
  std::uint64_t total_ = 0;          ///< bytes of the closed ones
  std::set<std::string> names_;
  std::map<std::string, std::size_t> weight_map_;
  std::vector<std::filesystem::path> kept_;  ///< closed shards, later the index
  bool finished_ = false;
};

}  // namespace v0
}  // namespace gptq
