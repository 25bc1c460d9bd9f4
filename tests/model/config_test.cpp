#include "support/model.hpp"

#include <gptq/model/config.hpp>
#include <gptq/model/decoder_layer.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using Catch::Matchers::WithinRel;
using gptq::index_t;
using gptq::json;

namespace {

gptq::model_config parse(json const& config) { return gptq::read_model_config(config, "folder/config.json"); }

std::string refusal(json const& config) {
  std::string const message = test::message_of([&] { parse(config); });
  CHECK_THAT(message, test::contains("folder/config.json"));
  return message;
}

json valid() { return test::tiny_model().config; }

json with(char const* key, json value) {
  json config = valid();
  config[key] = std::move(value);
  return config;
}

}  // namespace

TEST_CASE("config: the spelling of transformers 4") {
  GPTQ_REQUIRE_SHARED("configs");
  auto const c = gptq::read_model_config(test::shared_dir() / "configs/Qwen2-7B-Instruct");
  CHECK(c.family->model_type == "qwen2");
  CHECK(c.hidden == 3584);
  CHECK(c.mlp == 18944);
  CHECK(c.blocks == 28);
  CHECK(c.heads == 28);
  CHECK(c.kv_heads == 4);
  CHECK(c.head_dim == 128);
  CHECK(c.vocabulary == 152064);
  CHECK(c.max_positions == 32768);
  CHECK(c.norm_eps == 1e-6f);
  CHECK(c.activation == gptq::activation_function::silu);
  CHECK_FALSE(c.tied);
  CHECK(c.rope.type == gptq::rope_type::none);
  CHECK(c.rope.theta == 1e6);
  CHECK(c.rope.dim == 128);
  CHECK(c.windows == std::vector<index_t>(28, 0));
  auto const layer = gptq::decoder_layer(c, "", 0);
  CHECK(layer.groups[0].outputs() == 3584 + 2 * 512);
  CHECK(layer.groups[2].outputs() == 2 * 18944);
  CHECK(layer.groups[3].inputs() == 18944);
}

TEST_CASE("config: the spelling of transformers 5") {
  auto const c = gptq::read_model_config(test::bundled_model());
  CHECK(c.rope.theta == 1e6);
  CHECK(c.rope.type == gptq::rope_type::none);
  CHECK(c.tied);
  CHECK(c.head_dim == 32);
  CHECK(c.windows == std::vector<index_t>(4, 0));
}

TEST_CASE("config: published configs of the supported families") {
  GPTQ_REQUIRE_SHARED("configs");
  auto const folder = test::shared_dir() / "configs";
  auto const llama = gptq::read_model_config(folder / "Llama-3.2-1B-Instruct");
  CHECK(llama.rope.type == gptq::rope_type::llama3);
  CHECK(llama.rope.factor == 32);
  CHECK(llama.rope.low_frequency == 1);
  CHECK(llama.rope.high_frequency == 4);
  CHECK(llama.rope.original_positions == 8192);
  CHECK(llama.tied);
  CHECK(gptq::read_model_config(folder / "Llama-3-8B").rope.theta == 5e5);
  CHECK(gptq::read_model_config(folder / "Mistral-7B-v0.3").kv_heads == 8);
  // A window that is set, and switched off beside it.
  CHECK(gptq::read_model_config(folder / "Qwen2-0.5B").windows == std::vector<index_t>(24, 0));
}

TEST_CASE("config: a family that is not supported is refused by name, with those that are") {
  GPTQ_REQUIRE_SHARED("configs");
  std::string const message =
      test::message_of([] { gptq::read_model_config(test::shared_dir() / "configs/pythia-410m"); });
  CHECK_THAT(message, test::contains("gpt_neox") && test::contains("llama, mistral, phi3, qwen2") &&
                          test::contains("pythia-410m") && test::contains("model_type"));
}

TEST_CASE("config: head_dim and the number of key/value heads have defaults and may be null") {
  json config = valid();
  CHECK(parse(config).head_dim == 8);
  config["head_dim"] = nullptr;
  config["num_key_value_heads"] = nullptr;
  CHECK(parse(config).head_dim == 8);
  CHECK(parse(config).kv_heads == 2);
  config["head_dim"] = 20;
  CHECK(parse(config).head_dim == 20);
  CHECK(gptq::decoder_layer(parse(config), "", 0).groups[1].inputs() == 40);
  config.erase("num_key_value_heads");
  CHECK(parse(config).kv_heads == 2);
}

