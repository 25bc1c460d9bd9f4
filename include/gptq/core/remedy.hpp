/// What a caller may change to get past an error or a warning, as codes: the library says it in words, and a program
/// turns the code into the name of its own option.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

namespace gptq {
inline namespace v0 {

/// One change. The names of settings are those of the library.
enum class remedy : unsigned char {
  bits_4,                     ///< bits = 4
  bits_4_or_8,                ///< bits = 4 or 8
  bits_2_4_or_8,              ///< bits other than 3
  symmetric,                  ///< sym = true
  group_size,                 ///< another group size
  group_size_128,             ///< group_size = 128
  order_group_aware,          ///< order = column_order::group_aware
  uniform_bits,               ///< no rule that gives some layers another width
  keep_layer_float,           ///< a rule that leaves the layer in float
  quantize_layer,             ///< no rule that leaves the layer in float
  keep_head_float,            ///< lm_head = false
  format_gptq,                ///< format = checkpoint_format::gptq
  format_gptq_v2,             ///< format = checkpoint_format::gptq_v2
  format_compressed_tensors,  ///< format = checkpoint_format::compressed_tensors
  keep_dtype,                 ///< to_float16 = false
  dtype_float16,              ///< to_float16 = true
  as_llama,                   ///< as_llama = true
  all_layers,                 ///< all_layers = true
  tensor_parallel,            ///< fewer devices for each layer
  chat_format,                ///< name the chat format
};

/// How many there are.
inline constexpr int remedy_count = static_cast<int>(remedy::chat_format) + 1;

/// A set of remedies: all of them together, or any of them, as the text beside it says.
class remedies {
 public:
  constexpr remedies() = default;
  constexpr remedies(remedy r) : set_(bit(r)) {}
  constexpr remedies(std::initializer_list<remedy> list) {
    for (remedy const r : list) set_ |= bit(r);
  }

  [[nodiscard]] constexpr bool empty() const { return set_ == 0; }
  [[nodiscard]] constexpr bool contains(remedy r) const { return (set_ & bit(r)) != 0; }
  friend constexpr bool operator==(remedies const&, remedies const&) = default;

 private:
  static constexpr std::uint32_t bit(remedy r) { return std::uint32_t{1} << static_cast<unsigned>(r); }
  std::uint32_t set_ = 0;
};

/// Something that a caller should know, and what may be changed about it.
struct advice {
  std::string text;
  remedies change;

  advice(std::string what, remedies r = {}) : text(std::move(what)), change(r) {}
};

}  // namespace v0
}  // namespace gptq
