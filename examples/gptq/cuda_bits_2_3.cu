#include "cuda_kernels.cuh"

APP_COLUMN_PASS(, 2)
APP_COLUMN_PASS(, 3)
