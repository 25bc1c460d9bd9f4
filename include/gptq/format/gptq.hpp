/// The format of GPTQ checkpoints in both versions. With w = word_count(…, bits), the 32-bit words that codes fill:
///
///   X.qweight I32 [w(in) × out]      codes, packed along inputs
///   X.qzeros  I32 [groups × w(out)]  zero points, packed along outputs; version 1 stores zero point − 1
///   X.scales  F16 [groups × out]     also BF16 or F32 where that was read
///   X.g_idx   I32 [in]               the group of each input
///
/// As in AutoGPTQ and GPTQModel.
#pragma once

#include <gptq/format/gptq_config.hpp>
#include <gptq/format/storage_format.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
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

/// Reads one layer: found, measured and checked by its tensors.
class gptq_layer_reader {
 public:
  gptq_layer_reader(tensor_source const& source, std::string const& name, checkpoint_format format,
                    layer_format const& declared, module_problems& problems)
      : source_(source), name_(name), format_(format), declared_(declared), problems_(problems) {}

  std::optional<quantized_module> run() {
    if (!find_tensors() || !find_sizes()) return std::nullopt;
    packed_view& t = out_.tensors;
    t.spec.group_size = declared_.group_size;
    t.spec.sym = declared_.sym;
    t.format = format_;
    t.groups = scales_->shape[0];
    t.qweight = qweight_->bytes.data();
    t.scales = scales_->bytes.data();
    t.scales_type = scale_type_of(scales_->type);
    t.g_idx = g_idx_ ? g_idx_->bytes.data() : nullptr;
    if (!qzeros_) {
      converted_tensors made;
      made.qzeros = symmetric_zero_words(t.groups, t.out_features, t.spec.bits, zero_offset(format_));
      out_.own = std::make_shared<converted_tensors const>(std::move(made));
    }
    t.qzeros = qzeros_ ? qzeros_->bytes.data() : out_.own->qzeros.data();
    out_.name = name_;
    out_.scales = scales_->type;
    out_.has_g_idx = g_idx_ != nullptr;
    return std::move(out_);
  }

 private:
  tensor_view const* get(char const* ending) {
    tensor_view const* const t = source_(name_ + ending);
    if (t) out_.bytes += t->bytes.size();
    return t;
  }

  bool find_tensors() {
    if (source_(name_ + ".weight")) problems_.add("C1", "has both .weight and .qweight", true);
    qweight_ = get(".qweight");
    qzeros_ = get(".qzeros");
    scales_ = get(".scales");
    g_idx_ = get(".g_idx");
    out_.bias = get(".bias");
    // Some published folders with symmetric grids leave the zero points out, or empty: they are all the same.
    bool const empty = qzeros_ && qzeros_->bytes.empty();
    std::string missing;
    for (auto const& [tensor, ending, needed] :
         {std::tuple(qweight_, ".qweight", true), std::tuple(qzeros_, ".qzeros", !declared_.sym),
          std::tuple(scales_, ".scales", true)})
      if (!tensor && needed) missing += (missing.empty() ? "" : ", ") + name_ + ending;
    if (!missing.empty()) problems_.add("C1", "missing tensors: " + printable(missing), true);
    if (empty && !declared_.sym) problems_.add("C1", "qzeros is empty, but sym is false", true);
    if (!g_idx_) problems_.add("C1", "has no g_idx: some readers need it", false);
    if (problems_.fatal()) return false;
    if (!qzeros_ || empty) problems_.add("C1", "has no zero points: some readers need them", false);
    if (empty) qzeros_ = nullptr;
    expect(*qweight_, 2, {dtype::i32, dtype::u32});
    if (qzeros_) expect(*qzeros_, 2, {dtype::i32, dtype::u32});
    expect(*scales_, 2, {dtype::f16, dtype::bf16, dtype::f32});
    if (g_idx_) expect(*g_idx_, 1, {dtype::i32, dtype::u32});
    if (out_.bias) expect(*out_.bias, 1, {dtype::f16, dtype::bf16, dtype::f32});
    return !problems_.fatal();
  }

  void expect(tensor_view const& t, std::size_t dimensions, std::initializer_list<dtype> types) {
    if (t.shape.size() != dimensions || std::find(types.begin(), types.end(), t.type) == types.end())
      problems_.add("C1",
                    printable(t.name) + " is " + to_string(t.type) + " " + to_string(t.shape) + ", not " +
                        to_string(*types.begin()) + " of " + std::to_string(dimensions) +
                        (dimensions == 1 ? " dimension" : " dimensions"),
                    true);
  }

  /// The widths that the shapes allow; for all but the smallest layers that is one.
  bool find_sizes() {
    index_t const words = qweight_->shape[0];
    index_t const n = qweight_->shape[1];
    index_t const groups = scales_->shape[0];
    if (words == 0 || n == 0 || groups == 0) return report_shapes();  // the other size may be absurd
    std::array<int, 5> const widths = {declared_.bits, 2, 3, 4, 8};
    for (int const bits : widths) {
      // Without g_idx only the declared width tells how many inputs the words hold.
      index_t const k = g_idx_ ? g_idx_->shape[0] : words * 32 / bits;
      if (!g_idx_ && bits != declared_.bits) break;
      if (word_count(k, bits) != words || (qzeros_ && word_count(n, bits) != qzeros_->shape[1])) continue;
      out_.tensors.spec.bits = bits;
      out_.tensors.in_features = k;
      out_.tensors.out_features = n;
      break;
    }
    if (out_.tensors.in_features == 0 || scales_->shape[1] != n || (qzeros_ && qzeros_->shape[0] != groups) ||
        (out_.bias && out_.bias->shape[0] != n) || (!qzeros_ && groups > out_.tensors.in_features))
      return report_shapes();
    return true;
  }

