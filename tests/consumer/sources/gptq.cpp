// The vocabulary alone: no dependency.
#include <gptq/core/spec.hpp>
#include <gptq/version.hpp>

int main() {
  static_assert(gptq::valid_bits(gptq::w4g128.bits));
  return gptq::group_count(256, gptq::w4g128.group_size) == 2 && GPTQ_VERSION[0] == '0' ? 0 : 1;
}
