/// The weights of a model folder, float or quantized, as matrices of floats: one block at a time.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/format/quantized_model.hpp>
#include <gptq/io/reader.hpp>
#include <gptq/io/tensor.hpp>
#include <gptq/model/block_graph.hpp>
#include <gptq/model/config.hpp>
#include <gptq/model/decoder_layer.hpp>
#include <gptq/model/names.hpp>
#include <gptq/pack/dequantize.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A model folder whose tensors are all there, in the shapes that config.json implies. Values are looked at when they
/// are loaded. Loading is const and may run in another thread.
class model_weights {
 public:
  /// Opens a folder. A family that is not supported is refused before any file of weights is opened.
  explicit model_weights(std::filesystem::path const& folder) : model_weights(folder, read_model_config(folder)) {}

  /// The same with settings that need not be those of config.json.
  model_weights(std::filesystem::path const& folder, model_config config)
      : config_(std::move(config)), reader_(folder) {
    open();
  }

  /// A checkpoint that is open already.
  explicit model_weights(checkpoint_reader reader)
      : config_(read_model_config(reader.config(), reader.folder() / "config.json")), reader_(std::move(reader)) {
    open();
  }

  [[nodiscard]] model_config const& config() const { return config_; }
  [[nodiscard]] model_names const& names() const { return names_; }
  [[nodiscard]] checkpoint_reader const& reader() const { return reader_; }

  /// The quantized linear layers, or null for a float model.
  [[nodiscard]] quantized_model const* quantized() const { return quantized_ ? &*quantized_ : nullptr; }

  /// True where lm_head is the embedding, whether stored once or twice.
  [[nodiscard]] bool tied() const { return tied_; }

  /// Tensors of the folder that the model has no place for, in file order; old tables and masks are not counted.
  [[nodiscard]] std::vector<std::string> const& unexpected() const { return unexpected_; }

  /// What tokens begin with, but for config().embedding_scale [vocabulary × hidden].
  [[nodiscard]] matrix<float> embedding() const {
    matrix<float> rows = load(embedding_);
    if (config_.embedding_norm) norm_rows(rows, load(names_.embedding_norm()));
    return rows;
  }
  /// The same for some tokens [ids × hidden]. Throws shape_error for an id outside the vocabulary.
  [[nodiscard]] matrix<float> embedding(std::span<std::int32_t const> ids) const {
    matrix<float> rows(static_cast<index_t>(ids.size()), config_.hidden);
    tensor_view const& t = reader_.at(embedding_);
    for (index_t r = 0; r < rows.rows(); ++r) {
      index_t const id = ids[static_cast<std::size_t>(r)];
      if (id < 0 || id >= config_.vocabulary)
        throw shape_error("token id " + std::to_string(id) + " is outside the vocabulary of " +
                          std::to_string(config_.vocabulary));
      load_row(t, id, rows.view().row_range(r, 1));
    }
    if (config_.embedding_norm) norm_rows(rows, load(names_.embedding_norm()));
    return rows;
  }
  /// [vocabulary × hidden]
  [[nodiscard]] matrix<float> head() const {
    if (tied_) return load(embedding_);
    matrix<float> out(config_.vocabulary, config_.hidden);
    load_linear(names_.head_module(), out);
    return out;
  }
  [[nodiscard]] matrix<float> final_norm() const { return load(names_.final_norm()); }  ///< [1 × hidden]

  /// The blocks, each as a graph.
  [[nodiscard]] std::vector<block_graph> const& layers() const { return layers_; }
  [[nodiscard]] block_graph const& layer(index_t i) const { return layers_[static_cast<std::size_t>(i)]; }

  /// A tensor of a layer that is no linear's: [1 × n] where it has one dimension.
  [[nodiscard]] matrix<float> values(graph_tensor const& t) const { return load(t.name); }

  /// The linears of a group, stacked: [sum of outputs × inputs].
  [[nodiscard]] matrix<float> group_weight(linear_group const& group) const {
    matrix<float> all(group.outputs(), group.inputs());
    for (linear_info const& l : group.linears) load_linear(l.name, all.view().row_range(l.first_row, l.rows));
    return all;
  }

