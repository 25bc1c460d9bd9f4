/// The library but for backends, models and text: vocabulary, algorithm, packing. Add one backend:
/// <gptq/backend/host.hpp>, or <gptq/backend/cuda.cuh> in a .cu file.
#pragma once

#include <gptq/core/quantized_linear.hpp>
#include <gptq/quant/quantize.hpp>
#include <gptq/version.hpp>
