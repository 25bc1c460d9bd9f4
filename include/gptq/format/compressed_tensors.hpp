/// Layers as compressed-tensors ("pack-quantized") holds them: the words of GPTQ transposed. With w = word_count(…, bits):
///
///   X.weight_packed     I32 [out × w(in)]      codes, packed along inputs
///   X.weight_scale      F16 [out × groups]     also BF16 or F32 where that was read
///   X.weight_shape      I64 [2]                out, in
///   X.weight_zero_point I32 [w(out) × groups]  packed along outputs; asymmetric grids only
///   X.weight_g_idx      I32 [in]               with activation order; read, never written
///
/// Codes are the same unsigned numbers, so for 2, 4 and 8 bits nothing is re-coded; versions disagree about 3 bits.
#pragma once

#include <gptq/format/compressed_config.hpp>
#include <gptq/format/storage_format.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// [rows × cols] elements of `size` bytes → [cols × rows].
inline std::vector<std::byte> transposed(std::byte const* from, index_t rows, index_t cols, std::size_t size) {
  std::vector<std::byte> out(static_cast<std::size_t>(rows * cols) * size);
  constexpr index_t tile = 32;
  for (index_t r0 = 0; r0 < rows; r0 += tile)
    for (index_t c0 = 0; c0 < cols; c0 += tile)
      for (index_t c = c0; c < cols && c < c0 + tile; ++c)
        for (index_t r = r0; r < rows && r < r0 + tile; ++r)
          std::memcpy(out.data() + static_cast<std::size_t>(c * rows + r) * size,
                      from + static_cast<std::size_t>(r * cols + c) * size, size);
  return out;
}

/// Reads one layer: found, measured and checked by its tensors, then turned into the layout of GPTQ.
class compressed_layer_reader {
 public:
  compressed_layer_reader(tensor_source const& source, std::string const& name, layer_format const& declared,
                          module_problems& problems)
      : source_(source), name_(name), declared_(declared), problems_(problems) {}

  std::optional<quantized_module> run() {
    if (!find_tensors() || !find_sizes()) return std::nullopt;
    transpose();
    out_.name = name_;
    out_.scales = scale_->type;
    out_.has_g_idx = g_idx_ != nullptr;
    return std::move(out_);
  }

 private:
  tensor_view const* get(char const* ending) {
    tensor_view const* const t = source_(name_ + ending);
    if (t) out_.bytes += t->bytes.size();
    return t;
  }
  bool refuse(std::string what) {
    problems_.add("C1", std::move(what), true);
    return false;
  }

  bool find_tensors() {
    if (source_(name_ + ".weight")) refuse("has both .weight and .weight_packed");
    packed_ = get(".weight_packed");
    scale_ = get(".weight_scale");
    zero_point_ = get(".weight_zero_point");
    shape_ = get(".weight_shape");
    g_idx_ = get(".weight_g_idx");
    out_.bias = get(".bias");
    std::string missing;
    for (auto const& [tensor, ending, needed] :
         {std::tuple(packed_, ".weight_packed", true), std::tuple(scale_, ".weight_scale", true),
          std::tuple(shape_, ".weight_shape", true), std::tuple(zero_point_, ".weight_zero_point", !declared_.sym)})
      if (!tensor && needed) missing += (missing.empty() ? "" : ", ") + printable(name_) + ending;
    if (!missing.empty()) return refuse("missing tensors: " + missing);
    if (declared_.bits == 3)
      return refuse("3 bit codes, which versions of compressed-tensors pack differently, are not supported");
    bool const pair = shape_->shape == std::vector<std::int64_t>{2} || shape_->shape == std::vector<std::int64_t>{2, 1};
    if (!pair || (shape_->type != dtype::i64 && shape_->type != dtype::i32))
      return refuse("weight_shape is " + std::string(to_string(shape_->type)) + " " + to_string(shape_->shape) +
                    ", not two integers");
    return !problems_.fatal();
  }

  std::int64_t size(index_t i) const {
    return shape_->type == dtype::i64 ? load<std::int64_t>(shape_->bytes.data(), i)
                                      : std::int64_t{load<std::int32_t>(shape_->bytes.data(), i)};
  }

  bool find_sizes() {
    int const bits = declared_.bits;
    index_t const out = size(0), in = size(1);
    constexpr index_t most = index_t{1} << 31;
    bool const plausible = out > 0 && in > 0 && out < most && in < most;
    auto const is = [&](tensor_view const& x, index_t rows, index_t cols) {
      return x.shape == std::vector<std::int64_t>{rows, cols};
    };
    index_t const groups = scale_->shape.size() == 2 ? scale_->shape[1] : 0;
    if (!plausible || groups == 0 || groups > in || packed_->type != dtype::i32 || !is_float(scale_->type) ||
        !is(*packed_, out, word_count(in, bits)) || !is(*scale_, out, groups) ||
        (zero_point_ && (zero_point_->type != dtype::i32 || !is(*zero_point_, word_count(out, bits), groups))) ||
        (g_idx_ && (g_idx_->type != dtype::i32 || g_idx_->shape != std::vector<std::int64_t>{in})))
      return refuse("shapes do not fit together at " + std::to_string(bits) + " bits: weight_packed " +
                    to_string(packed_->shape) + ", weight_scale " + to_string(scale_->shape) +
                    (zero_point_ ? ", weight_zero_point " + to_string(zero_point_->shape) : std::string()) +
                    ", weight_shape [" + std::to_string(out) + ", " + std::to_string(in) + "]");
    if (out_.bias && (out_.bias->shape != std::vector<std::int64_t>{out} || !is_float(out_.bias->type)))
      return refuse("bias " + to_string(out_.bias->shape) + " does not fit");
    packed_view& t = out_.tensors;
    t.spec = declared_;
    t.format = checkpoint_format::compressed_tensors;
    t.in_features = in;
    t.out_features = out;
    t.groups = groups;
    return true;
  }

