/// Files and folders made by hand for the checkpoint tests.
#pragma once

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/core/error.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace test {

/// The bytes of a safetensors file: length, header, data.
inline std::string safetensors_bytes(std::string const& header, std::string const& data) {
  std::uint64_t const n = header.size();
  std::string length(8, '\0');
  std::memcpy(length.data(), &n, 8);
  return length + header + data;
}

struct raw_tensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

template <class T>
std::string bytes_of(std::vector<T> const& values) {
  return {reinterpret_cast<char const*>(values.data()), values.size() * sizeof(T)};
}

/// A valid file of these tensors, in this order.
inline std::string safetensors_bytes(std::vector<raw_tensor> const& tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::string data;
  for (raw_tensor const& t : tensors) {
    std::string shape;
    for (std::int64_t const n : t.shape) shape += (shape.empty() ? "" : ",") + std::to_string(n);
    header += ",\"" + t.name + R"(":{"dtype":")" + t.dtype + R"(","shape":[)" + shape + R"(],"data_offsets":[)" +
              std::to_string(data.size()) + "," + std::to_string(data.size() + t.bytes.size()) + "]}";
    data += t.bytes;
  }
  return safetensors_bytes(header + "}", data);
}

inline std::string read_text(std::filesystem::path const& file) {
  std::ifstream in(file, std::ios::binary);
  REQUIRE(in);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Names of everything in a folder, sorted.
inline std::vector<std::string> listing(std::filesystem::path const& folder) {
  std::vector<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace test
