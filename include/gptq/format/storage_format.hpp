/// How quantized layers and their settings are stored: what each format says of itself. A format is one header with one
/// type that models `storage_format` below (gptq.hpp, compressed_tensors.hpp), and one entry of the list in formats.hpp.
/// Zero offsets, word sizes and refusals live there and nowhere above; the container (safetensors) lies below.
#pragma once

#include <gptq/core/remedy.hpp>
#include <gptq/core/spec.hpp>
#include <gptq/format/quantization_settings.hpp>
#include <gptq/io/tensor.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A quantized linear layer before there are codes: all that a format must know to say what it will store.
struct layer_outline {
  std::string name;
  index_t in_features = 0;
  index_t out_features = 0;
  layer_format spec;
  bool scattered = false;  ///< inputs belong to other groups than their position says
  dtype scales = dtype::f16;
};

/// Why a format does not store a layer, without the layer's name, and what would be stored instead.
struct format_refusal {
  std::string reason;
  remedies change;
};

/// Settings of a solve that a format may limit. The options of grids (core/grid.hpp) have them all.
struct solve_limits {
  bool nonzero_zeros = false;  ///< zero points are at least 1
};

/// The layers of a model that stay in float, in the words of each format: it takes those that it knows.
struct float_layers {
  std::vector<std::string> names;                   ///< all of them
  std::vector<dynamic_rule> rules;                  ///< that keep them in float
  std::vector<std::vector<std::string>> quantized;  ///< the layers that do not stay in float; empty where all are
};

/// Takes the tensors of a layer, one after the other: row-major, little-endian.
using tensor_sink = std::function<void(tensor_outline const&, std::span<std::byte const>)>;

/// The tensor of a name, or null.
using tensor_source = std::function<tensor_view const*(std::string const&)>;

/// A fault of a quantized folder. Rules: C1 tensors, dtypes and shapes; C2 desc_act against g_idx; C3 format and sym
/// against the stored zeros; C4 the two config files; C5 values of g_idx and scales; C6 config against tensors.
struct problem {
  std::string rule;
  std::string where;  ///< module or file
  std::string what;
  bool fatal = false;  ///< the module can't be read; otherwise some readers will refuse it or go wrong
};

/// "C1 model.layers.0.mlp.up_proj: has no g_idx: …"
inline std::string to_string(problem const& p) { return p.rule + " " + detail::printable(p.where) + ": " + p.what; }

/// Collects what is wrong with one module on the way to reading it.
class module_problems {
 public:
  module_problems(std::string const& module, std::vector<problem>& all) : module_(module), all_(all) {}
  void add(char const* rule, std::string what, bool fatal) {
    all_.push_back({rule, module_, std::move(what), fatal});
    fatal_ = fatal_ || fatal;
  }
  [[nodiscard]] bool fatal() const { return fatal_; }

 private:
  std::string const& module_;
  std::vector<problem>& all_;
  bool fatal_ = false;
};

/// Tensors of a layer in the layout of packed_view, made from what a format stores otherwise.
struct converted_tensors {
  std::vector<std::byte> qweight, qzeros, scales;
};

/// One quantized linear layer of an open checkpoint. Its tensors lie there, but for those that had to be converted.
struct quantized_module {
  std::string name;
  packed_view tensors;
  std::shared_ptr<converted_tensors const> own;
  dtype scales = dtype::f16;
  bool has_g_idx = false;
  bool scattered = false;             ///< g_idx is not position / group_size
  tensor_view const* bias = nullptr;  ///< null if there is none
  std::uint64_t bytes = 0;            ///< of all its tensors
};

