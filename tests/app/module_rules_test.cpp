// Rules for single layers: what they quantize, how the result declares it, and what is refused.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <gptq/format/quantization_config.hpp>

namespace {

using test::model_copy;
using test::run_well;

gptq::json settings_of(std::filesystem::path const& folder) { return gptq::read_json(folder / "quantize_config.json"); }

/// Name → "4 g128 sym", or "float", of the linear layers, as inspect finds them.
std::map<std::string, std::string> layers_of(std::filesystem::path const& folder) {
  std::map<std::string, std::string> out;
  auto const found = gptq::parse_json(run_well({"inspect", folder.string(), "--json"}).out, "stdout");
  for (auto const& m : found.at("modules")) {
    std::string const name = m.at("name");
    if (name.find("_proj") == std::string::npos && name != "lm_head") continue;
    out[name] = m.at("kind") == "float"
                    ? "float"
                    : m.at("bits").dump() + " g" + m.at("group_size").dump() +
                          (m.at("sym") == true ? " sym" : " asym") + (m.at("g_idx") == "scattered" ? " scattered" : "");
  }
  return out;
}

/// Gives the copy an output head of its own.
void untie(model_copy const& m) {
  m.edit_json("config.json", [](gptq::json& config) { config["tie_word_embeddings"] = false; });
  m.edit_weights([](test::tensor_file& f) {
    std::string const embedding = f.tensor("model.embed_tokens.weight");
    gptq::json entry = f.header.at("model.embed_tokens.weight");
    entry["data_offsets"] = {f.data.size(), f.data.size() + embedding.size()};
    f.header["lm_head.weight"] = entry;
    f.data += embedding;
  });
}

}  // namespace

