// must say: gptq: group_size must be -1, or at least 16 and a divisor or a multiple of 128
#include <gptq/core/spec.hpp>

#ifdef WRONG
constexpr gptq::quant_spec spec{.group_size = 192};
#else
constexpr gptq::quant_spec spec{.group_size = 256};
#endif

static_assert(gptq::checked_spec<spec>::value == spec);