  bool report_shapes() {
    std::string shapes = "qweight " + to_string(qweight_->shape);
    if (qzeros_) shapes += ", qzeros " + to_string(qzeros_->shape);
    shapes += ", scales " + to_string(scales_->shape);
    if (g_idx_) shapes += ", g_idx " + to_string(g_idx_->shape);
    if (out_.bias) shapes += ", bias " + to_string(out_.bias->shape);
    problems_.add("C1", "shapes do not fit together: " + shapes, true);
    return false;
  }

  tensor_source const& source_;
  std::string const& name_;
  checkpoint_format format_;
  layer_format const& declared_;
  module_problems& problems_;
  quantized_module out_;
  tensor_view const* qweight_ = nullptr;
  tensor_view const* qzeros_ = nullptr;  ///< null where they are left out
  tensor_view const* scales_ = nullptr;
  tensor_view const* g_idx_ = nullptr;
};

}  // namespace detail

/// Both versions; they differ in what they store for a zero point, and so in whether 0 can be said.
template <checkpoint_format Version>
struct basic_gptq_format {
  static constexpr checkpoint_format id = Version;
  static constexpr std::string_view name = Version == checkpoint_format::gptq ? "gptq" : "gptq_v2";
  static constexpr std::string_view method = "gptq";
  static constexpr std::array<std::string_view, 2> endings = {".qweight", ".qzeros"};
  static constexpr std::array<std::string_view, 4> all_endings = {".qweight", ".qzeros", ".scales", ".g_idx"};
  static constexpr std::string_view settings_file = "quantize_config.json";

  template <class Limits>
  static constexpr void constrain(Limits& limits) {
    if (zero_offset(id) > 0) limits.nonzero_zeros = true;
  }

  static std::optional<format_refusal> accepts(layer_outline const& l) { return detail::refuse_ragged(l); }
  static std::optional<format_refusal> accepts(packed_view const& p) {
    constexpr int least = zero_offset(id);
    for (index_t g = 0; least > 0 && g < p.groups; ++g)
      for (index_t n = 0; n < p.out_features; ++n)
        if (int(zero_at(p, g, n)) < least)
          return format_refusal{"the zero point of group " + std::to_string(g) + ", output " + std::to_string(n) +
                                    " is " + std::to_string(zero_at(p, g, n)) + ", which format " + std::string(name) +
                                    " can't store",
                                remedy::format_gptq_v2};
    return std::nullopt;
  }

  static std::vector<tensor_outline> layout(layer_outline const& l) {
    index_t const groups = group_count(l.in_features, l.spec.group_size);
    index_t const out = l.out_features;
    return {{l.name + ".qweight", dtype::i32, {word_count(l.in_features, l.spec.bits), out}},
            {l.name + ".qzeros", dtype::i32, {groups, word_count(out, l.spec.bits)}},
            {l.name + ".scales", l.scales, {groups, out}},
            {l.name + ".g_idx", dtype::i32, {l.in_features}}};
  }

  static void write(tensor_sink const& sink, std::string const& module, packed_view const& p) {
    if (auto const no = accepts(p)) throw format_error(module + ": " + no->reason, no->change);
    auto const tensors = layout(detail::outline_of(module, p));
    auto const zeros = detail::zero_words(p, zero_offset(id));
    std::vector<std::int32_t> const g_idx = group_index(p);
    sink(tensors[0], {p.qweight, tensors[0].bytes()});
    sink(tensors[1], detail::words_of(zeros));
    sink(tensors[2], {p.scales, tensors[2].bytes()});
    sink(tensors[3], std::as_bytes(std::span(g_idx)));
  }

  static std::optional<quantized_module> read(tensor_source const& source, std::string const& module,
                                              layer_format const& declared, module_problems& problems) {
    return detail::gptq_layer_reader(source, module, id, declared, problems).run();
  }

  static bool declares(json const& object, std::string const& where) {
    return detail::gptq_method(object, where) && detail::gptq_version(object, where) == id;
  }
  static quantization_config parse(json const& object, std::string const& where) {
    return detail::parse_gptq_settings(object, id, where);
  }
  static json settings(quantization_config const& c) { return detail::gptq_settings(c, std::string(name)); }

  static void declare_float(quantization_config& c, float_layers const& floats) {
    std::erase_if(c.dynamic, [](dynamic_rule const& rule) { return rule.keep_float; });
    c.dynamic.insert(c.dynamic.end(), floats.rules.begin(), floats.rules.end());
    c.modules_in_block_to_quantize = floats.quantized;
    c.ignore.clear();
  }
};

/// Version 1: read by everything, and can't say a zero point of 0.
using gptq_v1_format = basic_gptq_format<checkpoint_format::gptq>;
/// Version 2: says every zero point.
using gptq_v2_format = basic_gptq_format<checkpoint_format::gptq_v2>;

static_assert(storage_format<gptq_v1_format> && storage_format<gptq_v2_format>);

}  // namespace v0
}  // namespace gptq
