#include "support/catch.hpp"
#include "support/shared.hpp"

#include <gptq/io/json.hpp>
#include <gptq/model/config.hpp>
#include <gptq/model/decoder_layer.hpp>
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

TEST_CASE("family: the names and shapes of a group, in the order of its outputs") {
  gptq::model_names const names(config_of("qwen2"), "model.");
  auto const layer = gptq::decoder_layer(config_of("qwen2"), names.block(2), 2);
  REQUIRE(layer.groups.size() == 4);
  auto const& qkv = layer.groups[0].linears;
  REQUIRE(qkv.size() == 3);
  CHECK(qkv[0].name == "model.layers.2.self_attn.q_proj");
  CHECK(qkv[1].name == "model.layers.2.self_attn.k_proj");
  CHECK(qkv[2].name == "model.layers.2.self_attn.v_proj");
  CHECK(qkv[0].rows == 20);
  CHECK(qkv[1].first_row == 20);
  CHECK(qkv[1].rows == 10);
  CHECK(qkv[2].first_row == 30);
  CHECK(qkv[2].inputs == 12);
  auto const& o = layer.groups[1].linears;
  REQUIRE(o.size() == 1);
  CHECK(o[0].name == "model.layers.2.self_attn.o_proj");
  CHECK(o[0].rows == 12);
  CHECK(o[0].inputs == 20);
  CHECK(layer.groups[2].linears.size() == 2);
  CHECK(layer.groups[3].inputs() == 20);
  CHECK(names.embedding() == "model.embed_tokens.weight");
  CHECK(names.final_norm() == "model.norm.weight");
  CHECK(names.head() == "lm_head.weight");
  REQUIRE(layer.tensors.size() == 2);
  CHECK(layer.tensors[0].name == "model.layers.2.input_layernorm.weight");
  CHECK(layer.tensors[1].name == "model.layers.2.post_attention_layernorm.weight");
}

TEST_CASE("family: heads lie where the projections put them") {
  auto const layout = [](char const* family) {
    auto const s = gptq::decoder_layer(config_of(family), "", 0).attention;
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
  auto const layer = gptq::decoder_layer(config_of("phi3"), phi.block(1), 1);
  REQUIRE(layer.groups[0].linears.size() == 1);
  CHECK(layer.groups[0].linears.front().name == "model.layers.1.self_attn.qkv_proj");
  CHECK(layer.groups[0].outputs() == 40);
  CHECK(layer.groups[2].outputs() == 40);
  gptq::model_names const telechat(config_of("telechat"), "transformer.");
  auto const other = gptq::decoder_layer(config_of("telechat"), telechat.block(2), 2);
  auto const& qkv = other.groups[0].linears;
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
    auto const layer = gptq::decoder_layer(config, names.block(i), i);
    for (auto const& t : layer.tensors) ours.insert(t.name);
    for (auto const& group : layer.groups)
      for (auto const& l : group.linears) {
        ours.insert(l.name + ".weight");
        if (l.has_bias) ours.insert(l.name + ".bias");
      }
  }
  auto const index = gptq::read_json(folder / "model.safetensors.index.json");
  std::set<std::string> published;
  for (auto const& item : index.at("weight_map").items()) published.insert(item.key());
  CHECK(ours.size() == 963);
  CHECK(ours == published);
}

TEST_CASE("family: where biases are") {
  auto const biased = [](gptq::model_config const& c) {
    std::string found;
    for (auto const& group : gptq::decoder_layer(c, "", 0).groups)
      for (auto const& l : group.linears)
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
