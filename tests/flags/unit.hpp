/// One unit of a program whose units were compiled with different flags: what it is given and what it answers, in types
/// that all units share.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/core/quantized_linear.hpp>

namespace test {

struct unit_result {
  bool openmp = false;         ///< as the unit's own flags say …
  bool whole_numbers = false;  ///< likewise: products in whole numbers
  int threads = 0;             ///< … and as the functions and constants say that it was linked with
  bool linked_whole_numbers = false;
  double loss = 0;                                      ///< relative, as the report says
  gptq::quantized_linear linear;                        ///< of the weights
  gptq::matrix<float> weight, product, packed_product;  ///< dequantized; of the inputs with it, and with its codes
};

using unit = unit_result(gptq::matrix<float> const& weight, gptq::matrix<float> const& inputs);

}  // namespace test

#define GPTQ_TEST_UNIT(name) \
  namespace name {           \
  test::unit run;            \
  }
GPTQ_TEST_UNIT(baseline_serial)
GPTQ_TEST_UNIT(baseline_openmp)
GPTQ_TEST_UNIT(avx2_openmp)
GPTQ_TEST_UNIT(avx512_serial)
GPTQ_TEST_UNIT(avx512vnni_openmp)
