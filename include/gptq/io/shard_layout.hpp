/// Where every tensor of a folder's weights will lie, before one byte of them is written.
///
///   gptq::shard_layout const plan(tensors, {.shard_size = 5'000'000'000});
///   gptq::checkpoint_writer writer(folder, plan);   // io/writer.hpp
#pragma once

#include <gptq/io/json.hpp>
#include <gptq/io/tensor.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// How tensors are divided among files.
struct shard_options {
  /// Bytes of tensor data in a shard at most; a tensor that is larger gets a shard of its own.
  std::uint64_t shard_size = 4'000'000'000;
  std::map<std::string, std::string> metadata = {};  ///< goes into every shard, beside {"format": "pt"}
  /// Bytes that a shard's length and header take at least, filled up with spaces; 0: as many as they need.
  std::size_t header_room = 0;
};

/// One file of weights.
struct planned_shard {
  std::string name;        ///< model.safetensors, or model-0000i-of-0000n.safetensors
  std::string header;      ///< the file's beginning: length and JSON, padded to a multiple of 8
  std::uint64_t size = 0;  ///< bytes of the file
};

/// A tensor's place.
struct planned_tensor {
  tensor_outline tensor;
  std::uint64_t bytes = 0;
  std::size_t shard = 0;     ///< index into shards()
  std::uint64_t offset = 0;  ///< from the beginning of the file
};

/// model.safetensors, or several shards and model.safetensors.index.json. Shards are filled in the order of the tensors.
/// No holes are allowed in a shard and every tensor is aligned to its elements: with header_room, tensors that take a
/// multiple of 8 bytes come first, in order; then those with the widest elements, in order.
class shard_layout {
 public:
  shard_layout() = default;

  /// Throws shape_error for a shape that overflows and for a shard size of 0, format_error for a name that is there
  /// twice or is no UTF-8.
  explicit shard_layout(std::vector<tensor_outline> tensors, shard_options options = {}) {
    if (options.shard_size == 0) throw shape_error("shard_size must be above 0");
    options.metadata.insert_or_assign("format", "pt");
    options.header_room = (options.header_room + 7) / 8 * 8;
    for (tensor_outline& t : tensors) add(std::move(t), options.shard_size);
    std::size_t const n = (std::max)(count_, std::size_t{1});
    for (std::size_t first = 0, shard = 0; shard < n; ++shard) {
      std::size_t end = first;
      while (end < tensors_.size() && tensors_[end].shard == shard) ++end;
      place(first, end, shard_name(shard, n), options);
      first = end;
    }
    list_names();
    if (n > 1) write_index();
  }

  /// In the order in which they were given.
  [[nodiscard]] std::vector<planned_tensor> const& tensors() const { return tensors_; }
  [[nodiscard]] std::vector<planned_shard> const& shards() const { return shards_; }

