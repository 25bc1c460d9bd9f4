/// One quantized linear layer of an open checkpoint: found, measured and checked by its tensors alone.
#pragma once

#include <gptq/format/compressed_tensors.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/io/reader.hpp>
#include <gptq/io/tensor.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// A fault of a quantized folder. Rules: C1 tensors, dtypes and shapes; C2 desc_act against g_idx; C3 format and sym
/// against the stored zeros; C4 the two config files; C5 values of g_idx and scales; C6 config against tensors.
struct problem {
  std::string rule;
  std::string where;  ///< module or file
  std::string what;
  bool fatal = false;  ///< the module can't be read; otherwise some readers will refuse it or go wrong
};

inline std::string to_string(problem const& p) { return p.rule + " " + detail::printable(p.where) + ": " + p.what; }

/// Its tensors lie in the checkpoint that it was read from; those of compressed-tensors are transposed copies.
struct quantized_module {
  std::string name;
  packed_view tensors;                            ///< in the layout of gptq files
  std::shared_ptr<transposed_tensors const> own;  ///< of compressed-tensors
  dtype scales = dtype::f16;
  bool has_g_idx = false;
  bool scattered = false;             ///< g_idx is not position / group_size
  tensor_view const* bias = nullptr;  ///< null if there is none
  std::uint64_t bytes = 0;            ///< of all its tensors
};

namespace detail {

/// Collects what is wrong with one module on the way to reading it.
class module_check {
 public:
  module_check(checkpoint_reader const& reader, quantization_config const& config, std::string const& name,
               std::vector<problem>& problems)
      : reader_(reader), config_(config), name_(name), problems_(problems) {}

  /// The module, or nothing if a fatal problem was found.
  std::optional<quantized_module> run() {
    bool const compressed = reader_.contains(name_ + ".weight_packed");
    if (!(compressed ? find_compressed() : find_tensors() && find_sizes()) || !find_groups()) return std::nullopt;
    compare_with_config();
    return fatal_ ? std::nullopt : std::optional(std::move(out_));
  }

 private:
  void report(char const* rule, std::string what, bool fatal) {
    problems_.push_back({rule, name_, std::move(what), fatal});
    fatal_ = fatal_ || fatal;
  }

  bool find_tensors() {
    if (reader_.contains(name_ + ".weight")) report("C1", "has both .weight and .qweight", true);
    std::string missing;
    auto const get = [&](char const* suffix, bool needed) {
      tensor_view const* const t = reader_.find(name_ + suffix);
      if (!t && needed) missing += (missing.empty() ? "" : ", ") + name_ + suffix;
      if (t) out_.bytes += t->bytes.size();
      return t;
    };
    qweight_ = get(".qweight", true);
    qzeros_ = get(".qzeros", true);
    scales_ = get(".scales", true);
    g_idx_ = get(".g_idx", false);
    out_.bias = get(".bias", false);
    if (!missing.empty()) report("C1", "missing tensors: " + printable(missing), true);
    if (!g_idx_) report("C1", "has no g_idx: some readers need it", false);
    if (fatal_) return false;
    expect(*qweight_, 2, {dtype::i32, dtype::u32});
    expect(*qzeros_, 2, {dtype::i32, dtype::u32});
    expect(*scales_, 2, {dtype::f16, dtype::bf16, dtype::f32});
    if (g_idx_) expect(*g_idx_, 1, {dtype::i32, dtype::u32});
    if (out_.bias) expect(*out_.bias, 1, {dtype::f16, dtype::bf16, dtype::f32});
    return !fatal_;
  }

