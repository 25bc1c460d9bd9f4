// must say: gptq: bits must be 2, 3, 4 or 8
#include <gptq/core/spec.hpp>

#ifdef WRONG
constexpr gptq::quant_spec spec{.bits = 5};
#else
constexpr gptq::quant_spec spec{.bits = 8};
#endif

static_assert(gptq::checked_spec<spec>::value == spec);
