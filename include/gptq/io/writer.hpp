/// Writes the weights of a model folder into files whose names, headers and sizes are known.
#pragma once

#include <gptq/io/output_file.hpp>
#include <gptq/io/shard_layout.hpp>
#include <gptq/io/tensor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Writes each tensor where the layout says, in any order and in place: nothing is copied later, no other file is made,
/// and the disk needs no more than layout.file_bytes(). A shard is open from its first tensor to its last.
///
/// Every write error (a full disk) is a format_error naming file and reason. Unless finish() has returned, the
/// destructor removes every file that was written. Calls must not overlap.
class checkpoint_writer {
 public:
  /// `folder` must exist and hold no weights.
  checkpoint_writer(std::filesystem::path folder, shard_layout layout)
      : folder_(std::move(folder)), layout_(std::move(layout)), written_(layout_.tensors().size(), false) {
    std::error_code code;
    for (std::filesystem::directory_iterator at(folder_, code), end; !code && at != end; at.increment(code))
      if (at->path().filename().string().find(".safetensors") != std::string::npos)
        throw format_error(at->path().string() + ": already exists");
    if (code) throw format_error(folder_.string() + ": can't write into it: " + code.message());
    shards_.resize(layout_.shards().size());
    for (planned_tensor const& t : layout_.tensors()) ++shards_[t.shard].missing;
  }
  checkpoint_writer(checkpoint_writer const&) = delete;
  checkpoint_writer& operator=(checkpoint_writer const&) = delete;
  ~checkpoint_writer() {
    if (finished_) return;
    std::error_code ignored;
    for (std::filesystem::path const& file : kept_) std::filesystem::remove(file, ignored);
  }

  [[nodiscard]] shard_layout const& layout() const { return layout_; }

  /// Writes one tensor: row-major, little-endian. Throws shape_error if `bytes` does not fit dtype and shape, or these
  /// are not what was planned; format_error if the tensor was written before.
  void add(std::string const& name, dtype type, std::vector<std::int64_t> const& shape,
           std::span<std::byte const> bytes) {
    std::string const place = "tensor '" + detail::printable(name) + "'";
    if (byte_count(type, shape) != std::uint64_t{bytes.size()})
      throw shape_error(place + ": " + std::to_string(bytes.size()) + " bytes do not fit shape " + to_string(shape) +
                        " of " + to_string(type));
    std::size_t const i = layout_.find(name);
    if (i == written_.size()) throw shape_error(place + " was not planned");
    planned_tensor const& planned = layout_.tensors()[i];
    if (planned.tensor.type != type || planned.tensor.shape != shape)
      throw shape_error(place + " was planned as " + to_string(planned.tensor.shape) + " of " +
                        to_string(planned.tensor.type) + ", not " + to_string(shape) + " of " + to_string(type));
    if (written_[i]) throw format_error(folder_.string() + ": " + place + " can't be written twice");
    open(planned.shard).write_at(planned.offset, bytes);
    written_[i] = true;
    if (--shards_[planned.shard].missing == 0) close(planned.shard);
  }

  /// Copies a tensor as it is.
  void add(tensor_view const& t) { add(t.name, t.type, t.shape, t.bytes); }

  /// Ends the writing, and writes the index if there are several shards. Throws shape_error naming a tensor that is
  /// missing.
  void finish() {
    auto const missing = std::find(written_.begin(), written_.end(), false);
    if (missing != written_.end())
      throw shape_error("tensor '" +
                        detail::printable(layout_.tensors()[std::size_t(missing - written_.begin())].tensor.name) +
                        "' was planned and not written");
    if (layout_.tensors().empty() && kept_.empty()) {
      open(0);
      close(0);
    }
    if (!layout_.index().empty()) {
      output_file index(folder_ / "model.safetensors.index.json");
      index.write(layout_.index());
      index.close();
      kept_.push_back(index.file());
    }
    finished_ = true;
  }

 private:
  struct shard_state {
    output_file file;
    std::size_t missing = 0;  ///< tensors
  };

  output_file& open(std::size_t shard) {
    output_file& file = shards_[shard].file;
    if (!file.is_open()) {
      file = output_file(folder_ / layout_.shards()[shard].name);
      file.write(layout_.shards()[shard].header);
    }
    return file;
  }

  void close(std::size_t shard) {
    shards_[shard].file.close();
    kept_.push_back(shards_[shard].file.file());
  }

  std::filesystem::path folder_;
  shard_layout layout_;
  std::vector<bool> written_;        ///< of the layout's tensors
  std::vector<shard_state> shards_;  ///< an open one removes its file when it goes
  std::vector<std::filesystem::path> kept_;
  bool finished_ = false;
};

/// Writes tensors that are there already, with an index if they take several shards. Throws what checkpoint_writer does.
inline void write_checkpoint(std::filesystem::path const& folder, std::vector<tensor_view> const& tensors,
                             shard_options const& options = {}) {
  std::vector<tensor_outline> shapes;
  for (tensor_view const& t : tensors) shapes.push_back({t.name, t.type, t.shape});
  checkpoint_writer writer(folder, shard_layout(std::move(shapes), options));
  for (tensor_view const& t : tensors) writer.add(t);
  writer.finish();
}

}  // namespace v0
}  // namespace gptq
