// accuracy_rounding <model> <output> <options of gptq quantize>: the model rounded to nearest, as a checkpoint. It is GPTQ with
// the identity for a Hessian, so that grids and their search are those of the app.
#include "quantize_options.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/quantize/pipeline.hpp>

#include <CLI/CLI.hpp>

#include <exception>
#include <iostream>

namespace {

struct rounding_backend : gptq::host_model_backend {
  template <class T>
  void add_gram(gptq::matrix_view<T const> x, gptq::matrix_view<float> gram, bool fresh) {
    if (fresh) fill(gram, 0.0f);
    for (gptq::index_t j = 0; j < x.cols; ++j) gram(j, j) += 1.0f;
  }
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App command("Rounds a model folder to nearest");
  app::quantize_arguments a;
  app::add_options(command, a);
  command.get_option("--calibration")->required(false);
  CLI11_PARSE(command, argc, argv);
  try {
    rounding_backend backend;
    gptq::quantize_model(backend, a.model, a.output, {{0, 1}}, app::resolve(a));
  } catch (std::exception const& e) {
    std::cerr << e.what() << '\n';
    return 1;
  }
}
