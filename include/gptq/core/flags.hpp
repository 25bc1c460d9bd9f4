/// GPTQ_FLAGS, the name of the inline namespace that holds what the compiler's flags decide: the vector instructions of
/// products from packed codes, and the host backend. Units compiled with different flags may so be linked into one
/// program: each keeps its own code, and what they share (views, matrices, layers) is the same in all. docs/library.md
/// says what that covers.
///
/// A class or function template belongs into that namespace if its text, or that of something it calls, depends on
/// _OPENMP, on a macro of an instruction set, or on a library of which that is true (Eigen).
#pragma once

#define GPTQ_JOIN_EXPANDED(a, b) a##_##b
#define GPTQ_JOIN(a, b) GPTQ_JOIN_EXPANDED(a, b)

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#define GPTQ_VECTORS avx512vnni
#elif defined(__AVX512F__)
#define GPTQ_VECTORS avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define GPTQ_VECTORS avx2
#elif defined(__AVX__)
#define GPTQ_VECTORS avx
#else
#define GPTQ_VECTORS baseline
#endif

#if !defined(GPTQ_FLAGS)  // a test gives one name to all, to see that it fails
#if defined(_OPENMP)
#define GPTQ_FLAGS GPTQ_JOIN(GPTQ_VECTORS, openmp)
#else
#define GPTQ_FLAGS GPTQ_JOIN(GPTQ_VECTORS, serial)
#endif
#endif
