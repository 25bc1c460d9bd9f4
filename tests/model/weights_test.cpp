#include "support/model.hpp"

#include <gptq/core/float16.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

using gptq::index_t;
using gptq::matrix;
using gptq::model_weights;

namespace {

std::string refusal(test::tiny_model const& model) {
  test::temp_dir const dir;
  auto const path = model.write(dir);
  return test::message_of([&] { model_weights const weights(path); });
}

std::vector<float> values_of(test::raw_tensor const& t) {
  std::vector<float> values(t.bytes.size() / 4);
  std::memcpy(values.data(), t.bytes.data(), t.bytes.size());
  return values;
}

void check_equal(gptq::matrix_view<float const> m, std::vector<float> const& expected) {
  REQUIRE(m.size() == static_cast<index_t>(expected.size()));
  for (index_t r = 0; r < m.rows; ++r)
    for (index_t c = 0; c < m.cols; ++c) CHECK(m(r, c) == expected[static_cast<std::size_t>(r * m.cols + c)]);
}

/// Replaces the weight of a layer [out × 16] by 4-bit codes in one group; returns the weight that they stand for.
std::vector<float> quantize(test::tiny_model& model, std::string const& layer, std::int64_t out) {
  auto const n = static_cast<std::size_t>(out);
  std::vector<std::uint32_t> words(2 * n);
  std::vector<std::uint32_t> zeros(n / 8);
  std::mt19937 random(3);
  for (auto& w : words) w = static_cast<std::uint32_t>(random());
  for (auto& z : zeros) z = static_cast<std::uint32_t>(random()) & 0x77777777u;
  std::vector<std::uint16_t> scales;
  for (std::size_t i = 0; i < n; ++i) scales.push_back(gptq::to_float16(0.01f * float(i + 1)).bits);
  std::vector<float> weight;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t k = 0; k < 16; ++k) {
      auto const code = words[k / 8 * n + i] >> (4 * (k % 8)) & 15u;
      auto const zero = (zeros[i / 8] >> (4 * (i % 8)) & 15u) + 1;
      weight.push_back(gptq::to_float(gptq::float16{scales[i]}) * (float(code) - float(zero)));
    }
  model.remove(layer + ".weight");
  model.tensors.push_back({layer + ".qweight", "I32", {2, out}, test::bytes_of(words)});
  model.tensors.push_back({layer + ".qzeros", "I32", {1, out / 8}, test::bytes_of(zeros)});
  model.tensors.push_back({layer + ".scales", "F16", {1, out}, test::bytes_of(scales)});
  model.tensors.push_back({layer + ".g_idx", "I32", {16}, test::bytes_of(std::vector<std::int32_t>(16, 0))});
  model.config["quantization_config"] = {
      {"quant_method", "gptq"}, {"bits", 4}, {"group_size", -1}, {"sym", false}, {"desc_act", false}};
  return weight;
}

}  // namespace

TEST_CASE("weights: the linears of a group are stacked, with their biases beside") {
  test::temp_dir const dir;
  test::tiny_model model;
  model_weights const weights(model.write(dir));
  CHECK(weights.unexpected().empty());
  CHECK_FALSE(weights.tied());
  CHECK_FALSE(weights.quantized());
  std::string const block = "model.layers.1.self_attn.";
  auto const w = weights.group_weight(weights.layer(1).groups[0]);
  REQUIRE(w.rows() == 32);
  REQUIRE(w.cols() == 16);
  check_equal(w.view().row_range(0, 16), values_of(model.at(block + "q_proj.weight")));
  check_equal(w.view().row_range(16, 8), values_of(model.at(block + "k_proj.weight")));
  check_equal(w.view().row_range(24, 8), values_of(model.at(block + "v_proj.weight")));
  auto const bias = weights.group_bias(weights.layer(1).groups[0]);
  REQUIRE(bias.cols() == 32);
  check_equal(bias.view().col_range(16, 8), values_of(model.at(block + "k_proj.bias")));
  CHECK(weights.group_bias(weights.layer(1).groups[1]).size() == 0);
  check_equal(weights.embedding(), values_of(model.at("model.embed_tokens.weight")));
  check_equal(weights.head(), values_of(model.at("lm_head.weight")));
  check_equal(weights.final_norm(), values_of(model.at("model.norm.weight")));

  gptq::host_forward b;
  auto const loaded = gptq::load_layer(b, weights, 1);
  CHECK(loaded.number == 1);
  REQUIRE(loaded.tensors.size() == 2);
  CHECK(loaded.groups[0].linears[2].name == "model.layers.1.self_attn.v_proj");
  CHECK(loaded.groups[0].linears[2].first_row == 24);
  check_equal(loaded.groups[3].weight, values_of(model.at("model.layers.1.mlp.down_proj.weight")));
  check_equal(loaded.tensors[1], values_of(model.at("model.layers.1.post_attention_layernorm.weight")));
}

