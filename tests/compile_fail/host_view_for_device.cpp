// must say: (cannot convert|could not convert|no viable conversion|no known conversion|no matching function)
#include <gptq/core/matrix.hpp>

struct device_space {};
gptq::index_t rows_on_device(gptq::matrix_view<float const, device_space> m) { return m.rows; }

gptq::index_t rows(gptq::matrix<float>& m) {
#ifdef WRONG
  return rows_on_device(m.view());
#else
  return rows_on_device({m.data(), m.rows(), m.cols()});
#endif
}
