/// Whole folders of every family, quantized, read back and judged; TeleChat2 in both of its spellings.
#include "support/model.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/engines/inspect.hpp>
#include <gptq/model/as_llama.hpp>
#include <gptq/quantize/pipeline.hpp>
#include <gptq/run/evaluate.hpp>

#include <set>
#include <string>
#include <vector>

namespace {

using gptq::index_t;

gptq::recipe small_groups() {
  gptq::recipe options;
  options.spec.group_size = 32;
  return options;
}

/// How many layers a float folder has, and how it is quantized on the ids of its golden file.
gptq::pipeline_report quantized(std::filesystem::path const& model, std::filesystem::path const& out,
                                gptq::recipe const& options) {
  gptq::host_model_backend b;
  auto samples = test::golden(model / "golden.safetensors").ids;
  for (auto& more : test::random_samples({96, 50, 70}, 512, 3)) samples.push_back(std::move(more));
  return gptq::quantize_model(b, model, out, samples, options);
}

/// KL from the float model, on ids that it was not calibrated on.
double divergence(gptq::model_weights const& weights, gptq::model_weights const& reference) {
  gptq::host_model_backend b;
  gptq::evaluation_options options;
  options.context = 96;
  auto const ids = test::random_samples({96 * 4}, 512, 11).front();
  return *gptq::evaluate(b, weights, ids, options, &reference).kl;
}

double perplexity(gptq::model_weights const& weights) {
  gptq::host_model_backend b;
  gptq::evaluation_options options;
  options.context = 96;
  auto const ids = test::random_samples({96 * 4}, 512, 12).front();
  return gptq::evaluate(b, weights, ids, options).perplexity;
}

std::filesystem::path telechat() { return test::shared_dir() / "models/web-telechat2-9m"; }

/// A copy of it with other settings.
std::filesystem::path telechat_with(test::temp_dir const& dir, std::string const& key, gptq::json const& value) {
  std::filesystem::copy(telechat(), dir / "telechat");
  auto config = gptq::read_json(telechat() / "config.json");
  config[key] = value;
  dir.write("telechat/config.json", config.dump());
  return dir / "telechat";
}

/// Quantizes a float folder to 4 and to 8 bits and compares.
void check_quantized(std::filesystem::path const& model, std::size_t linears) {
  test::temp_dir const dir;
  auto options = small_groups();
  auto const report = quantized(model, dir / "w4", options);
  CHECK(report.linears.size() == linears);
  CHECK(report.fallbacks() == 0);
  for (auto const& l : report.linears) {
    CAPTURE(l.name);
    CHECK(l.report.rel_loss < l.report.rel_loss_rtn);
  }
  CHECK(gptq::inspect(dir / "w4").problems.empty());
  gptq::model_weights const reference(model), w4(dir / "w4");
  CHECK(w4.unexpected().empty());
  options.spec.bits = 8;
  quantized(model, dir / "w8", options);
  double const four = divergence(w4, reference);
  double const eight = divergence(gptq::model_weights(dir / "w8"), reference);
  CHECK(four < 0.5);
  CHECK(eight < four / 20);
}

}  // namespace

TEST_CASE("families: a quantized folder of each is read back, close to the float model and better than rounding") {
  struct row {
    char const* folder;
    std::size_t linears;
  };
  auto const r = GENERATE(row{"models-tiny/gemma2", 21}, row{"models-tiny/phi3", 12},
                          row{"models-tiny/phi3-longrope", 12}, row{"models-tiny/qwen2-yarn", 21},
                          row{"models-tiny/mistral-sliding", 21}, row{"models-tiny/llama-linear-rope", 21});
  GPTQ_REQUIRE_SHARED(r.folder);
  CAPTURE(r.folder);
  check_quantized(test::shared_dir() / r.folder, r.linears);
}

TEST_CASE("families: a quantized Qwen3 is read back, close to the float model and better than rounding", "[slow]") {
  GPTQ_REQUIRE_SHARED("models/web-qwen3-8m");
  check_quantized(test::shared_dir() / "models/web-qwen3-8m", 42);
}

