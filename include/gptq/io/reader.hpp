/// A model folder, open for reading: config.json and every tensor, whichever file holds it.
#pragma once

#include <gptq/io/json.hpp>
#include <gptq/io/safetensors.hpp>
#include <gptq/io/tensor.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The weights are what model.safetensors.index.json lists; without an index, model.safetensors; without that, the one
/// gptq_model*.safetensors (or its index) that AutoGPTQ wrote. Other files of the folder are never opened.
class checkpoint_reader {
 public:
  /// Opens and validates everything: an open checkpoint is a valid one. Throws format_error naming file and reason.
  explicit checkpoint_reader(std::filesystem::path folder) : folder_(std::move(folder)) {
    std::error_code none;
    if (!std::filesystem::is_directory(folder_, none)) throw format_error(folder_.string() + ": not a folder");
    config_ = read_json(folder_ / "config.json");
    if (!config_.is_object()) throw format_error((folder_ / "config.json").string() + ": not a JSON object");
    open_weights();
    list_tensors();
  }

  /// Another model made of the tensors of `source`: their new names, and what had to be made anew in `storage`.
  checkpoint_reader(checkpoint_reader&& source, json config, std::vector<tensor_view> tensors,
                    std::vector<std::unique_ptr<std::byte[]>> storage)
      : folder_(std::move(source.folder_)),
        config_(std::move(config)),
        parts_(std::move(source.parts_)),
        converted_(std::move(tensors)),
        storage_(std::move(storage)) {
    for (tensor_view const& t : converted_) list_tensor(t);
    sort_names();
  }

  [[nodiscard]] std::filesystem::path const& folder() const { return folder_; }

  /// config.json, an object.
  [[nodiscard]] json const& config() const { return config_; }

  /// All tensors in the order of their data: part after part by file name.
  [[nodiscard]] std::vector<std::string> const& names() const { return names_; }

  [[nodiscard]] bool contains(std::string_view name) const { return find(name) != nullptr; }

