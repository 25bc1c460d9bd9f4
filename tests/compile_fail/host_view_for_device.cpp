// must say: (cannot convert|could not convert|no viable conversion|no known conversion|no matching function)
#include <gptq/core/matrix.hpp>

template <gptq::memory_space Space>
gptq::index_t rows(gptq::matrix_view<float const, Space> m) {
  return m.rows;
}

gptq::index_t rows_on_device(gptq::matrix<float>& m) {
#ifdef WRONG
  gptq::matrix_view<float, gptq::memory_space::device> view = m.view();
#else
  gptq::matrix_view<float, gptq::memory_space::device> view{m.data(), m.rows(), m.cols()};
#endif
  return rows<gptq::memory_space::device>(view);
}
