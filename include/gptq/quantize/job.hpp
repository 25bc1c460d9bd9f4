/// A recipe met a model folder: opened once, planned once, checked once.
///
///   gptq::job const j("Qwen2.5-7B", gptq::recipe_of("best"));
///   std::cout << j.disk_bytes();              // exact, before any work
///   auto const engines = served(j);           // served_plan.hpp: what engines will meet
///   run(j, backend, samples, "Qwen2.5-7B-4bit");   // pipeline.hpp
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/remedy.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/io/json.hpp>
#include <gptq/io/shard_layout.hpp>
#include <gptq/io/side_files.hpp>
#include <gptq/model/as_llama.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/quantize/declare.hpp>
#include <gptq/quantize/output_plan.hpp>
#include <gptq/quantize/plan.hpp>
#include <gptq/quantize/recipe.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A file of the result.
struct planned_file {
  std::string name;
  std::uint64_t bytes = 0;
};

/// Everything that is known of a run before its first token. Immutable; what describes it, runs it or asks who can load
/// the result reads the same value.
class job {
 public:
  /// Opens the folder `source` and plans its result. Throws format_error for a folder that can't be read, a model that is
  /// quantized already or does not suit the recipe, shape_error for settings that its layers can't have; each names file,
  /// tensor or layers. Values of tensors are looked at by check_values().
  job(std::filesystem::path source, recipe asked)
      : source_(std::move(source)),
        asked_(checked(std::move(asked))),
        weights_(open(source_, asked_)),
        plan_(weights_, asked_),
        side_files_(list_side_files(source_)) {
    if (weights_.quantized()) throw format_error(source_.string() + ": the model is quantized already");
    detail::check_plan(weights_, plan_, asked_.format);
    config_ = detail::output_config(weights_, asked_);
    settings_ = detail::quantization_settings(plan_, asked_, weights_.names().head_module());
    settings_files_ = quantization_files(config_, settings_);
    layout_ = shard_layout(detail::result_tensors(weights_, plan_, asked_),
                           {.shard_size = asked_.shard_size,
                            .metadata = detail::kept_metadata(weights_.reader()),
                            .header_room = detail::header_room(weights_, plan_)});
    note_unread();
  }
  job(job const&) = delete;
  job& operator=(job const&) = delete;

  [[nodiscard]] std::filesystem::path const& source() const { return source_; }

  /// The recipe.
  [[nodiscard]] recipe const& asked() const { return asked_; }

  /// The source, open; as a Llama checkpoint if the recipe says so.
  [[nodiscard]] model_weights const& weights() const { return weights_; }

  /// Every linear layer, and what becomes of it.
  [[nodiscard]] quantization_plan const& plan() const { return plan_; }

  /// Names, types, sizes and places of all tensors of the result.
  [[nodiscard]] shard_layout const& layout() const { return layout_; }

  /// config.json of the result but for "quantization_config".
  [[nodiscard]] json const& config() const { return config_; }

  /// What the result says of its layers.
  [[nodiscard]] quantization_config const& settings() const { return settings_; }

  /// config.json and its relatives, as they will be written.
  [[nodiscard]] std::vector<settings_file> const& settings_files() const { return settings_files_; }

  /// What is taken over from the source as it is.
  [[nodiscard]] std::vector<side_file> const& side_files() const { return side_files_; }

  /// Tensors of the source that no layer reads; they are copied.
  [[nodiscard]] std::vector<std::string> const& unread() const { return weights_.unexpected(); }

  /// What deserves a word before the run.
  [[nodiscard]] std::vector<advice> const& warnings() const { return warnings_; }

  /// All files of the result.
  [[nodiscard]] std::vector<planned_file> files() const {
    std::vector<planned_file> all;
    for (planned_shard const& s : layout_.shards()) all.push_back({s.name, s.size});
    if (!layout_.index().empty()) all.push_back({"model.safetensors.index.json", layout_.index().size()});
    for (settings_file const& f : settings_files_) all.push_back({f.name, f.text.size()});
    for (side_file const& f : side_files_) all.push_back({f.name, f.bytes});
    return all;
  }

  /// Bytes that the result takes, which is all that a run needs on the disk.
  [[nodiscard]] std::uint64_t disk_bytes() const {
    std::uint64_t bytes = 0;
    for (planned_file const& f : files()) bytes += f.bytes;
    return bytes;
  }

  /// Bytes of tensor data in the source.
  [[nodiscard]] std::uint64_t source_bytes() const {
    std::uint64_t bytes = 0;
    for (safetensors_file const& part : weights_.reader().parts())
      for (tensor_view const& t : part.tensors()) bytes += t.bytes.size();
    return bytes;
  }

 private:
  static recipe&& checked(recipe&& r) {
    check_recipe(r);
    return std::move(r);
  }

  static model_weights open(std::filesystem::path const& source, recipe const& r) {
    if (!r.as_llama) return model_weights(source);
    return model_weights(as_llama(checkpoint_reader(source)));
  }

  void note_unread() {
    warnings_ = plan_.warnings();
    if (unread().empty()) return;
    std::string text = std::to_string(unread().size()) + " of the source's tensors are read by no layer and copied: ";
    for (std::size_t i = 0; i < unread().size() && i < 3; ++i) text += (i ? ", " : "") + detail::printable(unread()[i]);
    if (unread().size() > 3) text += " and " + std::to_string(unread().size() - 3) + " more";
    warnings_.emplace_back(std::move(text));
  }

  std::filesystem::path source_;
  recipe asked_;
  model_weights weights_;
  quantization_plan plan_;
  std::vector<side_file> side_files_;
  json config_;
  quantization_config settings_;
  std::vector<settings_file> settings_files_;
  shard_layout layout_;
  std::vector<advice> warnings_;
};

}  // namespace v0
}  // namespace gptq