TEST_CASE("config: rotary scaling in all spellings") {
  json config = valid();
  SECTION("rope_scaling with type") { config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}}; }
  SECTION("rope_scaling with rope_type") { config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4}}; }
  SECTION("both") { config["rope_scaling"] = {{"type", "linear"}, {"rope_type", "linear"}, {"factor", 4.0}}; }
  SECTION("rope_parameters, which wins") {
    config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 10000.0}};
    config["rope_theta"] = 77.0;
    config["rope_scaling"] = {{"type", "yarn"}};
  }
  SECTION("rope_parameters for each kind of attention") {
    json const one = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 10000.0}};
    config["rope_parameters"] = {{"full_attention", one}, {"sliding_attention", one}};
  }
  auto const c = parse(config);
  CHECK(c.rope.type == gptq::rope_type::linear);
  CHECK(c.rope.factor == 4);
  CHECK(c.rope.theta == 10000);
}

TEST_CASE("config: rotary settings that are absent or default scale nothing") {
  json config = valid();
  SECTION("null") { config["rope_scaling"] = nullptr; }
  SECTION("default") { config["rope_scaling"] = {{"rope_type", "default"}}; }
  SECTION("an empty object") { config["rope_parameters"] = json::object(); }
  SECTION("no key at all") { config.erase("rope_theta"); }
  CHECK(parse(config).rope.type == gptq::rope_type::none);
  CHECK(parse(config).rope.theta == 10000);
}

TEST_CASE("config: part of a head may be rotated, in the family where all engines do so") {
  auto const part = [](double factor) {
    json config = with("partial_rotary_factor", factor);
    config["model_type"] = "phi3";
    return config;
  };
  CHECK(parse(part(0.5)).rope.dim == 4);
  CHECK_THAT(refusal(part(0.125)), test::contains("partial_rotary_factor"));
  CHECK_THAT(refusal(with("partial_rotary_factor", 0.5)),
             test::contains("\"partial_rotary_factor\" is not supported in this family"));
  CHECK(parse(with("partial_rotary_factor", 1)).rope.dim == 8);
}