TEST_CASE("families: TeleChat2 keeps query and key_value in float unless told, and says so to every reader", "[slow]") {
  GPTQ_REQUIRE_SHARED("models/web-telechat2-9m");
  test::temp_dir const dir;
  auto options = small_groups();
  auto const report = quantized(telechat(), dir / "out", options);
  CHECK(report.linears.size() == 24);
  CHECK(report.kept_float.size() == 12);
  CHECK(report.fallbacks() == 0);
  bool told = false;
  for (auto const& w : report.warnings) told = told || w.text.find("vLLM") != std::string::npos;
  CHECK(told);
  auto const config = gptq::read_json(dir / "out/config.json").at("quantization_config");
  CHECK(config.at("modules_in_block_to_quantize").dump() ==
        R"([["self_attention.dense","self_attn.o_proj"],["mlp.gate_proj","mlp.up_proj"],["mlp.down_proj"]])");
  CHECK(config.at("dynamic").dump() ==
        R"({"-:.*\\.self_attn\\.qkv_proj$":{},"-:.*\\.self_attention\\.(query|key_value)$":{}})");
  CHECK(gptq::read_json(dir / "out/quantize_config.json") == config);
  CHECK(gptq::inspect(dir / "out").problems.empty());
  gptq::model_weights const partial(dir / "out"), reference(telechat());
  CHECK(partial.unexpected().empty());
  CHECK(partial.reader().contains("transformer.h.5.self_attention.key_value.weight"));
  CHECK(partial.reader().contains("transformer.h.5.self_attention.dense.qweight"));

  options.all_layers = true;
  auto const all = quantized(telechat(), dir / "all", options);
  CHECK(all.linears.size() == 36);
  CHECK(all.kept_float.empty());
  CHECK(gptq::inspect(dir / "all").problems.empty());
  auto const declared = gptq::read_json(dir / "all/config.json").at("quantization_config");
  CHECK_FALSE(declared.contains("dynamic"));
  CHECK_FALSE(declared.contains("modules_in_block_to_quantize"));
  double const some = divergence(partial, reference);
  double const every = divergence(gptq::model_weights(dir / "all"), reference);
  CHECK(some < every);
  CHECK(every < 0.5);
}

TEST_CASE("families: TeleChat2 as Llama computes the same in float, with its base scaled too") {
  GPTQ_REQUIRE_SHARED("models/web-telechat2-9m");
  index_t const trained = GENERATE(8192, 32768);
  test::temp_dir const dir;
  auto const model = telechat_with(dir, "training_seqlen", trained);
  gptq::model_weights const native(model);
  gptq::model_weights const llama(gptq::as_llama(gptq::checkpoint_reader(model)));
  CHECK(llama.unexpected().empty());
  CHECK(llama.config().family->model_type == "llama");
  CHECK(llama.config().max_positions == trained);
  CHECK_THAT(llama.config().rope.theta,
             Catch::Matchers::WithinRel(trained == 8192 ? 1e4 : 1e4 * std::pow(7.0, 64.0 / 62), 1e-14));
  CHECK_THAT(perplexity(llama), Catch::Matchers::WithinRel(perplexity(native), 1e-6));
  CHECK(divergence(llama, native) < 1e-9);
  if (trained == 32768) {
    gptq::host_forward b;
    CHECK(test::golden_error(b, llama, test::golden(telechat() / "golden_ntk.safetensors")) <= test::golden_bound);
  }
}

TEST_CASE("families: TeleChat2 quantized as Llama has all layers and all biases, and no code of its own", "[slow]") {
  GPTQ_REQUIRE_SHARED("models/web-telechat2-9m");
  test::temp_dir const dir;
  auto options = small_groups();
  options.as_llama = true;
  auto const report = quantized(telechat(), dir / "out", options);
  CHECK(report.linears.size() == 42);
  CHECK(report.kept_float.empty());
  auto const config = gptq::read_json(dir / "out/config.json");
  CHECK(config.at("architectures").dump() == R"(["LlamaForCausalLM"])");
  CHECK(config.at("attention_bias") == true);
  CHECK(config.at("mlp_bias") == true);
  CHECK(config.at("num_key_value_heads") == 4);
  CHECK_FALSE(config.contains("auto_map"));
  CHECK_FALSE(config.at("quantization_config").contains("dynamic"));
  CHECK(gptq::inspect(dir / "out").problems.empty());
  gptq::model_weights const llama(dir / "out");
  CHECK(llama.unexpected().empty());
  for (char const* const layer : {"self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"})
    CHECK(llama.reader().contains("model.layers.3." + std::string(layer) + ".bias"));

  options.as_llama = false;
  options.all_layers = true;
  quantized(telechat(), dir / "native", options);
  gptq::model_weights const native(dir / "native");
  gptq::model_weights const reference(telechat());
  CHECK_THAT(divergence(llama, reference), Catch::Matchers::WithinRel(divergence(native, reference), 0.2));
}

TEST_CASE("families: only TeleChat2 is rewritten as Llama, and only what Llama can compute") {
  test::temp_dir const dir;
  auto const model = test::tiny_model().write(dir);
  CHECK_THAT(test::message_of([&] { gptq::as_llama(gptq::checkpoint_reader(model)); }),
             test::contains("model_type") && test::contains("TeleChat2"));
  GPTQ_REQUIRE_SHARED("models/web-telechat2-9m");
  std::string const key = GENERATE("embed_layernorm", "apply_residual_connection_post_layernorm");
  auto const other = telechat_with(dir, key, true);
  CHECK_THAT(test::message_of([&] { gptq::as_llama(gptq::checkpoint_reader(other)); }),
             test::contains(key) && test::contains("Llama"));
}
