#include <gptq/format/quantization_config.hpp>

#include "support/files.hpp"

#include <chrono>
#include <string>
#include <vector>

using gptq::checkpoint_format;
using gptq::json;
using gptq::parse_quantization_config;
using test::message_of;

namespace {

gptq::quantization_config parse(std::string const& text) {
  return parse_quantization_config(json::parse(text), "q.json");
}

std::string refusal(std::string const& text) {
  return message_of([&] { parse(text); });
}

}  // namespace

TEST_CASE("plain settings are read, absent ones have their defaults", "[config]") {
  auto const c = parse(
      R"({"bits": 3, "group_size": -1, "desc_act": true, "sym": false, "lm_head": true, "checkpoint_format": "gptq_v2",
                           "static_groups": true, "true_sequential": true, "damp_percent": 0.05})");
  CHECK(c.base == gptq::module_settings{{3, -1, false}, true});
  CHECK(c.lm_head);
  CHECK(c.format == checkpoint_format::gptq_v2);
  CHECK(c.static_groups);
  CHECK(c.true_sequential);
  CHECK(c.damp_percent == 0.05);

  auto const d = parse(R"({"bits": 4})");
  CHECK(d.base == gptq::module_settings{{4, 128, true}, false});
  CHECK(d.format == checkpoint_format::gptq);
  CHECK_FALSE(d.lm_head);
  CHECK_FALSE(d.damp_percent);
  CHECK(d.dynamic.empty());
}

TEST_CASE("synonyms are read as what they mean", "[config]") {
  auto const c = parse(R"({"w_bit": 4, "q_group_size": 64, "zero_point": true, "version": "gptq_v2"})");
  CHECK(c.base == gptq::module_settings{{4, 64, false}, false});
  CHECK(c.format == checkpoint_format::gptq_v2);
  CHECK(parse(R"({"bits": 8, "w_bit": 4})").base.bits == 8);
  CHECK(parse(R"({"bits": 8, "format": "gptq_v2"})").format == checkpoint_format::gptq_v2);
  CHECK(parse(R"({"bits": 4, "meta": {"damp_percent": 0.1, "static_groups": true}})").damp_percent == 0.1);
  CHECK(parse(R"({"bits": 4, "meta": {"damp_percent": 0.1, "static_groups": true}})").static_groups);
}

TEST_CASE("what is not supported is refused by name", "[config]") {
  CHECK_THAT(refusal(R"({"bits": 4, "quant_method": "awq"})"),
             test::contains("q.json") && test::contains("\"awq\" is not supported"));
  CHECK_THAT(refusal(R"({"bits": 4, "quant_method": "gptq", "method": "qqq"})"), test::contains("\"qqq\""));
  CHECK_THAT(refusal(R"({"bits": 4, "is_marlin_format": true})"), test::contains("marlin"));
  CHECK_THAT(refusal(R"({"bits": 4, "checkpoint_format": "marlin"})"), test::contains("\"marlin\" is not supported"));
  CHECK_THAT(refusal(R"({"bits": 4, "format": "gptq_p"})"), test::contains("\"gptq_p\""));
  CHECK_THAT(refusal(R"({"w_bit": 4, "version": "GEMM"})"), test::contains("\"GEMM\""));
  CHECK_THAT(refusal(R"({"bits": 4, "pack_dtype": "int8"})"), test::contains("\"int8\""));
  CHECK_THAT(refusal(R"({"bits": 4, "checkpoint_format": "gptq", "format": "gptq_v2"})"), test::contains("disagree"));
  CHECK_THAT(refusal(R"({"bits": 5})"), test::contains("bits = 5"));
  CHECK_THAT(refusal(R"({"bits": 4, "group_size": 0})"), test::contains("group_size = 0"));
  CHECK_THAT(refusal(R"({"bits": 4, "group_size": -2})"), test::contains("group_size = -2"));
  CHECK_THAT(refusal(R"({"group_size": 128})"), test::contains("\"bits\" is missing"));
  CHECK_THAT(refusal(R"({"bits": 4.5})"), test::contains("must be an integer"));
  CHECK_THAT(refusal(R"({"bits": 4, "sym": "yes"})"), test::contains("\"sym\" must be true or false"));
  CHECK_THAT(refusal(R"([])"), test::contains("not an object"));
  CHECK_NOTHROW(parse(
      R"({"bits": 4, "is_marlin_format": false, "pack_dtype": "int32", "dynamic": null, "dataset": "wikitext2"})"));
}