/// What a format can do. All of it is static: a format has no state.
template <class F>
concept storage_format = requires(layer_outline const& layer, packed_view const& packed, std::string const& name,
                                  tensor_sink const& sink, tensor_source const& source, layer_format const& declared,
                                  module_problems& problems, solve_limits& limits, json const& object,
                                  quantization_config& config, float_layers const& floats) {
  /// Its name on command lines and in messages.
  { F::id } -> std::convertible_to<checkpoint_format>;
  { F::name } -> std::convertible_to<std::string_view>;
  /// The value of "quant_method" in settings: formats with the same one share its words.
  { F::method } -> std::convertible_to<std::string_view>;
  /// Endings of tensors by which quantized modules are found: one with the second ending counts where none has the first.
  {std::span<std::string_view const>(F::endings)};
  /// All endings that tensors of a layer may have, but ".bias".
  {std::span<std::string_view const>(F::all_endings)};
  /// The file beside config.json that repeats the settings; empty if there is none.
  { F::settings_file } -> std::convertible_to<std::string_view>;
  /// What the file can't say limits the solve, before it starts.
  F::constrain(limits);
  /// Why a layer that is to be quantized will not do: what the format can't say, and shapes that its readers don't take.
  { F::accepts(layer) } -> std::same_as<std::optional<format_refusal>>;
  /// Why a layer that exists can't be written: only what the format can't say.
  { F::accepts(packed) } -> std::same_as<std::optional<format_refusal>>;
  /// The tensors of a layer in the order of writing, with their exact sizes.
  { F::layout(layer) } -> std::same_as<std::vector<tensor_outline>>;
  /// Writes what layout() says. Throws format_error naming the layer for what accepts(packed) refuses.
  F::write(sink, name, packed);
  /// Reads a layer; of `declared` only what its tensors don't say is used. Nothing if a fatal problem was found.
  { F::read(source, name, declared, problems) } -> std::same_as<std::optional<quantized_module>>;
  /// Whether settings of a folder are those of this format. Throws format_error naming `where` for a mix.
  { F::declares(object, name) } -> std::same_as<bool>;
  /// Settings from JSON and back. Throws format_error naming `where`.
  { F::parse(object, name) } -> std::same_as<quantization_config>;
  { F::settings(std::as_const(config)) } -> std::same_as<json>;
  /// Says in the settings which layers stay in float, in the place of what they said of it before.
  F::declare_float(config, floats);
};

namespace detail {

/// Shapes that no reader takes: a group size that does not divide the inputs, words that inputs or outputs do not fill.
inline std::optional<format_refusal> refuse_ragged(layer_outline const& l) {
  int const word = codes_of_whole_words(l.spec.bits);
  int const g = l.spec.group_size;
  if (g != -1 && l.in_features % g != 0)
    return format_refusal{
        "group_size " + std::to_string(g) + " does not divide the " + std::to_string(l.in_features) + " inputs",
        {remedy::group_size, remedy::keep_layer_float}};
  for (auto const& [size, what] : {std::pair{l.in_features, " inputs"}, std::pair{l.out_features, " outputs"}})
    if (size % word != 0)
      return format_refusal{
          std::to_string(l.spec.bits) + " bit codes of " + std::to_string(size) + what + " do not fill whole words",
          remedy::keep_layer_float};
  return std::nullopt;
}

constexpr scale_type scale_type_of(dtype t) {
  return t == dtype::f16 ? scale_type::f16 : t == dtype::bf16 ? scale_type::bf16 : scale_type::f32;
}
constexpr dtype dtype_of(scale_type t) {
  return t == scale_type::f16 ? dtype::f16 : t == scale_type::bf16 ? dtype::bf16 : dtype::f32;
}

inline layer_outline outline_of(std::string const& name, packed_view const& p) {
  return {.name = name,
          .in_features = p.in_features,
          .out_features = p.out_features,
          .spec = p.spec,
          .scattered = p.g_idx && scattered(group_index(p), p.spec.group_size),
          .scales = dtype_of(p.scales_type)};
}

inline std::span<std::byte const> words_of(matrix<std::int32_t> const& m) {
  return {reinterpret_cast<std::byte const*>(m.data()), static_cast<std::size_t>(m.size()) * 4};
}

/// The zero points of a layer in packed words [groups × word_count(out)], less `offset`.
inline matrix<std::int32_t> zero_words(packed_view const& p, int offset) {
  matrix<std::uint8_t> fields(p.groups, p.out_features);
  for (index_t g = 0; g < p.groups; ++g)
    for (index_t n = 0; n < p.out_features; ++n) fields(g, n) = static_cast<std::uint8_t>(zero_at(p, g, n) - offset);
  return pack_columns(fields, p.spec.bits);
}

/// The same words for a symmetric grid.
inline std::vector<std::byte> symmetric_zero_words(index_t groups, index_t out, int bits, int offset) {
  matrix<std::uint8_t> fields(groups, out);
  for (index_t i = 0; i < fields.size(); ++i) fields.data()[i] = static_cast<std::uint8_t>(sym_zero(bits) - offset);
  matrix<std::int32_t> const words = pack_columns(fields, bits);
  auto const bytes = words_of(words);
  return {bytes.begin(), bytes.end()};
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
