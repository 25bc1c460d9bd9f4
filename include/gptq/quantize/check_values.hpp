/// Values that a run can't take, found before it starts.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/remedy.hpp>
#include <gptq/core/unaligned.hpp>
#include <gptq/io/reader.hpp>
#include <gptq/io/tensor.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <future>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Calls f(first element, count, values) over a float tensor in pieces.
template <class F>
void for_each_piece(tensor_view const& t, F&& f) {
  constexpr index_t piece = 1 << 16;
  std::vector<float> values(static_cast<std::size_t>((std::min)(piece, t.size())));
  for (index_t first = 0; first < t.size(); first += piece) {
    index_t const n = (std::min)(piece, t.size() - first);
    to_float(t, first, n, values.data());
    f(first, std::span<float const>(values.data(), static_cast<std::size_t>(n)));
  }
}

/// Whether a tensor of 16-bit floats holds nothing to complain about. Without their signs the order of their bits is that
/// of the values, with Inf and NaN above, so one maximum answers.
inline bool surely_fine(tensor_view const& t, bool to_float16) {
  if (t.type != dtype::bf16 && t.type != dtype::f16) return false;
  std::uint16_t largest = 0;
  for (index_t i = 0; i < t.size(); ++i) {
    auto const bits = static_cast<std::uint16_t>(load<std::uint16_t>(t.bytes.data(), i) & 0x7fffu);
    largest = bits > largest ? bits : largest;
  }
  return largest < (t.type == dtype::f16 ? 0x7c00u : to_float16 ? 0x4780u : 0x7f80u);
}

/// The tensors that need a closer look. Whole checkpoints go through here, so all cores take part.
inline std::vector<std::string> suspicious_tensors(checkpoint_reader const& reader, bool to_float16) {
  auto const& names = reader.names();
  std::vector<char> fine(names.size(), 0);
  std::atomic<std::size_t> next{0};
  auto const work = [&] {
    for (std::size_t i = next++; i < names.size(); i = next++) {
      tensor_view const& t = reader.at(names[i]);
      fine[i] = !is_float(t.type) || surely_fine(t, to_float16);
    }
  };
  std::vector<std::future<void>> others;
  for (unsigned i = 1; i < (std::min)(std::thread::hardware_concurrency(), 16u); ++i)
    others.push_back(std::async(std::launch::async, work));
  work();
  for (auto& other : others) other.get();
  std::vector<std::string> rest;
  for (std::size_t i = 0; i < names.size(); ++i)
    if (!fine[i]) rest.push_back(names[i]);
  return rest;
}

}  // namespace detail

/// Reads every float tensor of a model once: refuses NaN and Inf, and values that float16 can't hold if they are to be
/// converted, as all are or those named in `converted`. Throws numeric_error naming tensor and element.
inline void check_values(checkpoint_reader const& reader, bool all_to_float16,
                         std::set<std::string> const& converted = {}) {
  using detail::tensor_place;
  for (std::string const& name : detail::suspicious_tensors(reader, all_to_float16 || !converted.empty())) {
    bool const to_float16 = all_to_float16 || converted.count(name) > 0;
    tensor_view const& t = reader.at(name);
    detail::for_each_piece(t, [&](index_t first, std::span<float const> values) {
      float largest = 0;
      bool finite = true;
      for (float x : values) {
        finite &= std::isfinite(x);
        largest = std::abs(x) > largest ? std::abs(x) : largest;
      }
      auto const place = [&](auto&& bad) {
        auto const at = static_cast<index_t>(std::find_if(values.begin(), values.end(), bad) - values.begin());
        return " at element " + std::to_string(first + at);
      };
      if (!finite)
        throw numeric_error(tensor_place(t) + "NaN or Inf" + place([](float x) { return !std::isfinite(x); }));
      if (to_float16 && largest >= 65520.0f) {
        std::string const what = tensor_place(t) + std::to_string(largest) + " does not fit float16" +
                                 place([](float x) { return std::abs(x) >= 65520.0f; });
        if (!all_to_float16) throw numeric_error(what + ", in which biases of quantized layers are written");
        throw numeric_error(what + "; keep the dtype of the source", remedy::keep_dtype);
      }
    });
  }
}

}  // namespace v0
}  // namespace gptq
