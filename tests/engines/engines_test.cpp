// The rules of the engines: one tiny folder for each that breaks it, and one that breaks none.
#include "support/catch.hpp"
#include "support/gptq_folder.hpp"
#include "support/temp_dir.hpp"

#include <gptq/engines/engines.hpp>

#include <map>
#include <set>

namespace {

using gptq::engine;
using gptq::verdict;
using test::gptq_folder;
using test::tiny_layer;

std::vector<gptq::engine_finding> findings(gptq_folder const& m, engine e, int tensor_parallel = 1) {
  test::temp_dir const dir;
  m.write(dir / "model");
  gptq::checkpoint_reader const reader(dir / "model");
  auto const found = gptq::inspect(reader);
  for (auto const& p : found.problems) INFO(to_string(p));
  gptq::served_model served = gptq::served(reader, found);
  served.tensor_parallel = tensor_parallel;
  return gptq::check_engine(served, e);
}

/// "V5:wrong numbers" of every rule that is broken.
std::set<std::string> broken(gptq_folder const& m, engine e, int tensor_parallel = 1) {
  std::set<std::string> ids;
  for (auto const& f : findings(m, e, tensor_parallel)) {
    ids.insert(f.rule + ":" + to_string(f.result));
    CHECK_FALSE(f.where.empty());
    CHECK_FALSE(f.what.empty());
    CHECK_FALSE(f.change.empty());
  }
  return ids;
}

using ids = std::set<std::string>;

gptq_folder with_spec(gptq::quant_spec spec, gptq::checkpoint_format format = gptq::checkpoint_format::gptq) {
  gptq_folder m;
  m.settings.base = {spec.format(), gptq::scattered_groups(spec)};
  m.settings.format = format;
  m.edit("", [&](tiny_layer& l) { l.spec = spec; });
  return m;
}

gptq_folder asym(gptq::checkpoint_format format, int zero) {
  gptq_folder m = with_spec({.sym = false}, format);
  m.edit("", [&](tiny_layer& l) { l.zero = zero; });
  return m;
}

/// One layer in float, without a word about it.
gptq_folder with_float(std::string const& end) {
  gptq_folder m;
  m.edit(end, [](tiny_layer& l) { l.quantized = false; });
  return m;
}

void declare_negative(gptq_folder& m, std::string const& pattern) {
  m.settings.dynamic.push_back({.key = "-:" + pattern,
                                .keep_float = true,
                                .bits = {},
                                .group_size = {},
                                .sym = {},
                                .desc_act = {},
                                .matcher = {}});
}

}  // namespace

TEST_CASE("engines: the profile that all of them load breaks no rule") {
  gptq_folder const m;
  for (char const* const name : gptq::engine_names) CHECK(broken(m, *gptq::find_engine(name)) == ids{});
}

TEST_CASE("engines: every rule has an engine, a condition and a way out, and ids are unique") {
  std::set<std::string_view> seen;
  gptq::for_each_engine_rule([&](gptq::engine_rule const& r) {
    CHECK(seen.insert(r.id).second);
    CHECK_FALSE(r.must_hold.empty());
    CHECK_FALSE(r.change.empty());
  });
  CHECK(seen.size() == 37);
}