TEST_CASE("weights: the head is tied by what is stored, then by the key") {
  test::temp_dir const dir;
  test::tiny_model model;
  auto const embedding = values_of(model.at("model.embed_tokens.weight"));
  auto const head = values_of(model.at("lm_head.weight"));
  SECTION("no head, whatever the key says") {
    model.remove("lm_head.weight");
    model.config["tie_word_embeddings"] = GENERATE(false, true);
    model_weights const weights(model.write(dir));
    CHECK(weights.tied());
    check_equal(weights.head(), embedding);
  }
  SECTION("both stored and the key true: the embedding") {
    model.config["tie_word_embeddings"] = true;
    model_weights const weights(model.write(dir));
    CHECK(weights.tied());
    CHECK(weights.unexpected().empty());
    check_equal(weights.head(), embedding);
  }
  SECTION("no embedding and the key true: the head") {
    model.remove("model.embed_tokens.weight");
    model.config["tie_word_embeddings"] = true;
    model_weights const weights(model.write(dir));
    CHECK(weights.tied());
    check_equal(weights.embedding(), head);
  }
  SECTION("no embedding and no word that they are the same") {
    model.remove("model.embed_tokens.weight");
    CHECK_THAT(refusal(model), test::contains("model.embed_tokens.weight") && test::contains("missing"));
  }
}

TEST_CASE("weights: the files may say that the embedding is stored as the head") {
  GPTQ_REQUIRE_SHARED("models/tinystories-656k-llama");
  auto const path = test::shared_dir() / "models/tinystories-656k-llama";
  gptq::model_config config = gptq::read_model_config(path);
  config.tied = false;  // only the metadata are left
  model_weights const weights(path, config);
  CHECK(weights.tied());
  CHECK(weights.embedding().rows() == 2048);
}

TEST_CASE("weights: names may lack the root") {
  test::temp_dir const dir;
  test::tiny_model model;
  for (auto& t : model.tensors)
    if (t.name.starts_with("model.")) t.name.erase(0, 6);
  model_weights const weights(model.write(dir));
  CHECK(weights.layer(0).groups[3].linears.front().name == "layers.0.mlp.down_proj");
  CHECK(weights.unexpected().empty());
}

TEST_CASE("weights: 16-bit types are read exactly, and types may be mixed") {
  test::temp_dir const dir;
  test::tiny_model model;
  auto& t = model.at("model.layers.0.mlp.down_proj.weight");
  bool const half = GENERATE(false, true);
  std::vector<float> expected;
  std::vector<std::uint16_t> bits;
  for (float const v : values_of(t)) {
    bits.push_back(half ? gptq::to_float16(v).bits : gptq::to_bfloat16(v).bits);
    expected.push_back(half ? gptq::to_float(gptq::to_float16(v)) : gptq::to_float(gptq::to_bfloat16(v)));
  }
  t.dtype = half ? "F16" : "BF16";
  t.bytes = test::bytes_of(bits);
  model_weights const weights(model.write(dir));
  check_equal(weights.group_weight(weights.layer(0).groups[3]), expected);
}

