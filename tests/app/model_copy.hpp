/// Models to spoil: copies of the bundled one, and safetensors files taken apart.
#pragma once

#include "app/app.hpp"

#include <gptq/io/json.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace test {

/// The bundled model, as an argument.
inline std::string const bard = bundled_model().string();

/// Header and data of a safetensors file, either of which may be made wrong.
struct tensor_file {
  gptq::json header;
  std::string data;

  static tensor_file read(std::filesystem::path const& file) {
    std::string const bytes = file_text(file);
    std::uint64_t n = 0;
    std::memcpy(&n, bytes.data(), 8);
    return {gptq::parse_json(std::string_view(bytes).substr(8, n), file.string()), bytes.substr(8 + n)};
  }
  static std::string bytes(std::string header_text, std::string const& data) {
    header_text.append((8 - header_text.size() % 8) % 8, ' ');
    std::uint64_t const n = header_text.size();
    std::string length(8, '\0');
    std::memcpy(length.data(), &n, 8);
    return length + header_text + data;
  }
  [[nodiscard]] std::string bytes() const { return bytes(header.dump(), data); }
  void write(std::filesystem::path const& file) const {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes();
  }

  /// The bytes of one tensor.
  [[nodiscard]] std::pair<std::size_t, std::size_t> range(std::string const& name) const {
    auto const& offsets = header.at(name).at("data_offsets");
    return {offsets.at(0).get<std::size_t>(), offsets.at(1).get<std::size_t>()};
  }
  [[nodiscard]] std::string tensor(std::string const& name) const {
    auto const [begin, end] = range(name);
    return data.substr(begin, end - begin);
  }
  void set(std::string const& name, std::size_t at, std::string const& bytes_of_it) {
    data.replace(range(name).first + at, bytes_of_it.size(), bytes_of_it);
  }

  /// A valid file with some of the tensors.
  [[nodiscard]] tensor_file part(std::vector<std::string> const& names) const {
    tensor_file out;
    out.header = {{"__metadata__", {{"format", "pt"}}}};
    for (auto const& name : names) {
      gptq::json entry = header.at(name);
      entry["data_offsets"] = {out.data.size(), out.data.size() + tensor(name).size()};
      out.header[name] = entry;
      out.data += tensor(name);
    }
    return out;
  }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (auto const& item : header.items())
      if (item.key() != "__metadata__") all.push_back(item.key());
    return all;
  }
};

/// A copy of the bundled model that a test may change, and a folder for what is made of it.
class model_copy {
 public:
  model_copy() {
    std::filesystem::create_directory(model());
    for (char const* const name : {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                                   "tokenizer_config.json", "chat_template.jinja"})
      std::filesystem::copy_file(bundled_model() / name, model() / name);
    std::filesystem::create_directory(folder_ / "results");
  }

  [[nodiscard]] std::filesystem::path model() const { return folder_ / "model"; }
  [[nodiscard]] std::filesystem::path weights() const { return model() / "model.safetensors"; }
  [[nodiscard]] std::filesystem::path results() const { return folder_ / "results"; }
  [[nodiscard]] std::filesystem::path output() const { return results() / "out"; }
  [[nodiscard]] temp_dir const& folder() const { return folder_; }

  template <class F>
  void edit_json(char const* name, F&& f) const {
    gptq::json document = gptq::read_json(model() / name);
    f(document);
    std::ofstream(model() / name, std::ios::trunc) << document.dump(2);
  }
  template <class F>
  void edit_weights(F&& f) const {
    tensor_file file = tensor_file::read(weights());
    f(file);
    file.write(weights());
  }
  void set_weights(std::string const& bytes) const {
    std::ofstream(weights(), std::ios::binary | std::ios::trunc) << bytes;
  }

  /// Gives the tokenizer a template with a BOS, id 0.
  void add_bos() const {
    edit_json("tokenizer.json", [](gptq::json& tokenizer) {
      tokenizer["post_processor"] = gptq::parse_json(R"({"type": "TemplateProcessing",
          "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
          "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
          "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}})",
                                                     "template");
    });
  }

  /// Arguments of a small run; `more` are options, of which some may replace those of the run.
  [[nodiscard]] std::vector<std::string> small_run(std::vector<std::string> const& more = {}) const {
    std::vector<std::string> all = {"quantize", model().string(), output().string(), "--calibration",
                                    (bundled_model() / "calibration.txt").string()};
    for (auto const& [option, value] : {std::pair("--samples", "2"), std::pair("--sequence-length", "200")})
      if (std::find(more.begin(), more.end(), option) == more.end()) all.insert(all.end(), {option, value});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  /// Runs quantize on the spoilt model: an error that names these things, no result, and a source as it was.
  void check_refused(std::initializer_list<std::string> names, std::vector<std::string> const& more = {},
                     int code = 1) const {
    auto const before = contents();
    test::check_refused(run_app(small_run(more)), code, names);
    CHECK(names_in(results()).empty());
    CHECK(contents() == before);
  }

  /// Every file of the model.
  [[nodiscard]] std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> all;
    for (auto const& name : names_in(model())) all[name] = file_text(model() / name);
    return all;
  }

 private:
  temp_dir folder_;
};

}  // namespace test
