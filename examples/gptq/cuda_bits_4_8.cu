#include "cuda_kernels.cuh"

APP_COLUMN_PASS(, 4)
APP_COLUMN_PASS(, 8)