  /// The number of the tensor of that name in tensors(), or tensors().size().
  [[nodiscard]] std::size_t find(std::string_view name) const {
    auto const at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                     [this](std::size_t i, std::string_view n) { return tensors_[i].tensor.name < n; });
    return at != by_name_.end() && tensors_[*at].tensor.name == name ? *at : tensors_.size();
  }

  /// The text of model.safetensors.index.json, empty where there is one shard.
  [[nodiscard]] std::string const& index() const { return index_; }

  /// Bytes of tensor data.
  [[nodiscard]] std::uint64_t total_size() const { return total_; }

  /// Bytes of all files, the index included.
  [[nodiscard]] std::uint64_t file_bytes() const {
    std::uint64_t bytes = index_.size();
    for (planned_shard const& s : shards_) bytes += s.size;
    return bytes;
  }

 private:
  static std::string shard_name(std::size_t shard, std::size_t n) {
    if (n == 1) return "model.safetensors";
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "model-%05zu-of-%05zu.safetensors", shard + 1, n);
    return text.data();
  }

  void add(tensor_outline&& t, std::uint64_t shard_size) {
    auto const bytes = byte_count(t.type, t.shape);
    if (!bytes)
      throw shape_error("tensor '" + detail::printable(t.name) + "': shape " + to_string(t.shape) + " is impossible");
    if (count_ == 0 || *bytes > shard_size - (std::min)(shard_size, filled_)) {
      ++count_;
      filled_ = 0;
    }
    filled_ += *bytes;
    total_ += *bytes;
    tensors_.push_back({std::move(t), *bytes, count_ - 1, 0});
  }

  /// Header and offsets of one shard, which holds tensors [first, end).
  void place(std::size_t first, std::size_t end, std::string name, shard_options const& options) {
    std::vector<std::size_t> order;
    auto const placed = [&](planned_tensor const& t) { return options.header_room > 0 && t.bytes % 8 == 0; };
    for (std::size_t i = first; i < end; ++i)
      if (placed(tensors_[i])) order.push_back(i);
    bool const padded = !order.empty();
    for (std::size_t width = 4; width-- > 0;)
      for (std::size_t i = first; i < end; ++i)
        if (!placed(tensors_[i]) && size_of(tensors_[i].tensor.type) == std::size_t{1} << width) order.push_back(i);
    planned_shard shard{std::move(name), header(order, options.metadata, padded ? options.header_room : 0), 0};
    shard.size = shard.header.size();
    for (std::size_t const i : order) {
      tensors_[i].offset = shard.size;
      shard.size += tensors_[i].bytes;
    }
    shards_.push_back(std::move(shard));
  }

  /// Length and JSON, padded so that the data start at a multiple of 8, and not before `least`.
  std::string header(std::vector<std::size_t> const& order, std::map<std::string, std::string> const& metadata,
                     std::size_t least) const {
    json document = json::object();
    auto& members = document.get_ref<json::object_t&>();
    members.emplace_back("__metadata__", metadata);
    std::uint64_t begin = 0;
    for (std::size_t const i : order) {
      planned_tensor const& t = tensors_[i];
      members.emplace_back(t.tensor.name, json{{"dtype", to_string(t.tensor.type)},
                                               {"shape", t.tensor.shape},
                                               {"data_offsets", {begin, begin + t.bytes}}});
      begin += t.bytes;
    }
    std::string text;
    try {
      text = document.dump();
    } catch (json::exception const&) {
      throw format_error("a tensor name or metadata entry is not valid UTF-8");
    }
    text.append((8 - text.size() % 8) % 8, ' ');
    if (text.size() + 8 < least) text.append(least - text.size() - 8, ' ');
    std::string length;
    for (unsigned i = 0; i < 8; ++i)
      length += static_cast<char>(static_cast<unsigned char>(std::uint64_t{text.size()} >> (8 * i)));
    return length + text;
  }

  void list_names() {
    for (std::size_t i = 0; i < tensors_.size(); ++i) by_name_.push_back(i);
    auto const name = [this](std::size_t i) -> std::string const& { return tensors_[i].tensor.name; };
    std::sort(by_name_.begin(), by_name_.end(), [&](auto a, auto b) { return name(a) < name(b); });
    for (std::size_t i = 0; i < by_name_.size(); ++i)
      if (name(by_name_[i]) == "__metadata__" || (i > 0 && name(by_name_[i - 1]) == name(by_name_[i])))
        throw format_error("tensor '" + detail::printable(name(by_name_[i])) + "' can't be written twice");
  }

  void write_index() {
    json map = json::object();
    for (std::size_t const i : by_name_)
      map.get_ref<json::object_t&>().emplace_back(tensors_[i].tensor.name, shards_[tensors_[i].shard].name);
    json const document = {{"metadata", {{"total_size", total_}}}, {"weight_map", std::move(map)}};
    index_ = to_text(document);
  }

  std::vector<planned_tensor> tensors_;
  std::vector<planned_shard> shards_;
  std::vector<std::size_t> by_name_;
  std::string index_;
  std::size_t count_ = 0;     ///< shards begun
  std::uint64_t filled_ = 0;  ///< bytes of data in the last of them
  std::uint64_t total_ = 0;
};

}  // namespace v0
}  // namespace gptq
