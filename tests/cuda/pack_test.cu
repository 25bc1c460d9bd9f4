/// Packing on the device gives the tensors that packing on the host gives, and fails where that fails.
#include "support/catch.hpp"
#include "support/random_linear.hpp"

#include <gptq/backend/cuda.cuh>
#include <gptq/gptq.hpp>
#include <gptq/pack/dequantize.hpp>

#include <algorithm>
#include <cstdint>

namespace {

using gptq::checkpoint_format;
using gptq::index_t;

gptq::device_linear to_device(gptq::cuda_backend& b, gptq::quantized_linear const& q) {
  gptq::device_linear d;
  d.spec = q.spec;
  d.g_idx = q.g_idx;
  d.codes = b.make<std::uint8_t>(q.codes.rows(), q.codes.cols());
  d.scales = b.make<float>(q.scales.rows(), q.scales.cols());
  d.zeros = b.make<std::uint8_t>(q.zeros.rows(), q.zeros.cols());
  b.upload(q.codes.view(), d.codes.view());
  b.upload(q.scales.view(), d.scales.view());
  b.upload(q.zeros.view(), d.zeros.view());
  return d;
}

template <class T>
bool equal(gptq::matrix<T> const& a, gptq::matrix<T> const& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && std::equal(a.data(), a.data() + a.size(), b.data());
}

}  // namespace

TEST_CASE("cuda pack: the tensors of the host, and the way back") {
  gptq::cuda_backend b;
  for (int bits : {2, 3, 4, 8})
    for (auto [in, out] : {std::pair<index_t, index_t>{256, 96}, {172, 37}, {33, 5}, {1, 1}, {100, 300}})
      for (int g : {-1, 16, 128})
        for (auto order : {gptq::column_order::natural, gptq::column_order::desc_act})
          for (auto format : {checkpoint_format::gptq, checkpoint_format::gptq_v2}) {
            CAPTURE(bits, in, out, g, static_cast<int>(order), static_cast<int>(format));
            gptq::quant_spec const spec{.bits = bits, .group_size = g, .sym = false, .order = order};
            auto q = test::random_linear(in, out, spec, format == checkpoint_format::gptq ? 1 : 0);
            for (index_t i = 0; i < q.scales.size(); ++i) q.scales.data()[i] *= 0.1f;  // not float16's any more
            auto const d = to_device(b, q);
            index_t const first = out / 3;
            auto const host = gptq::pack(q, format, first, out - first);
            auto const device = gptq::pack(b, d, format, first, out - first);
            CHECK(equal(host.qweight, device.qweight));
            CHECK(equal(host.qzeros, device.qzeros));
            CHECK(equal(host.scales, device.scales));
            CHECK(host.g_idx == device.g_idx);

            auto const back = gptq::unpack(b, host);
            gptq::matrix<std::uint8_t> codes(in, out - first);
            b.download(back.codes, codes.view());
            bool same = true;
            for (index_t k = 0; k < in; ++k)
              for (index_t n = 0; n < codes.cols(); ++n) same &= codes(k, n) == q.codes(k, first + n);
            CHECK(same);

            auto const weights = gptq::dequantize(b, back);
            gptq::matrix<float> on_host(weights.rows(), weights.cols());
            b.download(weights, on_host.view());
            CHECK(equal(gptq::dequantize(host), on_host));
          }
}

TEST_CASE("cuda pack: a zero point that version 1 can't hold, a scale that float16 can't") {
  gptq::cuda_backend b;
  gptq::quant_spec const spec{.bits = 4, .group_size = 32};
  auto q = test::random_linear(64, 8, spec, 1);
  q.zeros(1, 3) = 0;
  CHECK_THROWS_WITH(gptq::pack(b, to_device(b, q), checkpoint_format::gptq), test::contains("group 1, output 3"));
  CHECK_NOTHROW(gptq::pack(b, to_device(b, q), checkpoint_format::gptq_v2));
  for (float bad : {0.0f, -1.0f, 1e6f, 1e-9f}) {
    q.scales(0, 5) = bad;
    CHECK_THROWS_AS(gptq::pack(b, to_device(b, q), checkpoint_format::gptq_v2), gptq::numeric_error);
  }
}
