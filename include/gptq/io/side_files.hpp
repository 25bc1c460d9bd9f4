/// What a quantized folder takes over from the float model besides weights and config.
#pragma once

#include <gptq/io/file_mapping.hpp>
#include <gptq/io/message.hpp>
#include <gptq/io/output_file.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Whether a file of a model folder belongs to the quantized model too: tokenizer (*.json, *.model, *.tiktoken, vocab*,
/// merges*, tokenizer*, special_tokens*, added_tokens*), chat template (*.jinja), generation and processor settings
/// (*.json), the code of custom models (*.py), LICENSE*, NOTICE* and USE_POLICY*. Not weights, indices and the configs
/// that are written anew; not README (it describes the float model), hidden or unknown files.
inline bool is_side_file(std::string_view name) {
  auto const starts = [&](auto... prefix) { return (name.starts_with(prefix) || ...); };
  auto const ends = [&](auto... suffix) { return (name.ends_with(suffix) || ...); };
  if (name.empty() || starts(".")) return false;
  if (ends(".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".h5", ".msgpack", ".onnx", ".index.json"))
    return false;
  if (name == "config.json" || name == "quantize_config.json" || name == "quant_config.json" ||
      name == "quantization_config.json")
    return false;
  return ends(".json", ".model", ".tiktoken", ".jinja", ".py") ||
         starts("tokenizer", "vocab", "merges", "special_tokens", "added_tokens") ||
         starts("LICENSE", "LICENCE", "NOTICE", "USE_POLICY");
}

/// Nothing beside weights is larger.
inline constexpr std::uint64_t max_side_file = std::uint64_t{1} << 28;

/// A file to take over.
struct side_file {
  std::string name;
  std::uint64_t bytes = 0;
};

/// Those of a folder (regular files, or links to such, up to max_side_file), in order of their names. Throws format_error
/// where the folder can't be listed.
inline std::vector<side_file> list_side_files(std::filesystem::path const& folder) {
  std::vector<side_file> files;
  std::error_code code;
  for (std::filesystem::directory_iterator at(folder, code), end; !code && at != end; at.increment(code)) {
    std::string name = at->path().filename().string();
    std::error_code none;
    if (!is_side_file(name) || !at->is_regular_file(none)) continue;
    std::uint64_t const bytes = at->file_size(none);
    if (!none && bytes <= max_side_file) files.push_back({std::move(name), bytes});
  }
  if (code) throw format_error(folder.string() + ": can't list the folder: " + code.message());
  std::sort(files.begin(), files.end(), [](side_file const& a, side_file const& b) { return a.name < b.name; });
  return files;
}

/// Copies files from folder to folder. Throws format_error naming file and reason.
inline void copy_side_files(std::filesystem::path const& source, std::filesystem::path const& target,
                            std::vector<side_file> const& files) {
  for (side_file const& file : files) {
    file_mapping const from(source / file.name);
    output_file to(target / file.name);
    to.write(from.bytes());
    to.close();
  }
}

}  // namespace v0
}  // namespace gptq