TEST_CASE("dynamic rules: negatives first, then the first match, anchored at the start", "[config]") {
  auto const c = parse(R"({"bits": 4, "group_size": 128, "dynamic": {
      "+:.*mlp\\.down_proj": {"bits": 8, "group_size": 64},
      ".*mlp.*": {"sym": false, "desc_act": true},
      "-:.*layers\\.0\\.self_attn.*": {},
      "+:model\\.layers\\.0\\.self_attn\\.q_proj$": {"bits": 2}}})");
  CHECK(c.settings_for("model.layers.1.mlp.down_proj") == gptq::module_settings{{8, 64, true}, false});
  CHECK(c.settings_for("model.layers.1.mlp.up_proj") == gptq::module_settings{{4, 128, false}, true});
  CHECK_FALSE(c.settings_for("model.layers.0.self_attn.q_proj"));
  CHECK(c.settings_for("model.layers.1.self_attn.q_proj") == gptq::module_settings{{4, 128, true}, false});
  CHECK(c.settings_for("mlp.down_projection")->bits == 8);  // anchored at the start only
  auto const anchored = parse(R"({"bits": 4, "dynamic": {"-:layers": {}}})");
  CHECK(anchored.settings_for("model.layers.0"));
  CHECK_FALSE(anchored.settings_for("layers.0"));
}

