/// One quantized linear layer of an open checkpoint: read by its format, then checked against the settings.
#pragma once

#include <gptq/format/formats.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/io/reader.hpp>
#include <gptq/pack/packed_linear.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

namespace detail {

/// Completes a layer as its format read it: groups, and whether values and settings agree.
class module_check {
 public:
  module_check(quantized_module module, quantization_config const& config, module_problems& problems)
      : out_(std::move(module)), config_(config), problems_(problems) {}

  /// The module, or nothing if a fatal problem was found.
  std::optional<quantized_module> run() {
    if (!find_groups()) return std::nullopt;
    compare_with_config();
    return problems_.fatal() ? std::nullopt : std::optional(std::move(out_));
  }

 private:
  void report(char const* rule, std::string what, bool fatal) { problems_.add(rule, std::move(what), fatal); }

  /// The group size: the declared one if it gives that many groups, else what g_idx says.
  bool find_groups() {
    packed_view& t = out_.tensors;
    layer_format& spec = t.spec;
    std::vector<std::int64_t> members(static_cast<std::size_t>(t.groups));
    std::vector<std::int32_t> const g_idx = t.g_idx ? group_index(t) : std::vector<std::int32_t>();
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
      } else if (t.g_idx && members[0] > 0 && members[0] < (1 << 30) &&
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
    for (std::size_t r = 0; t.g_idx && r < members.size(); ++r) {
      std::int64_t const expected = r + 1 < members.size() ? g : t.in_features - g * (t.groups - 1);
      if (members[r] == expected) continue;
      report("C5",
             "group " + std::to_string(r) + " has " + std::to_string(members[r]) + " inputs, not " +
                 std::to_string(expected),
             false);
      break;
    }
    check_scales();
    return !problems_.fatal();
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
    auto const settings = config_.settings_for(out_.name);
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
    int const middle = sym_zero(t.spec.bits);
    int const offset = zero_offset(t.format);
    for (index_t g = 0; g < t.groups; ++g)
      for (index_t n = 0; n < t.out_features; ++n) {
        int const zero = zero_at(t, g, n);
        bool const wrong = settings.sym && zero != middle;
        if (!wrong && zero >= offset) continue;
        bool const shifted = zero - (offset ? 1 : -1) == middle;
        return report("C3",
                      "zero point [" + std::to_string(g) + ", " + std::to_string(n) + "] is " + std::to_string(zero) +
                          (!wrong ? ", which readers of format " + to_string(t.format) + " disagree about"
                                  : ", but sym is true") +
                          (wrong && shifted ? ": stored in the other format?" : ""),
                      false);
      }
  }

  quantized_module out_;
  quantization_config const& config_;
  module_problems& problems_;
};

}  // namespace detail

/// Reads and checks one module; what is wrong is added to `problems`. Nothing is returned if one of them is fatal.
inline std::optional<quantized_module> read_module(checkpoint_reader const& reader, quantization_config const& config,
                                                   std::string const& name, std::vector<problem>& problems) {
  auto const settings = config.settings_for(name);
  layer_format const declared = settings ? *settings : config.base;
  tensor_source const source = [&](std::string const& tensor) { return reader.find(tensor); };
  module_problems own(name, problems);
  auto module = with_format(config.format, [&](auto f) { return f.read(source, name, declared, own); });
  return module ? detail::module_check(*std::move(module), config, own).run() : std::nullopt;
}

}  // namespace v0
}  // namespace gptq
