// must say: gptq: static_groups needs a group_size other than -1 and an order other than group_aware
#include <gptq/core/spec.hpp>

#ifdef WRONG
constexpr gptq::quant_spec spec{.group_size = -1, .static_groups = true};
#else
constexpr gptq::quant_spec spec{.group_size = 128, .static_groups = true};
#endif

static_assert(gptq::checked_spec<spec>::value == spec);