TEST_CASE("weights: what is missing is listed") {
  test::tiny_model model;
  SECTION("some tensors") {
    model.remove("model.layers.1.self_attn.k_proj.bias");
    model.remove("model.norm.weight");
    std::string const message = refusal(model);
    CHECK_THAT(message, test::contains("model.layers.1.self_attn.k_proj.bias") && test::contains("model.norm.weight"));
    CHECK(message.find("q_proj") == std::string::npos);
  }
  SECTION("hundreds") {
    model.config["num_hidden_layers"] = 100;
    CHECK_THAT(refusal(model), test::contains("model.layers.2.input_layernorm.weight") && test::contains("more"));
  }
}

TEST_CASE("weights: a wrong shape or type is named") {
  test::tiny_model model;
  SECTION("a shape that disagrees with config.json") {
    model.config["intermediate_size"] = 25;
    CHECK_THAT(refusal(model),
               test::contains("mlp.gate_proj.weight") && test::contains("[25, 16]") && test::contains("[24, 16]"));
  }
  SECTION("a transposed weight") {
    model.at("model.layers.1.mlp.up_proj.weight").shape = {16, 24};
    CHECK_THAT(refusal(model), test::contains("layers.1.mlp.up_proj.weight"));
  }
  SECTION("a norm of two dimensions") {
    model.at("model.norm.weight").shape = {1, 16};
    CHECK_THAT(refusal(model), test::contains("model.norm.weight"));
  }
  SECTION("integers") {
    model.at("model.layers.0.self_attn.o_proj.weight").dtype = "I32";
    CHECK_THAT(refusal(model), test::contains("o_proj.weight") && test::contains("I32"));
  }
}

TEST_CASE("weights: NaN and Inf are found where they are") {
  test::temp_dir const dir;
  test::tiny_model model;
  float const bad = GENERATE(std::numeric_limits<float>::infinity(), std::nanf(""));
  auto const spoil = [&](std::string const& name, std::size_t at) {
    auto values = values_of(model.at(name));
    values[at] = bad;
    model.at(name).bytes = test::bytes_of(values);
  };
  SECTION("in a weight") {
    spoil("model.layers.1.mlp.down_proj.weight", 24 * 3 + 5);
    model_weights const weights(model.write(dir));
    gptq::host_forward b;
    CHECK_NOTHROW(gptq::load_layer(b, weights, 0));
    CHECK_THAT(test::message_of<gptq::numeric_error>([&] { gptq::load_layer(b, weights, 1); }),
               test::contains("model.layers.1.mlp.down_proj.weight") && test::contains("row 3, column 5"));
  }
  SECTION("in a bias, a norm, the embedding") {
    std::string const name = GENERATE("model.layers.0.self_attn.v_proj.bias", "model.layers.0.input_layernorm.weight",
                                      "model.embed_tokens.weight");
    spoil(name, 7);
    model_weights const weights(model.write(dir));
    gptq::host_forward b;
    CHECK_THAT(test::message_of<gptq::numeric_error>([&] {
                 (void)weights.embedding();
                 gptq::load_layer(b, weights, 0);
               }),
               test::contains(name));
  }
}

TEST_CASE("weights: tensors without a place are listed, tables of old checkpoints are not") {
  test::temp_dir const dir;
  test::tiny_model model;
  model.add("model.layers.0.self_attn.rotary_emb.inv_freq", {4});
  model.add("model.layers.0.self_attn.o_proj.bias", {16});
  model.add("score.weight", {2, 16});
  model.add("model.layers.2.mlp.up_proj.weight", {24, 16});
  model_weights const weights(model.write(dir));
  CHECK(weights.unexpected() == std::vector<std::string>{"model.layers.0.self_attn.o_proj.bias", "score.weight",
                                                         "model.layers.2.mlp.up_proj.weight"});
}

TEST_CASE("weights: a family that is not supported is refused before weights are looked at") {
  test::temp_dir const dir;
  dir.write("model/config.json", R"({"model_type": "mamba"})");
  dir.write("model/model.safetensors", "not a safetensors file");
  CHECK_THAT(test::message_of([&] { model_weights const weights(dir / "model"); }), test::contains("mamba"));
}