  /// One linear [outputs × inputs].
  [[nodiscard]] matrix<float> weight(linear_info const& l) const {
    matrix<float> out(l.rows, l.inputs);
    load_linear(l.name, out);
    return out;
  }

  /// A linear layer that is packed, or null. Valid while these weights are.
  [[nodiscard]] packed_view const* packed(linear_info const& l) const {
    quantized_module const* const q = find_quantized(l.name);
    return q ? &q->tensors : nullptr;
  }

  /// lm_head as a linear layer, tied or not.
  [[nodiscard]] linear_info head_layer() const {
    return {names_.head_module(), 0, config_.vocabulary, config_.hidden, false};
  }

  /// The tensor that a linear layer is stored as, or null where that is packed.
  [[nodiscard]] tensor_view const* stored(linear_info const& l) const {
    return find_quantized(l.name) ? nullptr : reader_.find(l.name + ".weight");
  }

  /// The biases of a group [1 × sum of outputs], zero for a linear without; empty where none has one.
  [[nodiscard]] matrix<float> group_bias(linear_group const& group) const {
    matrix<float> all;
    for (linear_info const& l : group.linears) {
      if (!l.has_bias) continue;
      if (all.size() == 0) {
        all = matrix<float>(1, group.outputs());
        std::fill(all.data(), all.data() + all.size(), 0.0f);
      }
      load(l.name + ".bias", all.view().col_range(l.first_row, l.rows));
    }
    return all;
  }

 private:
  void open() {
    if (auto const settings = read_quantization_config(reader_.folder(), reader_.config()))
      quantized_.emplace(reader_, *settings);
    std::string const root(config_.family->root);
    names_ = {config_, root};
    if (!reader_.contains(names_.embedding()) && !reader_.contains(names_.final_norm())) {
      model_names const bare(config_, "");
      if (reader_.contains(bare.embedding()) || reader_.contains(bare.final_norm())) names_ = bare;
    }
    for (index_t i = 0; i < config_.blocks; ++i) layers_.push_back(decoder_layer(config_, names_.block(i), i));
    resolve_tie();
    check_tensors();
  }

  /// What is stored decides: a head without a tensor is the embedding, and either may be stored for both (files note the
  /// other as its alias). Where both are stored, tie_word_embeddings says whether the head's own counts.
  void resolve_tie() {
    std::string const embedding = names_.embedding();
    std::string const head = names_.head();
    bool const has_embedding = reader_.contains(embedding);
    bool const has_head = reader_.contains(head) || find_quantized(names_.head_module());
    bool const aliased = reader_.alias_of(embedding) == head;
    embedding_ = !has_embedding && reader_.contains(head) && (config_.tied || aliased) ? head : embedding;
    tied_ = config_.tied || !has_head || embedding_ == head;
  }

  /// Throws format_error listing what is missing, or naming the first tensor of a wrong shape or type.
  void check_tensors() {
    expect(embedding_, {config_.vocabulary, config_.hidden});
    if (!tied_) expect_linear(head_layer());
    if (config_.embedding_norm) expect(names_.embedding_norm(), {config_.hidden});
    expect(names_.final_norm(), {config_.hidden});
    for (block_graph const& layer : layers_) {
      for (graph_tensor const& t : layer.tensors) expect(t.name, t.shape);
      for (linear_group const& group : layer.groups)
        for (linear_info const& l : group.linears) expect_linear(l);
    }
    if (!missing_.empty()) throw format_error(reader_.folder().string() + ": missing tensors: " + list(missing_));
    expected_.insert(names_.head());  // a tied head that is stored all the same
    for (std::string const& name : reader_.names())
      if (!expected_.count(name) && !model_names::is_no_weight(name)) unexpected_.push_back(name);
    expected_.clear();
  }

  void expect(std::string const& name, std::vector<std::int64_t> const& shape) {
    expected_.insert(name);
    tensor_view const* const t = reader_.find(name);
    if (!t) return missing_.push_back(name);
    if (t->shape != shape)
      throw format_error(detail::tensor_place(*t) + "the shape must be " + to_string(shape) + ", not " +
                         to_string(t->shape));
    if (!is_float(t->type))
      throw format_error(detail::tensor_place(*t) + "F32, F16 or BF16 is needed, not " + to_string(t->type));
  }