  /// The tensor of that name, or null.
  [[nodiscard]] tensor_view const* find(std::string_view name) const {
    auto const at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                     [](tensor_view const* t, std::string_view n) { return t->name < n; });
    return at != by_name_.end() && (*at)->name == name ? *at : nullptr;
  }

  /// The tensor of that name. Throws format_error if there is none.
  [[nodiscard]] tensor_view const& at(std::string_view name) const {
    tensor_view const* const t = find(name);
    if (!t) throw format_error(folder_.string() + ": tensor '" + detail::printable(name) + "' is missing");
    return *t;
  }

  /// Throws one format_error listing all of `names` that are missing.
  template <class Names>
  void require(Names const& names) const {
    std::string missing;
    for (auto const& name : names)
      if (!contains(name)) missing += (missing.empty() ? "" : ", ") + detail::printable(name);
    if (!missing.empty()) throw format_error(folder_.string() + ": missing tensors: " + missing);
  }

  /// Where writers note in the files' metadata that a tensor is the same as another one and stored once (tied weights):
  /// the name it is stored under, else empty. {"model.embed_tokens.weight": "lm_head.weight"}: the first is stored as
  /// the second.
  [[nodiscard]] std::string_view alias_of(std::string_view name) const {
    if (contains(name)) return {};
    for (safetensors_file const& part : parts_) {
      auto const entry = part.metadata().find(std::string(name));
      if (entry != part.metadata().end() && contains(entry->second)) return entry->second;
    }
    return {};
  }

  /// Gives back memory that holds what was read of the files; views stay valid, and reading them again costs little.
  void release() const noexcept {
    for (safetensors_file const& part : parts_) part.release();
  }

  /// The files that hold the tensors.
  [[nodiscard]] std::vector<safetensors_file> const& parts() const { return parts_; }

 private:
  [[nodiscard]] std::vector<std::string> file_names() const {
    std::vector<std::string> found;
    std::error_code code;
    for (std::filesystem::directory_iterator at(folder_, code), end; !code && at != end; at.increment(code))
      found.push_back(at->path().filename().string());
    if (code) throw format_error(folder_.string() + ": can't list the folder: " + code.message());
    std::sort(found.begin(), found.end());
    return found;
  }

  void open_weights() {
    std::vector<std::string> const files = file_names();
    auto const matching = [&](std::string_view prefix, std::string_view suffix) {
      std::vector<std::string> found;
      for (std::string const& f : files)
        if (f.size() >= prefix.size() + suffix.size() && f.starts_with(prefix) && f.ends_with(suffix))
          found.push_back(f);
      return found;
    };
    for (std::string_view const stem : {"model", "gptq_model"}) {
      bool const exact = stem == "model";
      auto const pattern = std::string(stem) + (exact ? "" : "*") + ".safetensors";
      auto const indices =
          matching(exact ? "model.safetensors.index.json" : stem, exact ? "" : ".safetensors.index.json");
      if (indices.size() > 1) throw format_error(folder_.string() + ": more than one " + pattern + ".index.json");
      if (!indices.empty()) return open_parts(folder_ / indices.front());
      auto const single = matching(exact ? "model.safetensors" : stem, exact ? "" : ".safetensors");
      if (single.size() > 1) throw format_error(folder_.string() + ": more than one " + pattern + " and no index");
      if (!single.empty()) return parts_.emplace_back(folder_ / single.front()), void();
    }
    if (!matching("model-", ".safetensors").empty())
      throw format_error(folder_.string() + ": shards (" + matching("model-", ".safetensors").front() +
                         ", ...) but no model.safetensors.index.json");
    std::string const hint =
        matching("", ".bin").empty() ? "" : "; .bin weights are not supported: convert them to safetensors";
    throw format_error(folder_.string() + ": no model.safetensors and no model.safetensors.index.json" + hint);
  }

  /// Opens the parts that an index names and checks that index and parts agree in both directions.
  void open_parts(std::filesystem::path const& index_file) {
    json const document = read_json(index_file);
    auto const fail = [&](std::string const& reason) { throw format_error(index_file.string() + ": " + reason); };
    if (!document.is_object() || !document.contains("weight_map") || !document.at("weight_map").is_object())
      fail("\"weight_map\" is missing or not an object");
    std::map<std::string_view, std::vector<std::string_view>> wanted;  // file -> tensors
    for (auto const& [tensor, file] : document.at("weight_map").items()) {
      if (!file.is_string()) fail("the file of tensor '" + detail::printable(tensor) + "' is not a string");
      std::string const& name = file.template get_ref<std::string const&>();
      if (name.empty() || name == "." || name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos ||
          name.find("..") != std::string::npos)
        fail("tensor '" + detail::printable(tensor) + "': \"" + detail::printable(name) +
             "\" is not a plain file name");
      wanted[name].push_back(tensor);
    }
    for (auto& [name, tensors] : wanted) {
      safetensors_file const& part = parts_.emplace_back(folder_ / name);
      std::vector<std::string_view> held;
      for (tensor_view const& t : part.tensors()) held.push_back(t.name);
      std::sort(held.begin(), held.end());
      std::sort(tensors.begin(), tensors.end());
      std::string missing = difference(tensors, held);
      if (!missing.empty()) fail("lists tensors for " + std::string(name) + " that it does not hold: " + missing);
      std::string unlisted = difference(held, tensors);
      if (!unlisted.empty()) fail("does not list all tensors for " + std::string(name) + ": " + unlisted);
    }
  }

  static std::string difference(std::vector<std::string_view> const& a, std::vector<std::string_view> const& b) {
    std::vector<std::string_view> rest;
    std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(rest));
    std::string text;
    for (std::size_t i = 0; i < rest.size() && i < 20; ++i)
      text += (i ? ", '" : "'") + detail::printable(rest[i]) + "'";
    return rest.size() > 20 ? text + " and " + std::to_string(rest.size() - 20) + " more" : text;
  }

  void list_tensors() {
    for (safetensors_file const& part : parts_)
      for (tensor_view const& t : part.tensors()) list_tensor(t);
    sort_names();
  }
  void list_tensor(tensor_view const& t) {
    names_.push_back(t.name);
    by_name_.push_back(&t);
  }
  void sort_names() {
    std::sort(by_name_.begin(), by_name_.end(), [](auto const* a, auto const* b) { return a->name < b->name; });
    auto const twice = std::adjacent_find(by_name_.begin(), by_name_.end(),
                                          [](auto const* a, auto const* b) { return a->name == b->name; });
    if (twice != by_name_.end())
      throw format_error(detail::tensor_place(**twice) + "it is also in " + (*(twice + 1))->file.filename().string());
  }

  std::filesystem::path folder_;
  json config_;
  std::vector<safetensors_file> parts_;
  std::vector<tensor_view> converted_;
  std::vector<std::unique_ptr<std::byte[]>> storage_;
  std::vector<std::string> names_;
  std::vector<tensor_view const*> by_name_;
};

}  // namespace v0
}  // namespace gptq
