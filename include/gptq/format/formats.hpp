/// The formats that there are, and the one place where a run-time `checkpoint_format` becomes a type:
///
///   gptq::with_format(format, [&](auto f) { return f.layout(layer); });
#pragma once

#include <gptq/format/compressed_tensors.hpp>
#include <gptq/format/gptq.hpp>
#include <gptq/format/storage_format.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

template <storage_format... Formats>
struct format_list {
  template <class F>
  static void for_each(F&& f) {
    (f(Formats{}), ...);
  }
  template <class F>
  static decltype(auto) with(checkpoint_format id, F&& f) {
    return pick<F, Formats...>(id, std::forward<F>(f));
  }

 private:
  template <class F, class First, class... Rest>
  static decltype(auto) pick(checkpoint_format id, F&& f) {
    if constexpr (sizeof...(Rest) > 0)
      if (id != First::id) return pick<F, Rest...>(id, std::forward<F>(f));
    return std::forward<F>(f)(First{});
  }
};

/// A further format is a further entry.
using all_formats = format_list<gptq_v1_format, gptq_v2_format, compressed_tensors_format>;

}  // namespace detail

/// f(format), the model of `id`; returns what f does.
template <class F>
decltype(auto) with_format(checkpoint_format id, F&& f) {
  return detail::all_formats::with(id, std::forward<F>(f));
}

/// f(format) for every format.
template <class F>
void for_each_format(F&& f) {
  detail::all_formats::for_each(std::forward<F>(f));
}

/// "gptq", "gptq_v2", "compressed-tensors"
inline std::string to_string(checkpoint_format id) {
  return with_format(id, [](auto f) { return std::string(f.name); });
}

/// The names of all formats.
inline std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for_each_format([&](auto f) { names.emplace_back(f.name); });
  return names;
}

/// The format of a name, if there is one.
inline std::optional<checkpoint_format> find_format(std::string_view name) {
  std::optional<checkpoint_format> found;
  for_each_format([&](auto f) {
    if (f.name == name) found = f.id;
  });
  return found;
}

/// Limits a solve to what the file can say; `limits` has the members of solve_limits, like grid_options.
template <class Limits>
void constrain(checkpoint_format id, Limits& limits) {
  with_format(id, [&](auto f) { f.constrain(limits); });
}

/// Why a layer will not do, or nothing: one that is to be quantized (what the format can't say, shapes that its readers
/// don't take), or one that exists as tensors (what the format can't say).
inline std::optional<format_refusal> accepts(checkpoint_format id, layer_outline const& layer) {
  return with_format(id, [&](auto f) { return f.accepts(layer); });
}
inline std::optional<format_refusal> accepts(checkpoint_format id, packed_view const& packed) {
  return with_format(id, [&](auto f) { return f.accepts(packed); });
}

/// The tensors of a layer in the order of writing.
inline std::vector<tensor_outline> layout(checkpoint_format id, layer_outline const& layer) {
  return with_format(id, [&](auto f) { return f.layout(layer); });
}

/// Writes the tensors of a layer in a format; codes and scales stay as they are, to the bit. `writer` has
/// add(name, dtype, shape, bytes), as checkpoint_writer does. Throws format_error naming the layer for what the format
/// can't say.
template <class Writer>
void write_quantized(Writer& writer, std::string const& name, packed_view const& p, checkpoint_format id) {
  tensor_sink const sink = [&](tensor_outline const& t, std::span<std::byte const> bytes) {
    writer.add(t.name, t.type, t.shape, bytes);
  };
  with_format(id, [&](auto f) { f.write(sink, name, p); });
}

}  // namespace v0
}  // namespace gptq