  /// The tensors of compressed-tensors, turned into those of GPTQ.
  bool find_compressed() {
    if (reader_.contains(name_ + ".weight")) report("C1", "has both .weight and .weight_packed", true);
    auto const get = [&](char const* suffix) {
      tensor_view const* const t = reader_.find(name_ + suffix);
      if (t) out_.bytes += t->bytes.size();
      return t;
    };
    compressed_tensors_parts const parts = {get(".weight_packed"), get(".weight_scale"), get(".weight_zero_point"),
                                            get(".weight_shape"), get(".weight_g_idx")};
    out_.bias = get(".bias");
    auto const settings = config_.settings_for(name_);
    auto const s = settings ? *settings : config_.base;
    std::string const wrong = transpose_compressed(parts, s.bits, s.sym, name_, out_.tensors, out_.own);
    if (!wrong.empty()) report("C1", wrong, true);
    if (fatal_) return false;
    g_idx_ = parts.g_idx;
    out_.name = name_;
    out_.scales = parts.scale->type;
    out_.has_g_idx = g_idx_ != nullptr;
    if (out_.bias &&
        (out_.bias->shape != std::vector<std::int64_t>{out_.tensors.out_features} || !is_float(out_.bias->type)))
      report("C1", "bias " + to_string(out_.bias->shape) + " does not fit", true);
    return !fatal_;
  }