  void expect_linear(linear_info const& l) {
    quantized_module const* const q = find_quantized(l.name);
    if (l.has_bias) expect(l.name + ".bias", {l.rows});
    if (!q) return expect(l.name + ".weight", {l.rows, l.inputs});
    with_format(quantized_->config().format, [&](auto f) {
      for (std::string_view const ending : f.all_endings) expected_.insert(l.name + std::string(ending));
    });
    if (q->tensors.out_features != l.rows || q->tensors.in_features != l.inputs)
      throw format_error(reader_.folder().string() + ": quantized linear '" + l.name + "' is " +
                         std::to_string(q->tensors.out_features) + " x " + std::to_string(q->tensors.in_features) +
                         " (out x in), but config.json says " + std::to_string(l.rows) + " x " +
                         std::to_string(l.inputs));
    if (!q->bias || l.has_bias) return;
    // AutoGPTQ writes a bias of zeros to every layer.
    expected_.insert(q->bias->name);
    matrix<float> const bias = load(q->bias->name);
    if (std::any_of(bias.data(), bias.data() + bias.size(), [](float x) { return x != 0; }))
      throw format_error(detail::tensor_place(*q->bias) + "the layer has no bias in this family, but this is not zero");
  }

  [[nodiscard]] quantized_module const* find_quantized(std::string const& module) const {
    return quantized_ ? quantized_->find(module) : nullptr;
  }

  static std::string list(std::vector<std::string> const& names) {
    constexpr std::size_t most = 20;
    std::string text;
    for (std::size_t i = 0; i < names.size() && i < most; ++i) text += (i ? ", " : "") + names[i];
    return names.size() > most ? text + " and " + std::to_string(names.size() - most) + " more" : text;
  }

  /// A whole tensor; one dimension is one row.
  [[nodiscard]] matrix<float> load(std::string const& name) const {
    tensor_view const& t = reader_.at(name);
    matrix<float> out(t.shape.size() == 2 ? t.shape[0] : 1, t.shape.back());
    load(name, out);
    return out;
  }
  void load(std::string const& name, matrix_view<float> out) const {
    tensor_view const& t = reader_.at(name);
    for (index_t r = 0; r < out.rows; ++r) load_row(t, r, out.row_range(r, 1));
  }
  void load_linear(std::string const& module, matrix_view<float> out) const {
    if (quantized_module const* const q = find_quantized(module))
      dequantize(q->tensors, 0, out);
    else
      load(module + ".weight", out);
  }
  void norm_rows(matrix<float>& rows, matrix<float> const& weight) const {
    for (index_t r = 0; r < rows.rows(); ++r) {
      double squares = 0;
      for (index_t c = 0; c < rows.cols(); ++c) squares += double(rows(r, c)) * double(rows(r, c));
      double const inverse = 1 / std::sqrt(squares / double(rows.cols()) + double(config_.norm_eps));
      for (index_t c = 0; c < rows.cols(); ++c)
        rows(r, c) = static_cast<float>(double(rows(r, c)) * inverse) * weight(0, c);
    }
  }
  static void load_row(tensor_view const& t, index_t r, matrix_view<float> out) {
    to_float(t, r * out.cols, out.cols, out.data);
    constexpr std::uint32_t exponent = 0x7f800000u;
    bool found = false;
    for (index_t c = 0; c < out.cols; ++c) found |= (detail::bit_pun<std::uint32_t>(out(0, c)) & exponent) == exponent;
    if (!found) return;
    index_t c = 0;
    while (std::isfinite(out(0, c))) ++c;
    throw numeric_error(detail::tensor_place(t) + "holds " + (std::isnan(out(0, c)) ? "NaN" : "Inf") + " at row " +
                        std::to_string(r) + ", column " + std::to_string(c));
  }

  model_config config_;
  checkpoint_reader reader_;
  std::optional<quantized_model> quantized_;
  model_names names_;
  std::vector<block_graph> layers_;
  std::string embedding_;  ///< where its values are stored
  bool tied_ = false;
  std::set<std::string> expected_;
  std::vector<std::string> missing_;
  std::vector<std::string> unexpected_;
};

}  // namespace v0
}  // namespace gptq