TEST_CASE("rules: float, wider and differently grouped layers, declared for every reader", "[app]") {
  model_copy const m;
  run_well(m.small_run({"--skip", R"(.*layers\.0\.self_attn\.)", "--bits-for", ".*down_proj=8", "--dynamic",
                        R"json({"-:.*layers\\.[13]\\.mlp\\.(gate|up)": {},
                            "+:.*o_proj": {"group_size": 64, "desc_act": true}, ".*o_proj": {"bits": 2}})json"}));
  auto const layers = layers_of(m.output());
  CHECK(layers.at("model.layers.0.self_attn.q_proj") == "float");
  CHECK(layers.at("model.layers.0.self_attn.o_proj") == "float");
  CHECK(layers.at("model.layers.1.self_attn.q_proj") == "4 g128 sym");
  CHECK(layers.at("model.layers.1.self_attn.o_proj") == "4 g64 sym scattered");
  CHECK(layers.at("model.layers.1.mlp.gate_proj") == "float");
  CHECK(layers.at("model.layers.2.mlp.gate_proj") == "4 g128 sym");
  CHECK(layers.at("model.layers.0.mlp.down_proj") == "8 g128 sym");

  auto const settings = settings_of(m.output());
  std::vector<std::string> keys;
  for (auto const& item : settings.at("dynamic").items()) keys.push_back(item.key());
  CHECK(keys == std::vector<std::string>{R"(-:.*\.layers\.0\.self_attn\.(q_proj|k_proj|v_proj|qkv_proj)$)",
                                         R"(-:.*\.layers\.0\.self_attn\.o_proj$)",
                                         R"(-:.*\.layers\.(1|3)\.mlp\.(gate_proj|up_proj|gate_up_proj)$)",
                                         R"(+:.*\.layers\.\d+\.mlp\.down_proj(\.|$))",
                                         R"(+:.*\.layers\.(1|2|3)\.self_attn\.o_proj(\.|$))"});
  CHECK(settings.at("dynamic").at(keys.back()).dump() == R"({"group_size":64,"desc_act":true})");
  auto const& list = settings.at("modules_in_block_to_quantize").at(0);
  CHECK(list.size() == 28 - 4 - 4);
  CHECK(std::find(list.begin(), list.end(), "model.layers.0.mlp.down_proj") != list.end());
  CHECK(gptq::read_json(m.output() / "config.json").at("quantization_config") == settings);

  // The declaration says of each layer, under its own and its fused name, what the files hold.
  auto const config = gptq::parse_quantization_config(settings, "settings");
  for (auto const& [name, text] : layers) CHECK(config.settings_for(name).has_value() == (text != "float"));
  CHECK_FALSE(config.settings_for("model.layers.0.self_attn.qkv_proj").has_value());
  CHECK_FALSE(config.settings_for("model.layers.3.mlp.gate_up_proj").has_value());
  CHECK(config.settings_for("model.layers.2.mlp.gate_up_proj")->bits == 4);
  CHECK(config.settings_for("model.layers.2.mlp.down_proj.qweight")->bits == 8);
  CHECK_THAT(run_well({"perplexity", m.output().string(), "--text", (test::bundled_model() / "evaluation.txt").string(),
                       "--max-tokens", "1024"})
                 .out,
             test::contains("perplexity"));
}

TEST_CASE("rules: without any, nothing is declared", "[app]") {
  model_copy const m;
  run_well(m.small_run());
  auto const settings = settings_of(m.output());
  CHECK_FALSE(settings.contains("dynamic"));
  CHECK_FALSE(settings.contains("modules_in_block_to_quantize"));
}

TEST_CASE("rules: an asymmetric layer takes the whole file to format gptq_v2", "[app]") {
  model_copy const m;
  run_well(m.small_run({"--dynamic", R"({".*down_proj": {"sym": false}})"}));
  CHECK(settings_of(m.output()).at("checkpoint_format") == "gptq_v2");
  CHECK(layers_of(m.output()).at("model.layers.1.mlp.down_proj") == "4 g128 asym");
}

TEST_CASE("rules: shards of one fused layer must agree", "[app]") {
  model_copy const m;
  m.check_refused({"model.layers.0.self_attn.q_proj (4 bits", "model.layers.0.self_attn.k_proj (float)",
                   "self_attn.qkv_proj", "vLLM and SGLang"},
                  {"--skip", ".*k_proj"});
  m.check_refused({"model.layers.2.mlp.gate_proj (4 bits, group_size 128", "model.layers.2.mlp.up_proj (8 bits",
                   "mlp.gate_up_proj"},
                  {"--bits-for", R"(.*\.2\.mlp\.up_proj=8)"});
}

TEST_CASE("rules: what makes no sense is refused by name", "[app]") {
  model_copy const m;
  m.check_refused({"--bits-for", ".*q_proj"}, {"--bits-for", ".*q_proj"}, 2);
  m.check_refused({"bits must be 2, 3, 4 or 8, not 5", ".*down_proj"}, {"--bits-for", ".*down_proj=5"}, 2);
  m.check_refused({"--dynamic", "not valid JSON"}, {"--dynamic", "{\"-:a\": "}, 2);
  m.check_refused({"nothing.json"}, {"--dynamic", "nothing.json"});
  m.check_refused({"--dynamic", "object"}, {"--dynamic", (test::bundled_model() / "config.json").string()}, 2);
  m.check_refused({"\"mse\" is not supported"}, {"--dynamic", R"({".*": {"mse": 2.4}})"}, 2);
  m.check_refused({"\"bits\" must be an integer"}, {"--dynamic", R"({".*": {"bits": "8"}})"}, 2);
  m.check_refused({"pattern", "(q_proj"}, {"--skip", "(q_proj"}, 2);
  m.check_refused({"group_size must be"}, {"--dynamic", R"({".*": {"group_size": 48}})"}, 2);
  m.check_refused({"leave no layer to quantize"}, {"--skip", ".*"});
  m.check_refused({"given twice"}, {"--skip", "a", "--skip", "a"}, 2);
  m.check_refused({"model.layers.0.mlp.gate_proj", "group_size 256 does not divide the 128 inputs", "--group-size"},
                  {"--dynamic", R"json({".*(gate|up)_proj": {"group_size": 256}})json"});
}

TEST_CASE("rules: one that decides about nothing is warned of", "[app]") {
  model_copy const m;
  CHECK_THAT(run_well(m.small_run({"--skip", ".*experts"})).err, test::contains("-:.*experts"));
}

TEST_CASE("--lm-head quantizes a head of its own and refuses a tied one", "[app]") {
  model_copy const m;
  m.check_refused({"--lm-head", "tied"}, {"--lm-head"});
  untie(m);
  run_well(m.small_run(
      {"--lm-head", "--dynamic", R"({"+:lm_head": {"bits": 8}})", "--report", (m.folder() / "report.json").string()}));
  auto const layers = layers_of(m.output());
  CHECK(layers.at("lm_head") == "8 g128 sym");
  auto const settings = settings_of(m.output());
  CHECK(settings.at("lm_head") == true);
  CHECK(settings.at("dynamic").dump() == R"json({"+:lm_head(\\.|$)":{"bits":8}})json");
  auto const report = gptq::read_json(m.folder() / "report.json");
  auto const& head = report.at("linears").back();
  CHECK(head.at("name") == "lm_head");
  CHECK(head.at("rel_loss").get<double>() < 1e-3);
  auto const text = (test::bundled_model() / "evaluation.txt").string();
  auto const r = gptq::parse_json(run_well({"perplexity", m.output().string(), "--text", text, "--max-tokens", "4096",
                                            "--reference", m.model().string(), "--json"})
                                      .out,
                                  "stdout");
  CHECK(r.at("kl").get<double>() < 0.2);
}
