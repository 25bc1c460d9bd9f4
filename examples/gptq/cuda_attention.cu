#include "cuda_kernels.cuh"

APP_FUSED_ATTENTION(, gptq::float16)
APP_FUSED_ATTENTION(, gptq::bfloat16)
