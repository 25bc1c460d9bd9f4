// Compiled once for each set of flags, with UNIT its name.
#include "unit.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/gptq.hpp>

test::unit_result UNIT::run(gptq::matrix<float> const& weight, gptq::matrix<float> const& inputs) {
  using gptq::index_t;
  test::unit_result r;
  int (*volatile const threads)() = gptq::detail::thread_count;  // what the linker took, not what was inlined
  bool const* volatile const whole = &gptq::matmul_path::whole_numbers;
#if defined(_OPENMP)
  r.openmp = true;
#endif
#if defined(__AVX512VNNI__)
  r.whole_numbers = true;
#endif
  r.threads = threads();
  r.linked_whole_numbers = *whole;

  gptq::host_model_backend b;
  gptq::hessian h{b, inputs.cols()};
  h.add(inputs);
  auto solved = gptq::quantize_stack(b, weight.view(), h, {.bits = 4, .group_size = 64});
  r.loss = solved.report(0, weight.rows()).rel_loss;
  r.weight = gptq::matrix<float>(weight.rows(), weight.cols());
  auto const packed = b.pack(solved.linear, gptq::checkpoint_format::gptq_v2, 0, weight.rows(), r.weight.view());
  r.product = gptq::matrix<float>(inputs.rows(), weight.rows());
  r.packed_product = gptq::matrix<float>(inputs.rows(), weight.rows());
  b.linear(inputs, r.weight, {}, r.product.view());
  b.linear(inputs, gptq::view(packed), {}, r.packed_product.view());
  r.linear = std::move(solved.linear);
  return r;
}