TEST_CASE("engines: vllm") {
  constexpr auto e = engine::vllm;
  for (char const* const key : {"bits", "group_size", "desc_act", "sym"}) {
    if (std::string(key) == "bits") continue;  // without it nothing can be read
    gptq_folder m;
    m.without = {key};
    CHECK(broken(m, e) == ids{"V1:refused"});
  }
  CHECK(broken(with_spec({.bits = 3}), e) == ids{"V2:refused"});
  CHECK(broken(asym(gptq::checkpoint_format::gptq_v2, 3), e) == ids{"V2:refused"});
  CHECK(broken(asym(gptq::checkpoint_format::compressed_tensors, 3), e) == ids{});
  CHECK(broken(with_spec({.bits = 8}, gptq::checkpoint_format::compressed_tensors), e) == ids{});
  CHECK(broken(with_spec({.group_size = 16}), e) == ids{"V3:refused"});
  {
    gptq_folder m;
    m.edit("q_proj", [](tiny_layer& l) { l.inputs = 192; }).edit("k_proj", [](tiny_layer& l) { l.inputs = 192; });
    m.edit("v_proj", [](tiny_layer& l) { l.inputs = 192; });
    CHECK(broken(m, e) == ids{"V5:refused", "V6:degraded"});
  }
  {
    gptq_folder m;
    m.edit("down_proj", [](tiny_layer& l) { l.inputs = 192; });
    CHECK(broken(m, e) == ids{"V5:wrong numbers", "V6:degraded"});
  }
  CHECK(broken(gptq_folder(), e, 2) == ids{"V5:refused", "V6:degraded"});  // o and down: 64 inputs, groups of 128
  CHECK(broken(with_spec({.group_size = 32}), e, 2) == ids{"V6:degraded"});
  CHECK(broken(gptq_folder(), e, 3).count("V5:refused") == 1);
  {
    gptq_folder m;
    m.edit("o_proj", [](tiny_layer& l) { l.outputs = 72; });
    CHECK(broken(m, e) == ids{"V6:degraded"});
  }
  CHECK(broken(with_float("v_proj"), e) == ids{"V7:refused"});
  CHECK(broken(with_float("o_proj"), e) == ids{});
  {
    gptq_folder m;
    m.edit("up_proj", [](tiny_layer& l) { l.spec.bits = 8; });
    CHECK(broken(m, e) == ids{"V7:refused"});
  }
  CHECK(broken(with_spec({.group_size = 32, .order = gptq::column_order::desc_act}), e) == ids{"V8:refused"});
  {
    auto m = with_spec({.group_size = 32, .order = gptq::column_order::desc_act});
    m.settings.base.desc_act = false;
    CHECK(broken(m, e) == ids{"V8:wrong numbers"});
  }
  {
    auto m = with_spec({.group_size = -1});
    m.settings.base.desc_act = true;
    CHECK(broken(m, e) == ids{});
  }
  {
    gptq_folder m;
    m.integers = {"model.layers.0.self_attn.table"};
    CHECK(broken(m, e) == ids{"V9:refused"});
    m.integers.clear();
    m.settings.modules_in_block_to_quantize = {{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}};
    CHECK(broken(m, e) == ids{"V9:refused"});
    m.settings.modules_in_block_to_quantize.front().push_back("mlp.down_proj");
    CHECK(broken(m, e) == ids{});
  }
  {
    gptq_folder m;
    m.layers.push_back({.name = "lm_head"});
    CHECK(broken(m, e) == ids{"V10:refused"});
    m.settings.lm_head = true;
    CHECK(broken(m, e) == ids{});
    m.config["tie_word_embeddings"] = true;
    CHECK(broken(m, e) == ids{"V10:refused"});
  }
  {
    gptq_folder m;
    m.config["attention_bias"] = true;
    CHECK(broken(m, e) == ids{"V12:wrong numbers"});
    for (char const* const end : {"q_proj", "k_proj", "v_proj", "o_proj"})
      m.edit(end, [](tiny_layer& l) { l.bias = 0; });
    CHECK(broken(m, e) == ids{});
    m.config["attention_bias"] = false;
    CHECK(broken(m, e) == ids{});  // zeros are dropped without harm
    m.edit("o_proj", [](tiny_layer& l) { l.bias = 1; });
    CHECK(broken(m, e) == ids{"V12:wrong numbers"});
  }
}

TEST_CASE("engines: vllm and TeleChat2's names") {
  gptq_folder m;
  m.config["model_type"] = "telechat";
  m.layers = {{.name = "transformer.h.0.self_attention.query", .quantized = false},
              {.name = "transformer.h.0.self_attention.key_value", .outputs = 256, .quantized = false},
              {.name = "transformer.h.0.self_attention.dense", .bias = 1},
              {.name = "transformer.h.0.mlp.gate_proj"},
              {.name = "transformer.h.0.mlp.up_proj"},
              {.name = "transformer.h.0.mlp.down_proj", .bias = 1}};
  CHECK(broken(m, engine::vllm) == ids{"V9:refused"});
  m.settings.modules_in_block_to_quantize = {
      {"self_attention.dense", "self_attn.o_proj"}, {"mlp.gate_proj", "mlp.up_proj"}, {"mlp.down_proj"}};
  CHECK(broken(m, engine::vllm) == ids{});
  CHECK(broken(m, engine::gptqmodel) == ids{});
  CHECK(broken(m, engine::transformers) == ids{});
  m.edit("query", [](tiny_layer& l) { l.quantized = true; }).edit("key_value", [](tiny_layer& l) {
    l.quantized = true;
  });
  CHECK(broken(m, engine::vllm) == ids{"V9:refused"});
  CHECK(broken(m, engine::gptqmodel) == ids{"G3:refused"});
}

