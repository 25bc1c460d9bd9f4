/// The quantized linear layers of an open checkpoint.
#pragma once

#include <gptq/format/quantization_config.hpp>
#include <gptq/format/quantized_module.hpp>
#include <gptq/io/reader.hpp>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The modules whose tensors end in what a format finds its layers by, in file order: "X.qweight" makes X a quantized
/// linear, and so does "X.qzeros" alone, whose qweight is then missing.
inline std::vector<std::string> quantized_names(checkpoint_reader const& reader) {
  std::vector<std::string> names;
  auto const module_of = [&](std::string const& tensor, auto const& endings) -> std::optional<std::string> {
    for (auto ending = endings.begin(); ending != endings.end(); ++ending) {
      if (!std::string_view(tensor).ends_with(*ending)) continue;
      std::string name = tensor.substr(0, tensor.size() - ending->size());
      auto const better = [&](std::string_view e) { return reader.contains(name + std::string(e)); };
      if (std::none_of(endings.begin(), ending, better)) return name;
    }
    return std::nullopt;
  };
  for (std::string const& tensor : reader.names()) {
    std::optional<std::string> name;
    for_each_format([&](auto f) {
      if (!name) name = module_of(tensor, f.endings);
    });
    if (name) names.push_back(*std::move(name));
  }
  return names;
}

/// Valid while the reader is. Sizes and widths are those of the tensors; of the config only the format is needed, and
/// the width where g_idx is missing.
class quantized_model {
 public:
  /// Throws one format_error listing every module that can't be read, and why.
  quantized_model(checkpoint_reader const& reader, quantization_config config) : config_(std::move(config)) {
    std::vector<problem> problems;
    for (std::string const& name : quantized_names(reader))
      if (auto module = read_module(reader, config_, name, problems)) modules_.push_back(std::move(*module));
    std::string text;
    std::size_t count = 0;
    for (problem const& p : problems)
      if (p.fatal && ++count <= 20) text += (count > 1 ? "; " : ": ") + detail::printable(p.where) + ": " + p.what;
    if (count > 20) text += "; and " + std::to_string(count - 20) + " more";
    if (count > 0) throw format_error(reader.folder().string() + text);
    by_name_.resize(modules_.size());
    for (std::size_t i = 0; i < modules_.size(); ++i) by_name_[i] = i;
    std::sort(by_name_.begin(), by_name_.end(),
              [&](std::size_t a, std::size_t b) { return modules_[a].name < modules_[b].name; });
  }

  [[nodiscard]] quantization_config const& config() const { return config_; }
  [[nodiscard]] std::vector<quantized_module> const& modules() const { return modules_; }

  /// The module of that name, or null if it is not quantized.
  [[nodiscard]] quantized_module const* find(std::string_view name) const {
    auto const at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                     [&](std::size_t i, std::string_view n) { return modules_[i].name < n; });
    return at != by_name_.end() && modules_[*at].name == name ? &modules_[*at] : nullptr;
  }

 private:
  quantization_config config_;
  std::vector<quantized_module> modules_;
  std::vector<std::size_t> by_name_;
};

}  // namespace v0
}  // namespace gptq