  void transpose() {
    packed_view& t = out_.tensors;
    int const bits = t.spec.bits;
    converted_tensors made;
    made.qweight = transposed(packed_->bytes.data(), t.out_features, word_count(t.in_features, bits), 4);
    made.scales = transposed(scale_->bytes.data(), t.out_features, t.groups, size_of(scale_->type));
    made.qzeros = zero_point_ ? transposed(zero_point_->bytes.data(), word_count(t.out_features, bits), t.groups, 4)
                              : symmetric_zero_words(t.groups, t.out_features, bits, zero_offset(t.format));
    out_.own = std::make_shared<converted_tensors const>(std::move(made));
    t.qweight = out_.own->qweight.data();
    t.qzeros = out_.own->qzeros.data();
    t.scales = out_.own->scales.data();
    t.scales_type = scale_type_of(scale_->type);
    t.g_idx = g_idx_ ? g_idx_->bytes.data() : nullptr;
  }

  tensor_source const& source_;
  std::string const& name_;
  layer_format const& declared_;
  module_problems& problems_;
  quantized_module out_;
  tensor_view const* packed_ = nullptr;
  tensor_view const* scale_ = nullptr;
  tensor_view const* zero_point_ = nullptr;
  tensor_view const* shape_ = nullptr;
  tensor_view const* g_idx_ = nullptr;
};

}  // namespace detail

/// compressed-tensors, "pack-quantized", as llm-compressor writes it.
struct compressed_tensors_format {
  static constexpr checkpoint_format id = checkpoint_format::compressed_tensors;
  static constexpr std::string_view name = "compressed-tensors";
  static constexpr std::string_view method = name;
  static constexpr std::array<std::string_view, 1> endings = {".weight_packed"};
  static constexpr std::array<std::string_view, 5> all_endings = {".weight_packed", ".weight_scale", ".weight_shape",
                                                                  ".weight_zero_point", ".weight_g_idx"};
  static constexpr std::string_view settings_file = "";  // readers know config.json only

  template <class Limits>
  static constexpr void constrain(Limits&) {}

  static std::optional<format_refusal> accepts(layer_outline const& l) {
    if (auto no = can_say(l)) return no;
    return detail::refuse_ragged(l);
  }
  static std::optional<format_refusal> accepts(packed_view const& p) { return can_say(detail::outline_of({}, p)); }

  static std::vector<tensor_outline> layout(layer_outline const& l) {
    index_t const groups = group_count(l.in_features, l.spec.group_size);
    index_t const out = l.out_features;
    std::vector<tensor_outline> tensors = {
        {l.name + ".weight_packed", dtype::i32, {out, word_count(l.in_features, l.spec.bits)}},
        {l.name + ".weight_scale", l.scales, {out, groups}},
        {l.name + ".weight_shape", dtype::i64, {2}}};
    if (!l.spec.sym)
      tensors.push_back({l.name + ".weight_zero_point", dtype::i32, {word_count(out, l.spec.bits), groups}});
    return tensors;
  }

  static void write(tensor_sink const& sink, std::string const& module, packed_view const& p) {
    layer_outline const l = detail::outline_of(module, p);
    if (auto const no = can_say(l)) throw format_error(module + ": " + no->reason, no->change);
    auto const tensors = layout(l);
    index_t const out = p.out_features;
    std::int64_t const shape[] = {out, p.in_features};
    sink(tensors[0], detail::transposed(p.qweight, word_count(p.in_features, p.spec.bits), out, 4));
    sink(tensors[1], detail::transposed(p.scales, p.groups, out, size_of(l.scales)));
    sink(tensors[2], std::as_bytes(std::span(shape)));
    if (p.spec.sym) return;
    auto const zeros = detail::zero_words(p, zero_offset(id));
    sink(tensors[3], detail::transposed(detail::words_of(zeros).data(), zeros.rows(), zeros.cols(), 4));
  }

  static std::optional<quantized_module> read(tensor_source const& source, std::string const& module,
                                              layer_format const& declared, module_problems& problems) {
    return detail::compressed_layer_reader(source, module, declared, problems).run();
  }

  static bool declares(json const& object, std::string const& where) {
    return value_or<std::string>(object, "quant_method", "gptq", where) == name;
  }
  static quantization_config parse(json const& object, std::string const& where) {
    return detail::parse_compressed_settings(object, where);
  }
  static json settings(quantization_config const& c) { return detail::compressed_settings(c); }

  /// One list says it all.
  static void declare_float(quantization_config& c, float_layers const& floats) {
    std::erase_if(c.dynamic, [](dynamic_rule const& rule) { return rule.keep_float; });
    c.ignore.insert(floats.names.begin(), floats.names.end());
    c.modules_in_block_to_quantize.clear();
  }

 private:
  static std::optional<format_refusal> can_say(layer_outline const& l) {
    if (l.spec.bits == 3)
      return format_refusal{"3 bit codes have no settled form in compressed-tensors",
                            {remedy::bits_2_4_or_8, remedy::format_gptq}};
    if (l.scattered)
      return format_refusal{
          "a scattered g_idx (desc_act) is not written as compressed-tensors, since vLLM would refuse it: "
          "quantize in the group-aware order",
          remedy::order_group_aware};
    return std::nullopt;
  }
};

static_assert(storage_format<compressed_tensors_format>);

}  // namespace v0
}  // namespace gptq