TEST_CASE("weights: quantized layers are dequantized into their rows") {
  test::temp_dir const dir;
  test::tiny_model model;
  auto const k = quantize(model, "model.layers.0.self_attn.k_proj", 8);
  auto const o = quantize(model, "model.layers.0.self_attn.o_proj", 16);
  auto const head = quantize(model, "lm_head", 32);
  model_weights const weights(model.write(dir));
  REQUIRE(weights.quantized());
  CHECK(weights.quantized()->modules().size() == 3);
  CHECK(weights.unexpected().empty());
  CHECK_FALSE(weights.tied());
  auto const qkv = weights.group_weight(weights.layer(0).groups[0]);
  check_equal(qkv.view().row_range(0, 16), values_of(model.at("model.layers.0.self_attn.q_proj.weight")));
  check_equal(qkv.view().row_range(16, 8), k);
  check_equal(weights.group_weight(weights.layer(0).groups[1]), o);
  check_equal(weights.head(), head);
  check_equal(weights.group_bias(weights.layer(0).groups[0]).view().col_range(16, 8),
              values_of(model.at("model.layers.0.self_attn.k_proj.bias")));
}

TEST_CASE("weights: a symmetric layer whose zero points are left out has those of its grid") {
  test::temp_dir const dir;
  std::string const layer = "model.layers.0.self_attn.o_proj";
  test::tiny_model model;
  quantize(model, layer, 16);
  model.config["quantization_config"]["sym"] = true;
  model.at(layer + ".qzeros").bytes = test::bytes_of(std::vector<std::uint32_t>(2, 0x77777777));
  auto const output_of = [](model_weights const& w) { return w.group_weight(w.layer(0).groups[1]); };
  auto const full = output_of(model_weights(model.write(dir)));
  model.remove(layer + ".qzeros");
  model_weights const weights(model.write(dir));
  check_equal(output_of(weights), {full.data(), full.data() + full.size()});
  CHECK(weights.unexpected().empty());
  auto const o = weights.layer(0).groups[1].linears.front();
  REQUIRE(weights.packed(o));
  check_equal(gptq::dequantize(*weights.packed(o)), {full.data(), full.data() + full.size()});
}

TEST_CASE("weights: a quantized layer may have a bias of zeros that its family does not know") {
  test::temp_dir const dir;
  test::tiny_model model;
  std::string const layer = "model.layers.0.self_attn.o_proj";
  quantize(model, layer, 16);
  std::vector<float> bias(16, 0);
  SECTION("zero") {
    model.tensors.push_back({layer + ".bias", "F32", {16}, test::bytes_of(bias)});
    model_weights const weights(model.write(dir));
    CHECK(weights.unexpected().empty());
    CHECK(weights.group_bias(weights.layer(0).groups[1]).size() == 0);
  }
  SECTION("not zero") {
    bias[9] = 0.5f;
    model.tensors.push_back({layer + ".bias", "F32", {16}, test::bytes_of(bias)});
    CHECK_THAT(refusal(model), test::contains(layer + ".bias") && test::contains("not zero"));
  }
}

TEST_CASE("weights: a quantized layer of another size than config.json says is named") {
  test::tiny_model model;
  model.config["num_attention_heads"] = 4;
  model.config["head_dim"] = 8;
  for (auto const* const block : {"model.layers.0.", "model.layers.1."})
    for (auto const* const name : {"self_attn.q_proj.weight", "self_attn.q_proj.bias", "self_attn.o_proj.weight"})
      model.remove(std::string(block) + name);
  for (std::string const block : {"model.layers.0.", "model.layers.1."}) {
    model.add(block + "self_attn.q_proj.weight", {32, 16});
    model.add(block + "self_attn.q_proj.bias", {32});
    model.add(block + "self_attn.o_proj.weight", {16, 32});
  }
  quantize(model, "model.layers.1.self_attn.o_proj", 16);
  CHECK_THAT(refusal(model), test::contains("model.layers.1.self_attn.o_proj") && test::contains("16 x 16") &&
                                 test::contains("16 x 32"));
}