TEST_CASE("rules that can't be used are refused when they are read", "[config]") {
  CHECK_THAT(refusal(R"({"bits": 4, "dynamic": []})"), test::contains("\"dynamic\" is not an object"));
  CHECK_THAT(refusal(R"({"bits": 4, "dynamic": {"-:(": {}}})"), test::contains("pattern \"-:(\""));
  CHECK_THAT(refusal(R"({"bits": 4, "dynamic": {"+:a": 1}})"), test::contains("\"+:a\" is not an object"));
  CHECK_THAT(refusal(R"({"bits": 4, "dynamic": {"+:a": {"bits": 5}}})"), test::contains("\"+:a\": bits = 5"));
  CHECK_THAT(refusal(R"({"bits": 4, "dynamic": {"+:a": {"bits": "8"}}})"),
             test::contains("\"bits\" must be an integer"));
  CHECK_THAT(refusal(R"({"bits": 4, "dynamic": {"-:)" + std::string(5000, 'a') + R"(": {}}})"),
             test::contains("too large"));
  CHECK_THAT(refusal(R"({"bits": 4, "dynamic": {"-:((a{300}){300}){300}": {}}})"), test::contains("too large"));
  CHECK_THAT(refusal(R"({"bits": 4, "dynamic": {"-:a{99999999999999999999}": {}}})"), test::contains("too large"));
}

TEST_CASE("a hostile pattern neither hangs nor overflows the stack", "[config]") {
  std::string const pattern = GENERATE("(a+)+$", "(a|a)*$", "(a*)*b", "((a?){20}){20}b", "(.*)*(.*)*(.*)*x",
                                       "(((((((((((((((((((((((a)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*b");
  auto const c = parse(R"({"bits": 4, "dynamic": {"-:)" + pattern + R"(": {}}})");
  auto const start = std::chrono::steady_clock::now();
  CHECK(c.settings_for(std::string(200, 'a') + "!"));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
  std::string nested = std::string(499, '(') + "a" + std::string(499, ')');
  CHECK_NOTHROW(parse(R"({"bits": 4, "dynamic": {"-:)" + nested + R"(": {}}})").settings_for("a"));
  CHECK_THAT(message_of([&] { (void)c.settings_for(std::string(5000, 'a')); }),
             test::contains("module name is longer"));
}

TEST_CASE("the JSON form has the documented keys in order and parses back", "[config]") {
  gptq::quantization_config c;
  c.base = {8, 64, false, true};
  c.format = checkpoint_format::gptq_v2;
  c.static_groups = true;
  c.damp_percent = 0.01;
  c.meta = {{"quantizer", {"gptq:0.1.0"}}};
  std::vector<std::string> keys;
  json const first = gptq::to_json(c);
  for (auto const& item : first.items()) keys.push_back(item.key());
  CHECK(keys == std::vector<std::string>{"quant_method", "bits", "group_size", "desc_act", "sym", "lm_head",
                                         "checkpoint_format", "format", "pack_dtype", "static_groups",
                                         "true_sequential", "damp_percent", "meta"});
  CHECK(gptq::to_json(c).at("damp_percent").dump() == "0.01");

  c.dynamic = {
      {.key = "+:x", .bits = 4, .group_size = {}, .sym = {}, .desc_act = {}, .matcher = {}},
      {.key = "-:y", .keep_float = true, .bits = {}, .group_size = {}, .sym = {}, .desc_act = {}, .matcher = {}}};
  c.modules_in_block_to_quantize = {{"a.b", "a.c"}, {"d"}};
  json const out = gptq::to_json(c);
  CHECK(out.at("dynamic").begin().key() == "-:y");
  auto const back = parse_quantization_config(out, "back");
  CHECK(gptq::to_json(back) == out);
  CHECK(back.base == c.base);
  CHECK(back.modules_in_block_to_quantize == c.modules_in_block_to_quantize);
  CHECK(c.settings_for("x")->bits == 4);
  CHECK_FALSE(c.settings_for("y"));
}

TEST_CASE("module lists may be flat", "[config]") {
  CHECK(parse(R"({"bits": 4, "modules_in_block_to_quantize": ["a", "b"]})").modules_in_block_to_quantize ==
        std::vector<std::vector<std::string>>{{"a", "b"}});
  CHECK_THAT(refusal(R"({"bits": 4, "modules_in_block_to_quantize": [[1]]})"),
             test::contains("modules_in_block_to_quantize"));
}

TEST_CASE("a folder's settings are found in each place, and places must agree", "[config]") {
  test::temp_dir const dir;
  json const plain = json::object();
  json const inside = {{"quantization_config", {{"bits", 4}, {"sym", true}}}};
  CHECK_FALSE(gptq::read_quantization_config(dir.path(), plain));
  CHECK_FALSE(gptq::read_quantization_config(dir.path(), json{{"quantization_config", nullptr}}));
  CHECK(gptq::read_quantization_config(dir.path(), inside)->base.bits == 4);
  dir.write("quant_config.json", R"({"bits": 4})");
  CHECK(gptq::read_quantization_config(dir.path(), plain)->base.bits == 4);
  CHECK(gptq::read_quantization_config(dir.path(), inside)->base.bits == 4);
  dir.write("quantize_config.json", R"({"bits": 4, "format": "gptq_v2"})");
  CHECK_THAT(message_of([&] { gptq::read_quantization_config(dir.path(), inside); }),
             test::contains("quantize_config.json") && test::contains("differ from"));
  dir.write("quantize_config.json", "{");
  CHECK_THAT(message_of([&] { gptq::read_quantization_config(dir.path(), inside); }), test::contains("not valid JSON"));
}

TEST_CASE("both files are written with the same settings; config.json keeps its keys in order", "[config]") {
  test::temp_dir const dir;
  json const config = json::parse(R"({"z": 1, "quantization_config": null, "a": 2})");
  gptq::quantization_config c;
  c.base.bits = 2;
  gptq::write_settings(dir.path(), gptq::quantization_files(config, c));
  json const written = gptq::read_json(dir / "config.json");
  CHECK(written.begin().key() == "z");
  CHECK(written.at("quantization_config") == gptq::read_json(dir / "quantize_config.json"));
  CHECK(gptq::read_quantization_config(dir.path(), written)->base.bits == 2);
}

TEST_CASE("settings of real checkpoints are read", "[config]") {
  GPTQ_REQUIRE_SHARED("gptq-format");
  auto const format = test::shared_dir() / "gptq-format";
  auto const read = [](std::filesystem::path const& file) {
    return parse_quantization_config(gptq::read_json(file), file.string());
  };
  for (auto const& file :
       {format / "wizard-mega-13b-autogptq/quantize_config.json",
        format / "llama2-13b-autogptq/quantization_config.json", format / "Qwen-VL-Chat-Int4/quantize_config.json"}) {
    auto const c = read(file);
    CHECK(c.base == gptq::module_settings{{4, 128, true}, false});
    CHECK(c.damp_percent == 0.01);
    CHECK(c.true_sequential);
  }
  CHECK(read(format / "phi2-optimum/quantize_config.json").damp_percent == 0.1);
  auto const qwen = format / "Qwen-VL-Chat-Int4";
  CHECK(gptq::read_quantization_config(qwen, gptq::read_json(qwen / "config.json"))->base.bits == 4);

  GPTQ_REQUIRE_SHARED("fixtures");
  auto const fixture = [](char const* name) {
    auto const folder = test::shared_dir() / "fixtures" / name;
    return *gptq::read_quantization_config(folder, gptq::read_json(folder / "config.json"));
  };
  CHECK(fixture("gptqmodel-w2g64-asym-v2").base == gptq::module_settings{{2, 64, false}, false});
  CHECK(fixture("gptqmodel-w2g64-asym-v2").format == checkpoint_format::gptq_v2);
  CHECK(fixture("gptqmodel-w4g32-desc-act").base == gptq::module_settings{{4, 32, true}, true});
  CHECK(fixture("gptqmodel-w4g128").damp_percent == 0.05);
  auto const partial = fixture("gptqmodel-w4g128-partial");
  CHECK_FALSE(partial.settings_for("model.layers.0.self_attn.k_proj"));
  CHECK(partial.settings_for("model.layers.2.mlp.down_proj") == gptq::module_settings{{8, 64, true}, false});
}
