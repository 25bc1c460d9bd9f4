/// The library but for backends, models and text: vocabulary, algorithm, packing and dequantizing. Add one backend,
/// <gptq/backend/host.hpp>, or <gptq/backend/cuda.cuh> in a .cu file:
///
///     gptq::host_backend backend;
///     auto const packed = gptq::pack(gptq::quantize<gptq::w4g128>(backend, weight, hessian), gptq::checkpoint_format::gptq);
#pragma once

#include <gptq/core/quantized_linear.hpp>
#include <gptq/pack/dequantize.hpp>
#include <gptq/pack/pack.hpp>
#include <gptq/quant/cholesky_inverse.hpp>
#include <gptq/quant/quantize.hpp>
#include <gptq/version.hpp>