TEST_CASE("engines: sglang") {
  constexpr auto e = engine::sglang;
  {
    gptq_folder m;
    m.without = {"desc_act"};
    CHECK(broken(m, e) == ids{"S1:refused"});
  }
  {
    auto m = with_spec({.bits = 2});
    CHECK(broken(m, e) == ids{});
    m.config["torch_dtype"] = "bfloat16";
    CHECK(broken(m, e) == ids{"S2:refused"});
  }
  {
    auto m = with_spec({.bits = 3});
    m.edit("down_proj", [](tiny_layer& l) { l.inputs = 144; });
    CHECK(broken(m, e) == ids{"S3:refused"});
  }
  {
    gptq_folder m;
    m.edit("o_proj", [](tiny_layer& l) { l.outputs = 72; });
    CHECK(broken(m, e) == ids{"S4:refused"});
  }
  {
    auto m = with_float("o_proj");
    CHECK(broken(m, e) == ids{"S5:refused"});
    declare_negative(m, ".*o_proj$");
    CHECK(broken(m, e) == ids{});
  }
  {
    auto m = with_float("_proj");
    m.edit("down_proj", [](tiny_layer& l) { l.quantized = true; });
    declare_negative(m, ".*\\.(q|k|v|o|gate|up)_proj$");
    CHECK(broken(m, e) == ids{"S5:refused"});  // the fused names are missing
    declare_negative(m, ".*(qkv|gate_up)_proj$");
    CHECK(broken(m, e) == ids{});
  }
  {
    gptq_folder m;
    m.edit("k_proj", [](tiny_layer& l) { l.spec.bits = 8; });
    CHECK(broken(m, e) == ids{"S6:refused"});
    auto scattered = with_spec({.group_size = 32, .order = gptq::column_order::desc_act});
    CHECK(broken(scattered, e) == ids{});
    scattered.settings.base.desc_act = false;
    CHECK(broken(scattered, e) == ids{"S6:wrong numbers"});
  }
}

TEST_CASE("engines: transformers") {
  constexpr auto e = engine::transformers;
  {
    gptq_folder m;
    m.with["dataset"] = "data/my.txt";
    CHECK(broken(m, e) == ids{"T2:refused"});
    m.with["dataset"] = "wikitext2";
    m.with["damp_percent"] = 1.5;
    CHECK(broken(m, e) == ids{"T2:refused"});
  }
  {
    auto m = with_float("o_proj");
    CHECK(broken(m, e) == ids{"T3:refused"});
    for (auto const& l : m.layers)
      if (l.quantized) {
        if (m.settings.modules_in_block_to_quantize.empty()) m.settings.modules_in_block_to_quantize.emplace_back();
        m.settings.modules_in_block_to_quantize.front().push_back(l.name);
      }
    CHECK(broken(m, e) == ids{});
    m.settings.modules_in_block_to_quantize.front().pop_back();
    CHECK(broken(m, e) == ids{"T3:wrong numbers"});
    m.with["modules_in_block_to_quantize"] = {"self_attn.q_proj"};
    CHECK(broken(m, e) == ids{"T3:refused"});
  }
  {
    gptq_folder m;
    m.edit("down_proj", [](tiny_layer& l) { l.spec.bits = 8; });
    CHECK(broken(m, e) == ids{"T4:refused"});
  }
  {
    gptq_folder m;
    m.layers.push_back({.name = "lm_head"});
    CHECK(broken(m, e) == ids{"T5:refused"});
  }
}

TEST_CASE("engines: gptqmodel") {
  constexpr auto e = engine::gptqmodel;
  CHECK(broken(with_spec({}, gptq::checkpoint_format::compressed_tensors), e) == ids{"G1:refused"});
  {
    auto m = with_spec({.group_size = 384});
    m.edit("", [](tiny_layer& l) { l.inputs = 384; });
    CHECK(broken(m, e) == ids{"G1:refused"});
  }
  {
    auto m = asym(gptq::checkpoint_format::gptq, 3);
    CHECK(broken(m, e) == ids{"G2:refused"});
    m.settings.meta = {{"quantizer", {"gptqmodel:7.7.0"}}};
    CHECK(broken(m, e) == ids{});
    CHECK(broken(asym(gptq::checkpoint_format::gptq_v2, 0), e) == ids{});
  }
  {
    auto m = with_float("o_proj");
    CHECK(broken(m, e) == ids{"G3:refused"});
    declare_negative(m, ".*o_proj$");
    CHECK(broken(m, e) == ids{});
  }
  {
    gptq_folder m;
    m.edit("o_proj", [](tiny_layer& l) { l.outputs = 72; });
    CHECK(broken(m, e) == ids{"G4:degraded"});
  }
}

