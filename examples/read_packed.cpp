// What an engine needs of a GPTQ layer: the tensors where they lie, and the weights that they mean.
#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/pack.hpp>

#include <cmath>
#include <cstdio>

int main() {
  gptq::index_t const in_features = 256, out_features = 64;
  // A layer to read: every weight of it is 0.5 · (code − 8), with codes that count up.
  gptq::quantized_linear made;
  made.spec = gptq::w4g128.format();
  made.codes = gptq::matrix<std::uint8_t>(in_features, out_features);
  made.scales = gptq::matrix<float>(2, out_features);
  made.zeros = gptq::matrix<std::uint8_t>(2, out_features);
  for (gptq::index_t i = 0; i < made.codes.size(); ++i) made.codes.data()[i] = static_cast<std::uint8_t>(i % 16);
  for (gptq::index_t i = 0; i < made.scales.size(); ++i) made.scales.data()[i] = 0.5f, made.zeros.data()[i] = 8;
  auto const file = gptq::pack(made, gptq::checkpoint_format::gptq);
  auto const bytes = [](auto const& m) { return reinterpret_cast<std::byte const*>(m.data()); };
  auto const *qweight = bytes(file.qweight), *qzeros = bytes(file.qzeros), *scales = bytes(file.scales);

  // [snippet
  gptq::packed_view layer;
  layer.spec = {.bits = 4, .group_size = 128};
  layer.format = gptq::checkpoint_format::gptq;  // or gptq_v2
  layer.in_features = in_features;
  layer.out_features = out_features;
  layer.groups = in_features / 128;
  layer.qweight = qweight;  // pointers into your file or buffer, at any alignment
  layer.qzeros = qzeros;
  layer.scales = scales;

  gptq::matrix<float> weight(16, in_features);
  gptq::dequantize(layer, 32, weight);  // outputs 32 … 47 in float, row by row
  // ]snippet

  std::printf("weight(32, 1) = %g\n", static_cast<double>(weight(0, 1)));
  for (gptq::index_t r = 0; r < weight.rows(); ++r)
    for (gptq::index_t k = 0; k < in_features; ++k)
      if (weight(r, k) != 0.5f * (static_cast<float>(made.codes(k, 32 + r)) - 8)) return 1;
  return 0;
}
