/// The one macro that the vocabulary needs: marks a function that device code may call too.
#pragma once

#if defined(__CUDACC__)
#define GPTQ_HD __host__ __device__
#else
#define GPTQ_HD
#endif