TEST_CASE("engines: exllamav2") {
  constexpr auto e = engine::exllamav2;
  CHECK(broken(with_spec({.bits = 8}), e) == ids{"E1:wrong numbers"});
  {
    auto m = with_spec({.group_size = 384});
    m.edit("", [](tiny_layer& l) { l.inputs = 384; });
    CHECK(broken(m, e) == ids{"E2:wrong numbers"});
  }
  {
    gptq_folder m;
    m.edit("o_proj", [](tiny_layer& l) { l.outputs = 72; });
    CHECK(broken(m, e) == ids{"E3:refused"});
  }
  CHECK(broken(with_float("o_proj"), e) == ids{"E4:refused"});
  CHECK(broken(with_float("gate_proj"), e) == ids{"E4:refused"});
  CHECK(broken(with_float("down_proj"), e) == ids{});
  {
    gptq_folder m;
    m.edit("o_proj", [](tiny_layer& l) { l.bias = 1; });
    CHECK(broken(m, e) == ids{"E5:refused"});
    m.config["attention_bias"] = true;
    CHECK(broken(m, e) == ids{});
    m.edit("o_proj", [](tiny_layer& l) { l.bias = 0; });
    CHECK(broken(m, e) == ids{"E5:refused"});
    CHECK(broken(gptq_folder(), e, 2) == ids{"E5:refused"});
  }
  CHECK(broken(asym(gptq::checkpoint_format::gptq_v2, 0), e) == ids{"E6:wrong numbers"});
  CHECK(broken(asym(gptq::checkpoint_format::gptq_v2, 3), e) == ids{});
}

TEST_CASE("engines: llama.cpp") {
  constexpr auto e = engine::llama_cpp;
  CHECK(broken(with_spec({.bits = 3}), e) == ids{"L1:refused"});
  {
    gptq_folder m;
    m.edit("down_proj", [](tiny_layer& l) { l.spec.bits = 8; });
    CHECK(broken(m, e) == ids{"L1:refused"});
  }
  {
    gptq_folder m;
    m.edit("down_proj", [](tiny_layer& l) { l.g_idx = false; });
    CHECK(broken(m, e) == ids{"L2:refused"});
  }
  CHECK(broken(asym(gptq::checkpoint_format::gptq, 0), e) == ids{"L3:wrong numbers"});
  CHECK(broken(asym(gptq::checkpoint_format::gptq_v2, 0), e) == ids{});
}

TEST_CASE("engines: ort-genai") {
  constexpr auto e = engine::ort_genai;
  CHECK(broken(with_spec({}, gptq::checkpoint_format::gptq_v2), e) == ids{"O1:wrong numbers"});
  CHECK(broken(with_spec({.bits = 3}), e) == ids{"O2:refused"});
  CHECK(broken(with_float("down_proj"), e) == ids{"O2:refused"});
  {
    gptq_folder m;
    m.edit("down_proj", [](tiny_layer& l) { l.spec.bits = 8; });
    CHECK(broken(m, e) == ids{"O3:refused"});
    m.settings.dynamic.push_back(
        {.key = "+:.*down_proj$", .bits = 8, .group_size = {}, .sym = {}, .desc_act = {}, .matcher = {}});
    CHECK(broken(m, e) == ids{"O3:refused"});
    m.settings.dynamic.front().key = "+:.*down_proj(\\.|$)";
    CHECK(broken(m, e) == ids{});
  }
}

TEST_CASE("engines: openvino") {
  constexpr auto e = engine::openvino;
  CHECK(broken(with_spec({.bits = 8}), e) == ids{"P1:refused"});
  CHECK(broken(with_spec({}, gptq::checkpoint_format::gptq_v2), e) == ids{"P1:wrong numbers"});
  CHECK(broken(with_spec({.group_size = 32, .order = gptq::column_order::desc_act}), e) == ids{"P1:wrong numbers"});
}
