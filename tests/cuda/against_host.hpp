/// One solve on any backend, with the Gram matrix and the order given; the result on the host.
#pragma once

#include "support/synthetic.hpp"

#include <gptq/gptq.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace test {

using gptq::index_t;

/// Solves with the Gram matrix and the order given.
template <class B>
gptq::quantized_linear solve_given(layer const& l, gptq::quant_spec const& spec, gptq::quantize_options const& options,
                                   std::span<std::int32_t const> order, std::vector<std::int32_t>* used = nullptr) {
  B b;
  index_t const in = l.x.cols();
  gptq::hessian<B> h(b, in);
  gptq::matrix<float> gram(in, in);
  for (index_t r = 0; r < in; ++r)
    for (index_t c = 0; c < in; ++c)
      gram(r, c) = static_cast<float>(l.gram[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)]);
  b.upload(gptq::matrix_view<float const>(gram.view()), gptq::view_of<B, float>(h.gram()));
  h.set_counts(l.x.rows(), 1);
  auto const f = gptq::factorize(b, h, spec, options, gptq::precision::native, order);
  if (used) *used = f.host_order;
  auto w = b.template make<float>(l.w.rows(), in);
  b.upload(l.w.view(), gptq::view_of<B, float>(w));
  gptq::view_of<B, float const> const weights = w;
  auto const solved = gptq::quantize_stack(b, weights, f, spec, options).linear;
  gptq::quantized_linear q;
  q.spec = spec.format();
  q.g_idx = solved.g_idx;
  q.report = solved.report;
  q.codes = gptq::matrix<std::uint8_t>(solved.codes.rows(), solved.codes.cols());
  q.scales = gptq::matrix<float>(solved.scales.rows(), solved.scales.cols());
  q.zeros = gptq::matrix<std::uint8_t>(solved.zeros.rows(), solved.zeros.cols());
  b.download(gptq::view_of<B, std::uint8_t const>(solved.codes), q.codes.view());
  b.download(gptq::view_of<B, float const>(solved.scales), q.scales.view());
  b.download(gptq::view_of<B, std::uint8_t const>(solved.zeros), q.zeros.view());
  return q;
}

gptq::quantized_linear solve_on_device(layer const& l, gptq::quant_spec const& spec,
                                       gptq::quantize_options const& options, std::span<std::int32_t const> order);

}  // namespace test
