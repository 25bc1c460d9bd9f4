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

/// Copies them from folder to folder (regular files, or links to such, up to max_side_file) and returns their names in
/// order. Throws format_error naming file and reason.
inline std::vector<std::string> copy_side_files(std::filesystem::path const& source,
                                                std::filesystem::path const& target) {
  std::vector<std::string> names;
  std::error_code code;
  for (std::filesystem::directory_iterator at(source, code), end; !code && at != end; at.increment(code)) {
    std::string const name = at->path().filename().string();
    std::error_code none;
    if (is_side_file(name) && at->is_regular_file(none) && at->file_size(none) <= max_side_file) names.push_back(name);
  }
  if (code) throw format_error(source.string() + ": can't list the folder: " + code.message());
  std::sort(names.begin(), names.end());
  for (std::string const& name : names) {
    file_mapping const from(source / name);
    output_file to(target / name);
    to.write(from.bytes());
    to.close();
  }
  return names;
}

}  // namespace v0
}  // namespace gptq