  void expect(tensor_view const& t, std::size_t dimensions, std::initializer_list<dtype> types) {
    if (t.shape.size() != dimensions || std::find(types.begin(), types.end(), t.type) == types.end())
      report("C1",
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
    auto const settings = config_.settings_for(name_);
    int const configured = settings ? settings->bits : config_.base.bits;
    std::array<int, 5> const widths = {configured, 2, 3, 4, 8};
    for (int const bits : widths) {
      // Without g_idx only the configured width tells how many inputs the words hold.
      index_t const k = g_idx_ ? g_idx_->shape[0] : words * 32 / bits;
      if (!g_idx_ && bits != configured) break;
      if (word_count(k, bits) != words || word_count(n, bits) != qzeros_->shape[1]) continue;
      out_.tensors.spec.bits = bits;
      out_.tensors.in_features = k;
      out_.tensors.out_features = n;
      break;
    }
    if (out_.tensors.in_features == 0 || scales_->shape[1] != n || qzeros_->shape[0] != groups ||
        (out_.bias && out_.bias->shape[0] != n))
      return report_shapes();
    out_.name = name_;
    out_.tensors.groups = groups;
    out_.tensors.format = config_.format;
    out_.tensors.qweight = qweight_->bytes.data();
    out_.tensors.qzeros = qzeros_->bytes.data();
    out_.tensors.scales = scales_->bytes.data();
    out_.tensors.g_idx = g_idx_ ? g_idx_->bytes.data() : nullptr;
    out_.scales = scales_->type;
    out_.tensors.scales_type = scales_->type == dtype::f16    ? scale_type::f16
                               : scales_->type == dtype::bf16 ? scale_type::bf16
                                                              : scale_type::f32;
    out_.has_g_idx = g_idx_ != nullptr;
    return true;
  }

  bool report_shapes() {
    std::string shapes = "qweight " + to_string(qweight_->shape) + ", qzeros " + to_string(qzeros_->shape) +
                         ", scales " + to_string(scales_->shape);
    if (g_idx_) shapes += ", g_idx " + to_string(g_idx_->shape);
    if (out_.bias) shapes += ", bias " + to_string(out_.bias->shape);
    report("C1", "shapes do not fit together: " + shapes, true);
    return false;
  }

  /// The group size: the configured one if it gives that many groups, else what g_idx says.
  bool find_groups() {
    packed_view& t = out_.tensors;
    auto const settings = config_.settings_for(name_);
    layer_format& spec = t.spec;
    spec.group_size = settings ? settings->group_size : config_.base.group_size;
    spec.sym = settings ? settings->sym : config_.base.sym;
    std::vector<std::int64_t> members(static_cast<std::size_t>(t.groups));
    std::vector<std::int32_t> const g_idx = g_idx_ ? group_index(t) : std::vector<std::int32_t>();
    for (std::size_t k = 0; k < g_idx.size(); ++k) {
      if (g_idx[k] >= 0 && g_idx[k] < t.groups) {
        ++members[static_cast<std::size_t>(g_idx[k])];
        continue;
      }
      report("C5",
             "g_idx[" + std::to_string(k) + "] = " + std::to_string(g_idx[k]) + " is outside the " +
                 std::to_string(t.groups) + " groups",
             true);
      return false;
    }
    if (group_count(t.in_features, spec.group_size) != t.groups) {
      if (t.groups == 1) {
        spec.group_size = -1;
      } else if (g_idx_ && members[0] > 0 && members[0] < (1 << 30) &&
                 group_count(t.in_features, static_cast<int>(members[0])) == t.groups) {
        spec.group_size = static_cast<int>(members[0]);
      } else {
        report("C1",
               std::to_string(t.groups) + " groups do not fit " + std::to_string(t.in_features) +
                   " inputs at group_size " + std::to_string(spec.group_size),
               true);
        return false;
      }
    }
    out_.scattered = scattered(g_idx, spec.group_size);
    std::int64_t const g = spec.group_size == -1 ? t.in_features : spec.group_size;
    for (std::size_t r = 0; g_idx_ && r < members.size(); ++r) {
      std::int64_t const expected = r + 1 < members.size() ? g : t.in_features - g * (t.groups - 1);
      if (members[r] == expected) continue;
      report("C5",
             "group " + std::to_string(r) + " has " + std::to_string(members[r]) + " inputs, not " +
                 std::to_string(expected),
             false);
      break;
    }
    check_scales();
    return !fatal_;
  }

  void check_scales() {
    packed_view const& t = out_.tensors;
    for (index_t g = 0; g < t.groups; ++g)
      for (index_t n = 0; n < t.out_features; ++n) {
        float const s = scale_at(t, g, n);
        if (std::isfinite(s) && s > 0) continue;
        report("C5", "scales[" + std::to_string(g) + ", " + std::to_string(n) + "] = " + std::to_string(s),
               !std::isfinite(s));
        return;
      }
  }

  void compare_with_config() {
    packed_view const& t = out_.tensors;
    auto const settings = config_.settings_for(name_);
    if (!settings) {
      report("C6", "is quantized, but a rule of \"dynamic\" keeps it in float", false);
      return;
    }
    if (settings->bits != t.spec.bits || settings->group_size != t.spec.group_size)
      report("C6",
             "has " + std::to_string(t.spec.bits) + " bits, group_size " + std::to_string(t.spec.group_size) +
                 "; the config says " + std::to_string(settings->bits) + " and " + std::to_string(settings->group_size),
             false);
    if (out_.scattered && !settings->desc_act) report("C2", "g_idx is scattered, but desc_act is false", false);
    if (!out_.scattered && settings->desc_act && out_.has_g_idx && t.groups > 1)
      report("C2", "desc_act is true, but g_idx is position / group_size", false);
    check_zeros(*settings);
  }

  void check_zeros(module_settings const& settings) {
    packed_view const& t = out_.tensors;
    int const middle = 1 << (t.spec.bits - 1);
    bool const v1 = t.format == checkpoint_format::gptq;
    for (index_t g = 0; g < t.groups; ++g)
      for (index_t n = 0; n < t.out_features; ++n) {
        int const zero = zero_at(t, g, n);
        bool const wrong = settings.sym && zero != middle;
        if (!wrong && !(zero == 0 && v1)) continue;
        bool const shifted = zero - (v1 ? 1 : -1) == middle;
        return report("C3",
                      "zero point [" + std::to_string(g) + ", " + std::to_string(n) + "] is " + std::to_string(zero) +
                          (!wrong ? ", which readers of format gptq disagree about" : ", but sym is true") +
                          (wrong && shifted ? ": stored in the other format?" : ""),
                      false);
      }
  }

  checkpoint_reader const& reader_;
  quantization_config const& config_;
  std::string const& name_;
  std::vector<problem>& problems_;
  quantized_module out_;
  bool fatal_ = false;
  tensor_view const* qweight_ = nullptr;
  tensor_view const* qzeros_ = nullptr;
  tensor_view const* scales_ = nullptr;
  tensor_view const* g_idx_ = nullptr;
};

}  // namespace detail

/// Reads and checks one module; what is wrong is added to `problems`. Nothing is returned if one of them is fatal.
inline std::optional<quantized_module> read_module(checkpoint_reader const& reader, quantization_config const& config,
                                                   std::string const& name, std::vector<problem>& problems) {
  return detail::module_check(reader, config, name, problems).run();
}

}  // namespace v0
}  // namespace gptq