TEST_CASE("config: sliding windows") {
  json config = valid();
  config["num_hidden_layers"] = 4;
  config["sliding_window"] = 100;
  using windows = std::vector<index_t>;
  SECTION("Llama has none") {
    config["model_type"] = "llama";
    CHECK(parse(config).windows == windows{0, 0, 0, 0});
  }
  SECTION("Mistral's is on every block") {
    config["model_type"] = "mistral";
    CHECK(parse(config).windows == windows{100, 100, 100, 100});
    config["sliding_window"] = nullptr;
    CHECK(parse(config).windows == windows{0, 0, 0, 0});
  }
  SECTION("Qwen2's needs its flag and begins at max_window_layers") {
    CHECK(parse(config).windows == windows{0, 0, 0, 0});
    config["use_sliding_window"] = true;
    CHECK(parse(config).windows == windows{100, 100, 100, 100});
    config["max_window_layers"] = 3;
    CHECK(parse(config).windows == windows{0, 0, 0, 100});
    config["max_window_layers"] = 28;
    CHECK(parse(config).windows == windows{0, 0, 0, 0});
  }
  SECTION("layer_types says which") {
    config["use_sliding_window"] = true;
    config["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "sliding_attention"};
    CHECK(parse(config).windows == windows{0, 100, 0, 100});
    config["layer_types"][2] = "linear_attention";
    CHECK_THAT(refusal(config), test::contains("layer_types") && test::contains("linear_attention"));
    config["layer_types"] = {"full_attention"};
    CHECK_THAT(refusal(config), test::contains("layer_types"));
  }
  SECTION("absurd ones are refused") {
    config["model_type"] = "mistral";
    config["sliding_window"] = GENERATE(0, -5);
    CHECK_THAT(refusal(config), test::contains("sliding_window"));
  }
}

TEST_CASE("config: activations") {
  using gptq::activation_function;
  CHECK(parse(with("hidden_act", "gelu_pytorch_tanh")).activation == activation_function::gelu_tanh);
  CHECK(parse(with("hidden_act", "gelu_new")).activation == activation_function::gelu_tanh);
  CHECK(parse(with("hidden_act", "gelu")).activation == activation_function::gelu_erf);
  CHECK_THAT(refusal(with("hidden_act", "relu6")), test::contains("hidden_act") && test::contains("relu6"));
}

TEST_CASE("config: missing, ill-typed and absurd keys are named") {
  SECTION("missing") {
    std::string const key = GENERATE("model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
                                     "num_attention_heads", "vocab_size", "rms_norm_eps", "hidden_act");
    json config = valid();
    config.erase(key);
    CHECK_THAT(refusal(config), test::contains(key) && test::contains("missing"));
  }
  SECTION("of another type") {
    std::string const key =
        GENERATE("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps", "rope_theta", "hidden_act",
                 "tie_word_embeddings", "attention_bias", "mlp_bias", "rope_scaling", "rope_parameters");
    json config = valid();
    config[key] = json::array({1});
    CHECK_THAT(refusal(config), test::contains(key));
  }
  SECTION("no size") {
    std::string const key = GENERATE("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                     "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings");
    json config = valid();
    config[key] = GENERATE(json(0), json(-1), json(1.5), json(1e30), json(std::numeric_limits<std::int64_t>::max()),
                           json(std::numeric_limits<std::uint64_t>::max()));
    CHECK_THAT(refusal(config), test::contains(key));
  }
  SECTION("no number") {
    std::string const key = GENERATE("rms_norm_eps", "rope_theta");
    json config = valid();
    config[key] = GENERATE(json(0.0), json(-1.0), json(1e300));
    CHECK_THAT(refusal(config), test::contains(key));
  }
  SECTION("heads that do not fit together") {
    CHECK_THAT(refusal(with("num_attention_heads", 3)), test::contains("num_attention_heads"));
    json config = with("num_attention_heads", 4);
    config["num_key_value_heads"] = 3;
    CHECK_THAT(refusal(config), test::contains("num_key_value_heads"));
    config = with("num_attention_heads", 16384);
    config["head_dim"] = 16384;
    CHECK_THAT(refusal(config), test::contains("num_attention_heads"));
    CHECK_THAT(refusal(with("head_dim", 7)), test::contains("head_dim"));
  }
  SECTION("no object") { CHECK_THROWS_AS(parse(json::array()), gptq::format_error); }
}

TEST_CASE("config: rotary settings that can't be served are named") {
  json config = valid();
  SECTION("an unknown rule") {
    config["rope_scaling"] = {{"rope_type", "spiral"}, {"factor", 4.0}};
    CHECK_THAT(refusal(config), test::contains("rope_type") && test::contains("spiral") && test::contains("llama3"));
  }
  SECTION("no factor") {
    config["rope_scaling"] = {{"type", GENERATE("linear", "dynamic", "llama3")}};
    CHECK_THAT(refusal(config), test::contains("factor"));
  }
  SECTION("an absurd factor") {
    config["rope_scaling"] = {{"type", "linear"}, {"factor", GENERATE(0.0, -1.0, 0.5, 1e30)}};
    CHECK_THAT(refusal(config), test::contains("factor"));
  }
  SECTION("dynamic without a length") {
    config.erase("max_position_embeddings");
    config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
    CHECK_THAT(refusal(config), test::contains("max_position_embeddings"));
  }
  SECTION("llama3 with its bounds exchanged") {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 4.0},
                              {"high_freq_factor", 1.0},
                              {"original_max_position_embeddings", 8192}};
    CHECK_THAT(refusal(config), test::contains("low_freq_factor"));
  }
  SECTION("bases that differ between kinds of attention") {
    config["rope_parameters"] = {{"full_attention", {{"rope_theta", 1e6}}},
                                 {"sliding_attention", {{"rope_theta", 1e4}}}};
    CHECK_THAT(refusal(config), test::contains("rope_parameters"));
  }
}

