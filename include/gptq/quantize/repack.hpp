/// Another format or other shards for a quantized folder. Codes and scales stay as they are, to the bit.
#pragma once

#include <gptq/engines/inspect.hpp>
#include <gptq/engines/served_model.hpp>
#include <gptq/format/formats.hpp>
#include <gptq/format/quantized_model.hpp>
#include <gptq/io/output_folder.hpp>
#include <gptq/io/side_files.hpp>
#include <gptq/io/writer.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What repack() is to write.
struct repack_options {
  std::optional<checkpoint_format> format;  ///< as found, if not given
  std::uint64_t shard_size = 4'000'000'000;
  bool overwrite = false;
};

/// What repack() wrote.
struct repack_report {
  std::size_t layers = 0;
  checkpoint_format from = checkpoint_format::gptq;
  checkpoint_format to = checkpoint_format::gptq;
  std::uint64_t bytes = 0;
  std::vector<advice> warnings;
};

namespace detail {

/// Refuses, before anything is written, what the format can't say.
inline void check_representable(quantized_model const& model, checkpoint_format to) {
  for (quantized_module const& q : model.modules())
    if (auto const no = accepts(to, q.tensors)) throw format_error(q.name + ": " + no->reason, no->change);
}

/// The settings in the words of the other format.
inline quantization_config converted(quantization_config c, checkpoint_format to, checkpoint_reader const& reader,
                                     quantized_model const& model) {
  auto const method = [](checkpoint_format id) { return with_format(id, [](auto f) { return f.method; }); };
  bool const same_words = method(c.format) == method(to);
  c.format = to;
  if (same_words) return c;
  float_layers floats;
  for (std::string const& name : reader.names()) {
    std::string const module(parent_name(name));
    if (name.ends_with(".weight") && reader.at(name).shape.size() == 2 && !is_embedding(module))
      floats.names.push_back(module);
  }
  std::set<std::string> patterns;
  for (std::string const& module : floats.names) {
    std::string_view block;
    fused_layer const* const fused = fused_layer_of(module, &block);
    if (!in_block(module)) continue;
    patterns.insert("-:" + escape_pattern(module) + "$");
    if (fused) patterns.insert("-:" + escape_pattern(std::string(block) + std::string(fused->name)) + "$");
  }
  for (std::string const& key : patterns)
    floats.rules.push_back(
        {.key = key, .keep_float = true, .bits = {}, .group_size = {}, .sym = {}, .desc_act = {}, .matcher = {}});
  if (!patterns.empty()) {
    floats.quantized.emplace_back();
    for (quantized_module const& q : model.modules()) floats.quantized.front().push_back(q.name);
  }
  c.lm_head = model.find("lm_head") != nullptr;
  if (!c.lm_head) floats.names.push_back("lm_head");
  with_format(to, [&](auto f) { f.declare_float(c, floats); });
  return c;
}

/// Calls kept(tensor) for what is copied and packed(module) for each quantized layer, in the order of the source.
template <class Kept, class Packed>
void for_each_output(checkpoint_reader const& reader, quantized_model const& model, Kept&& kept, Packed&& packed) {
  std::set<std::string_view> done;
  for (std::string const& name : reader.names()) {
    quantized_module const* const q = model.find(parent_name(name));
    if (!q || name.ends_with(".bias"))
      kept(reader.at(name));
    else if (done.insert(q->name).second)
      packed(*q);
  }
}

inline shard_layout repacked_layout(checkpoint_reader const& reader, quantized_model const& model, checkpoint_format to,
                                    std::uint64_t shard_size) {
  std::vector<tensor_outline> tensors;
  for_each_output(
      reader, model,
      [&](tensor_view const& t) {
        tensors.push_back({t.name, t.type, t.shape});
      },
      [&](quantized_module const& q) {
        for (tensor_outline& t : layout(to, outline_of(q.name, q.tensors))) tensors.push_back(std::move(t));
      });
  std::map<std::string, std::string> metadata;  // where tied tensors are stored
  for (safetensors_file const& part : reader.parts())
    for (auto const& [key, value] : part.metadata())
      if (reader.contains(value)) metadata.emplace(key, value);
  return shard_layout(std::move(tensors), {.shard_size = shard_size, .metadata = std::move(metadata)});
}

}  // namespace detail

/// Writes the folder `source` anew as `target`. Throws format_error naming layer and reason for what can't be read, what
/// the format can't say, and what can't be written; nothing is left half-written.
inline repack_report repack(std::filesystem::path const& source, std::filesystem::path const& target,
                            repack_options const& options = {}) {
  checkpoint_reader const reader(source);
  auto const settings = read_quantization_config(source, reader.config());
  if (!settings) throw format_error(source.string() + ": not a quantized model");
  quantized_model const model(reader, *settings);
  if (model.modules().empty()) throw format_error(source.string() + ": no quantized layer");
  repack_report report;
  report.layers = model.modules().size();
  report.from = settings->format;
  report.to = options.format.value_or(settings->format);
  detail::check_representable(model, report.to);
  inspection const found = inspect(reader);
  for (problem const& p : found.problems) report.warnings.emplace_back(to_string(p));
  report.warnings.insert(report.warnings.end(), found.notes.begin(), found.notes.end());

  shard_layout const layout = detail::repacked_layout(reader, model, report.to, options.shard_size);
  auto const settings_files =
      quantization_files(reader.config(), detail::converted(*settings, report.to, reader, model));
  auto const side_files = list_side_files(source);
  std::uint64_t disk = layout.file_bytes();
  for (settings_file const& f : settings_files) disk += f.text.size();
  for (side_file const& f : side_files) disk += f.bytes;

  output_folder folder(target, source, options.overwrite);
  folder.check_space(disk);
  checkpoint_writer writer(folder.path(), layout);
  detail::for_each_output(
      reader, model, [&](tensor_view const& t) { writer.add(t); },
      [&](quantized_module const& q) { write_quantized(writer, q.name, q.tensors, report.to); });
  writer.finish();
  report.bytes = layout.total_size();
  write_settings(folder.path(), settings_files);
  copy_side_files(source, folder.path(), side_files);
  folder.commit();
  return report;
}

}  // namespace v0
}  // namespace gptq
