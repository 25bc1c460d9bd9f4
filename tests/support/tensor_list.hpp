/// Tensors gathered one by one and then written as a model folder's weights.
#pragma once

#include <gptq/io/writer.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <list>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace test {

class tensor_list {
 public:
  void add(std::string name, gptq::dtype type, std::vector<std::int64_t> shape, std::span<std::byte const> bytes) {
    auto const& own = bytes_.emplace_back(bytes.begin(), bytes.end());
    tensors_.push_back({std::move(name), type, std::move(shape), own, {}});
  }
  void add(gptq::tensor_view const& t) { add(t.name, t.type, t.shape, t.bytes); }

  void write(std::filesystem::path const& folder, gptq::shard_options const& options = {}) const {
    gptq::write_checkpoint(folder, tensors_, options);
  }

 private:
  std::list<std::vector<std::byte>> bytes_;
  std::vector<gptq::tensor_view> tensors_;
};

}  // namespace test