TEST_CASE("config: yarn and longrope settings") {
  json config = valid();
  SECTION("yarn scales cosines and sines by what its factor implies, unless told") {
    config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}};
    auto const c = parse(config);
    CHECK(c.rope.type == gptq::rope_type::yarn);
    CHECK(c.rope.original_positions == 32);
    CHECK(c.rope.high_frequency == 32);
    CHECK(c.rope.low_frequency == 1);
    CHECK(c.rope.whole_pairs);
    CHECK_THAT(c.rope.scale, WithinRel(0.1 * std::log(4.0) + 1, 1e-12));
    config["rope_scaling"]["attention_factor"] = 1.25;
    CHECK(parse(config).rope.scale == 1.25);
    config["rope_scaling"]["attention_factor"] = nullptr;
    config["rope_scaling"]["mscale"] = 1.0;
    config["rope_scaling"]["mscale_all_dim"] = 1.0;
    CHECK(parse(config).rope.scale == 1);
  }
  SECTION("yarn without an original length takes max_position_embeddings") {
    config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
    CHECK(parse(config).rope.original_positions == 64);
  }
  SECTION("longrope by its names, old and new") {
    config["model_type"] = "phi3";
    config["original_max_position_embeddings"] = 16;
    std::string const name = GENERATE("longrope", "su", "yarn");
    json const factors = {1.0, 2.0, 3.0, 4.0};
    config["rope_scaling"] = {{"type", name}, {"short_factor", factors}, {"long_factor", factors}};
    auto const c = parse(config);
    CHECK(c.rope.type == gptq::rope_type::longrope);
    CHECK(c.rope.original_positions == 16);
    CHECK(c.rope.factor == 4);
    CHECK_THAT(c.rope.scale, WithinRel(std::sqrt(1 + std::log(4.0) / std::log(16.0)), 1e-12));
    CHECK(c.rope.long_factors == std::vector<double>{1, 2, 3, 4});
  }
  SECTION("longrope with lists that are no lists of numbers for each pair") {
    json const factors = {1.0, 2.0, 3.0, 4.0};
    config["rope_scaling"] = {
        {"type", "longrope"}, {"factor", 4.0}, {"short_factor", factors}, {"long_factor", factors}};
    config["rope_scaling"]["long_factor"] =
        GENERATE(json(1.0), json::array({1.0, 2.0}), json::array({1.0, 2.0, 3.0, 0.0}), json::array({1, 2, 3, "4"}));
    CHECK_THAT(refusal(config), test::contains("long_factor"));
  }
}

TEST_CASE("config: TeleChat2 in its own spelling and in the usual one") {
  json config = json::parse(R"({"model_type": "telechat", "hidden_size": 16, "ffn_hidden_size": 24, "n_layer": 2,
    "n_head": 2, "num_key_value_heads": null, "vocab_size": 32, "layer_norm_epsilon": 1e-5, "base_seqlen": 8192,
    "training_seqlen": 32768})");
  SECTION("its own") {}
  SECTION("the usual") {
    for (auto const& [own, usual] :
         {std::pair{"ffn_hidden_size", "intermediate_size"}, std::pair{"n_layer", "num_hidden_layers"},
          std::pair{"n_head", "num_attention_heads"}, std::pair{"layer_norm_epsilon", "rms_norm_eps"}}) {
      config[usual] = config[own];
      config.erase(own);
    }
    config["hidden_act"] = "silu";
    config["num_key_value_heads"] = 2;
  }
  auto const c = parse(config);
  CHECK(c.mlp == 24);
  CHECK(c.blocks == 2);
  CHECK(c.heads == 2);
  CHECK(c.kv_heads == 2);
  CHECK(c.head_dim == 8);
  CHECK(c.norm_eps == 1e-5f);
  CHECK(c.max_positions == 32768);
  CHECK(c.activation == gptq::activation_function::silu);
  CHECK(c.rope.type == gptq::rope_type::telechat);
  CHECK(c.rope.original_positions == 8192);
  CHECK(c.rope.trained_positions == 32768);
  CHECK(c.rope.theta == 10000);

  config.erase("base_seqlen");
  CHECK_THAT(refusal(config), test::contains("base_seqlen"));
  config.erase("training_seqlen");
  CHECK(parse(config).rope.type == gptq::rope_type::none);
}

TEST_CASE("config: what only some families have") {
  json config = valid();
  config["attn_logit_softcapping"] = 10.0;
  config["query_pre_attn_scalar"] = 4;
  CHECK(parse(config).score_softcap == 0);
  CHECK(parse(config).embedding_scale == 1);
  CHECK_THAT(parse(config).score_scale, WithinRel(1 / std::sqrt(8.0f), 1e-6f));
  config["model_type"] = "gemma2";
  config["sliding_window"] = 9;
  auto const c = parse(config);
  CHECK(c.score_softcap == 10);
  CHECK(c.logit_softcap == 30);
  CHECK(c.score_scale == 0.5f);
  CHECK(c.embedding_scale == 4);
  CHECK(c.windows == std::vector<index_t>{9, 0});
  config["final_logit_softcapping"] = nullptr;
  CHECK(parse(config).logit_softcap == 0);
  config.erase("tie_word_embeddings");
  CHECK(parse(config).tied);
  config["use_bidirectional_attention"] = true;
  CHECK_THAT(refusal(config), test::contains("use_bidirectional_attention"));
}
