/// What the library advises, in the words of this program: remedies are codes there and options here.
#pragma once

#include <gptq/core/remedy.hpp>

#include <array>
#include <cstddef>
#include <string>

namespace app {

/// One for each remedy, in their order.
inline constexpr std::array<char const*, gptq::remedy_count> remedy_options = {
    "--bits 4",          // bits_4
    "--bits 4 or 8",     // bits_4_or_8
    "--bits 2, 4 or 8",  // bits_2_4_or_8
    "--sym",             // symmetric
    "--group-size",      // group_size
    "--group-size 128",  // group_size_128
    "--order group_aware",
    "no --bits-for",  // uniform_bits
    "--skip",         // keep_layer_float
    "no --skip",      // quantize_layer
    "no --lm-head",   // keep_head_float
    "--format gptq",
    "--format gptq_v2",
    "--format compressed-tensors",
    "--dtype keep",
    "--dtype float16",
    "--as llama",
    "--all-layers",
    "--tensor-parallel",
    "--chat-format",
};
static_assert(remedy_options.back() != nullptr, "an option for each remedy");

/// A text of the library with the options that do what it advises: "…: quantize in the group-aware order
/// (--order group_aware)".
inline std::string with_options(std::string text, gptq::remedies change) {
  std::string options;
  for (std::size_t r = 0; r < remedy_options.size(); ++r)
    if (change.contains(static_cast<gptq::remedy>(r)))
      options += (options.empty() ? "" : ", ") + std::string(remedy_options[r]);
  return options.empty() ? text : text + " (" + options + ")";
}

inline std::string with_options(gptq::advice const& a) { return with_options(a.text, a.change); }

}  // namespace app
