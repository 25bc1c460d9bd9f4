/// The accuracy row of CI: the bundled model quantized as a user would, judged on text it was not calibrated on.
#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/quantize/pipeline.hpp>
#include <gptq/run/evaluate.hpp>
#include <gptq/text/calibration.hpp>
#include <gptq/text/tokenizer.hpp>

#include <fstream>
#include <iterator>

namespace {

/// A broken twin: scales in the file are 5 % too large.
class wrong_scales : public gptq::host_model_backend {
 public:
  gptq::packed_linear pack(gptq::quantized_linear const& linear, gptq::checkpoint_format format, gptq::index_t first,
                           gptq::index_t count, gptq::matrix_view<float> weight) {
    auto packed = host_model_backend::pack(linear, format, first, count, weight);
    for (gptq::index_t i = 0; i < packed.scales.size(); ++i)
      packed.scales.data()[i] = gptq::to_float16(1.05f * gptq::to_float(packed.scales.data()[i]));
    return packed;
  }
};

template <class Backend>
gptq::evaluation quantized_bard(gptq::recipe const& asked, gptq::run_options const& options = {}) {
  auto const model = test::bundled_model();
  auto const tokenizer = gptq::tokenizer::from_file(model / "tokenizer.json");
  auto const set = gptq::read_lines(model / "calibration.txt", tokenizer, {.samples = 48, .sequence_length = 512});
  test::temp_dir const dir;
  Backend b;
  auto const report = gptq::quantize_model(b, model, dir / "out", set.samples, asked, options);
  CHECK(report.linears.size() == 28);
  CHECK(report.fallbacks() == 0);
  for (auto const& l : report.linears) CHECK(l.report.rel_loss < l.report.rel_loss_rtn);

  std::ifstream file(model / "evaluation.txt");
  std::string const text{std::istreambuf_iterator<char>(file), {}};
  auto ids = tokenizer.encode(text);
  ids.resize(8192);
  gptq::model_weights const reference(model), quantized(dir / "out");
  gptq::host_model_backend judge;
  return gptq::evaluate(judge, quantized, ids, {}, &reference);
}

}  // namespace

TEST_CASE("pipeline: 4 bits of the bundled model diverge less than a peer's, and a broken twin more", "[slow]") {
  // GPTQModel 7.7.0 reaches a divergence of 0.0277 on this text with min-max ranges (all 96 calibration lines).
  constexpr double bound = 0.0277;
  CHECK(*quantized_bard<gptq::host_model_backend>({}).kl < bound);
  CHECK(*quantized_bard<wrong_scales>({}).kl > bound);
}

TEST_CASE("pipeline: every group at once instead of one after the other gives a model as well", "[slow]") {
  gptq::recipe asked;
  asked.true_sequential = false;
  asked.spec.sym = false;
  asked.format = gptq::checkpoint_format::gptq_v2;
  gptq::run_options options;
  options.memory.keep_bytes = 0;  // the inputs of the last group are computed twice
  CHECK(*quantized_bard<gptq::host_model_backend>(asked, options).kl < 0.0277);
}
