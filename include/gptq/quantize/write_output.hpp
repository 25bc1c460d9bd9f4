/// The tensors of a result as they are written: those that stay in float, and those of a layer that was quantized.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/float16.hpp>
#include <gptq/core/matrix.hpp>
#include <gptq/format/formats.hpp>
#include <gptq/io/reader.hpp>
#include <gptq/io/tensor.hpp>
#include <gptq/io/writer.hpp>
#include <gptq/pack/packed_linear.hpp>
#include <gptq/quantize/check_values.hpp>
#include <gptq/quantize/job.hpp>

#include <cmath>
#include <cstddef>
#include <set>
#include <span>
#include <string>

namespace gptq {
inline namespace v0 {
namespace detail {

template <class T>
std::span<std::byte const> bytes_of(matrix<T> const& m) {
  return {reinterpret_cast<std::byte const*>(m.data()), static_cast<std::size_t>(m.size()) * sizeof(T)};
}

/// A tensor converted to float16, or numeric_error if a value does not fit.
inline matrix<float16> as_float16(tensor_view const& t) {
  matrix<float16> out(1, t.size());
  for_each_piece(t, [&](index_t first, std::span<float const> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      float16 const half = to_float16(values[i]);
      if (std::isinf(to_float(half)))
        throw numeric_error(tensor_place(t) + std::to_string(values[i]) + " does not fit float16");
      out.data()[first + static_cast<index_t>(i)] = half;
    }
  });
  return out;
}

/// Everything but the weights of the layers to quantize and their biases, which come with the codes.
inline void write_float_tensors(checkpoint_writer& writer, job const& j) {
  std::set<std::string> const later = replaced_tensors(j.plan());
  for (std::string const& name : j.weights().reader().names()) {
    if (later.count(name)) continue;
    tensor_view const& t = j.weights().reader().at(name);
    if (kept_type(t.type, j.asked()) == t.type)
      writer.add(t);
    else
      writer.add(t.name, dtype::f16, t.shape, bytes_of(as_float16(t)));
  }
}

/// The tensors of one quantized layer; its bias, if the model stores one, as float16.
inline void write_linear(checkpoint_writer& writer, checkpoint_reader const& reader, std::string const& name,
                         packed_linear const& p) {
  write_quantized(writer, name, view(p), p.format);
  if (tensor_view const* const bias = reader.find(name + ".bias"))
    writer.add(bias->name, dtype::f16, bias->shape, bytes_of(as_float16(*bias)));
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
