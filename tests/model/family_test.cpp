#include "support/catch.hpp"
#include "support/shared.hpp"

#include <gptq/io/json.hpp>
#include <gptq/model/config.hpp>
#include <gptq/model/names.hpp>

#include <set>
#include <string>
#include <vector>

namespace {

gptq::model_config config_of(char const* family, bool attention_bias = false, bool mlp_bias = false) {
  gptq::model_config c;
  c.family = gptq::find_family(family);
  REQUIRE(c.family);
  c.hidden = 12;
  c.mlp = 20;
  c.blocks = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 5;
  c.attention_bias = attention_bias;
  c.mlp_bias = mlp_bias;
  return c;
}

}  // namespace

TEST_CASE("family: the names and shapes of a stage, in the order of its outputs") {
  gptq::model_names const names(config_of("qwen2"), "model.");
  auto const qkv = names.linears(2, gptq::attention_stage);
  REQUIRE(qkv.size() == 3);
  CHECK(qkv[0].name == "model.layers.2.self_attn.q_proj");
  CHECK(qkv[1].name == "model.layers.2.self_attn.k_proj");
  CHECK(qkv[2].name == "model.layers.2.self_attn.v_proj");
  CHECK(qkv[0].rows == 20);
  CHECK(qkv[1].first_row == 20);
  CHECK(qkv[1].rows == 10);
  CHECK(qkv[2].first_row == 30);
  CHECK(qkv[2].inputs == 12);
  auto const o = names.linears(0, gptq::context_stage);
  REQUIRE(o.size() == 1);
  CHECK(o[0].name == "model.layers.0.self_attn.o_proj");
  CHECK(o[0].rows == 12);
  CHECK(o[0].inputs == 20);
  CHECK(names.linears(0, gptq::gate_up_stage).size() == 2);
  CHECK(names.linears(0, gptq::down_stage).front().inputs == 20);
  CHECK(names.embedding() == "model.embed_tokens.weight");
  CHECK(names.final_norm() == "model.norm.weight");
  CHECK(names.head() == "lm_head.weight");
  CHECK(names.norm(1, gptq::attention_norm) == "model.layers.1.input_layernorm.weight");
  CHECK(names.norm(1, gptq::mlp_norm) == "model.layers.1.post_attention_layernorm.weight");
}

TEST_CASE("family: heads lie where the layers of the attention stage put them") {
  auto const layout = [](char const* family) {
    auto const s = config_of(family).attention();
    return std::vector<gptq::index_t>{s.query.first, s.query.stride, s.key.first,
                                      s.key.stride,  s.value.first,  s.value.stride};
  };
  using heads = std::vector<gptq::index_t>;  // 4 heads of 5, 2 of them with keys and values
  CHECK(layout("llama") == heads{0, 5, 20, 5, 30, 5});
  CHECK(layout("phi3") == heads{0, 5, 20, 5, 30, 5});
  CHECK(layout("telechat") == heads{0, 5, 20, 10, 25, 10});
}

TEST_CASE("family: fused layers are one tensor") {
  gptq::model_names const phi(config_of("phi3"), "model.");
  REQUIRE(phi.linears(1, gptq::attention_stage).size() == 1);
  CHECK(phi.linears(1, gptq::attention_stage).front().name == "model.layers.1.self_attn.qkv_proj");
  CHECK(phi.linears(1, gptq::attention_stage).front().rows == 40);
  CHECK(phi.linears(1, gptq::gate_up_stage).front().rows == 40);
  gptq::model_names const telechat(config_of("telechat"), "transformer.");
  auto const qkv = telechat.linears(2, gptq::attention_stage);
  REQUIRE(qkv.size() == 2);
  CHECK(qkv[1].name == "transformer.h.2.self_attention.key_value");
  CHECK(qkv[1].first_row == 20);
  CHECK(qkv[1].rows == 20);
  CHECK(telechat.embedding() == "transformer.word_embeddings.weight");
  CHECK(telechat.final_norm() == "transformer.ln_f.weight");
}

TEST_CASE("family: the names of TeleChat2 are those of the published index") {
  GPTQ_REQUIRE_SHARED("configs/TeleChat2-115B");
  auto const folder = test::shared_dir() / "configs/TeleChat2-115B";
  auto const config = gptq::read_model_config(folder);
  gptq::model_names const names(config, "transformer.");
  std::set<std::string> ours{names.embedding(), names.final_norm(), names.head()};
  for (gptq::index_t i = 0; i < config.blocks; ++i) {
    for (int n = 0; n < gptq::norm_count; ++n) ours.insert(names.norm(i, static_cast<gptq::block_norm>(n)));
    for (int s = 0; s < gptq::stage_count; ++s)
      for (auto const& l : names.linears(i, s)) {
        ours.insert(l.name + ".weight");
        if (l.has_bias) ours.insert(l.name + ".bias");
      }
  }
  ours.erase("");
  auto const index = gptq::read_json(folder / "model.safetensors.index.json");
  std::set<std::string> published;
  for (auto const& item : index.at("weight_map").items()) published.insert(item.key());
  CHECK(ours.size() == 963);
  CHECK(ours == published);
}

TEST_CASE("family: where biases are") {
  auto const biased = [](gptq::model_config const& c) {
    gptq::model_names const names(c, "");
    std::string found;
    for (int s = 0; s < gptq::stage_count; ++s)
      for (auto const& l : names.linears(0, s))
        if (l.has_bias) found += l.name.substr(l.name.rfind('.') + 1, 1);
    return found;
  };
  CHECK(biased(config_of("qwen2")) == "qkv");
  CHECK(biased(config_of("qwen2", true, true)) == "qkv");  // its configs have no such keys
  CHECK(biased(config_of("llama")).empty());
  CHECK(biased(config_of("llama", true)) == "qkvo");
  CHECK(biased(config_of("llama", false, true)) == "gud");
  CHECK(biased(config_of("mistral", true, true)).empty());
  CHECK(biased(config_of("qwen3")).empty());
  CHECK(biased(config_of("qwen3", true, true)) == "qkvo");
  CHECK(biased(config_of("gemma2")).empty());
  CHECK(biased(config_of("phi3", true, true)).empty());
  CHECK(biased(config_of("telechat")) == "dd");  // dense and down_proj
}

TEST_CASE("family: lookup by model_type") {
  CHECK(gptq::find_family("qwen2")->model_type == "qwen2");
  CHECK_FALSE(gptq::find_family("qwen"));
  CHECK_FALSE(gptq::find_family(""));
  CHECK(gptq::supported_families() == "gemma2, llama, mistral, phi3, qwen2, qwen3, telechat");
}

TEST_CASE("family: tables and masks of old checkpoints are no weights") {
  CHECK(gptq::model_names::is_no_weight("model.layers.0.self_attn.rotary_emb.inv_freq"));
  CHECK(gptq::model_names::is_no_weight("h.0.attn.masked_bias"));
  CHECK_FALSE(gptq::model_names::is_no_weight("model.layers.0.self_attn.q_proj.bias"));
}
