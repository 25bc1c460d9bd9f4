#include <gptq/quantize/recipe_json.hpp>

#include "support/files.hpp"

#include <string>

using gptq::json;
using gptq::recipe;
using test::message_of;

namespace {

recipe parse(char const* text) { return gptq::parse_recipe(json::parse(text), "r.json"); }

std::string refusal(char const* text) {
  return message_of([&] { parse(text); });
}

/// Every setting other than its default.
recipe unusual() {
  recipe r = gptq::recipe_of("parity");
  r.spec = {.bits = 3, .group_size = 32, .sym = false, .order = gptq::column_order::desc_act, .static_groups = true};
  r.dynamic = gptq::parse_dynamic_rules({{"+:a", {{"bits", 8}, {"sym", true}}}, {"-:b", json::object()}}, "rules");
  r.lm_head = r.all_layers = r.as_llama = r.to_float16 = true;
  r.true_sequential = false;
  r.quantize = {.damp_percent = 0.03,
                .grid = {.mse = 2.7f,
                         .mse_steps = 50,
                         .mse_max_shrink = 0.3f,
                         .round_scales = false,
                         .nonzero_zeros = true,
                         .reference_range = true},
                .reference_dead = true,
                .reestimations = 3,
                .descent_passes = 4,
                .measure = false};
  r.shift = {.target = 0.1, .residual = 0.7};
  r.format = gptq::checkpoint_format::gptq_v2;
  r.shard_size = 123'456;
  r.engines = {"vllm", "sglang"};
  r.tensor_parallel = 2;
  r.micro_batch = 777;
  r.calibration = {.format = "windows", .chat_format = "qwen3", .samples = 5, .sequence_length = 99};
  r.meta = {{"who", "a test"}};
  return r;
}

}  // namespace

TEST_CASE("a recipe is read back from its canonical text, whatever its settings", "[recipe]") {
  for (recipe const& r : {recipe(), gptq::recipe_of("best"), gptq::recipe_of("parity"), unusual()}) {
    json const document = to_json(r);
    recipe const back = gptq::parse_recipe(gptq::parse_json(document.dump(), "text"), "text");
    CHECK(to_json(back).dump() == document.dump());
    CHECK(back == r);
  }
  json const plain = to_json(recipe()), other = to_json(unusual());
  for (auto const& item : plain.items()) {  // nothing is left out of the other recipe
    CAPTURE(item.key());
    CHECK(other.at(item.key()) != item.value());
  }
}

TEST_CASE("decimals of a recipe are those that were asked for", "[recipe]") {
  CHECK(to_json(recipe()).at("mse").dump() == "2.4");
  CHECK(to_json(recipe()).at("mse_max_shrink").dump() == "0.8");
  CHECK(to_json(recipe()).at("damp_percent").dump() == "0.01");
}

TEST_CASE("what a recipe's JSON leaves out is decided by its preset and by symmetry", "[recipe]") {
  recipe const best = parse(R"({"preset": "best", "bits": 3})");
  CHECK(best.spec.bits == 3);
  CHECK(best.quantize.descent_passes == 2);
  CHECK(best.shift.target == 1);
  CHECK(best.format == gptq::checkpoint_format::gptq);
  CHECK(parse(R"({"sym": false})").format == gptq::checkpoint_format::gptq_v2);
  CHECK_FALSE(parse(R"({"sym": false})").quantize.grid.nonzero_zeros);
  CHECK(parse(R"({"sym": false, "format": "gptq"})").quantize.grid.nonzero_zeros);
  CHECK(parse(R"({"dynamic": {"+:x": {"sym": false}}})").format == gptq::checkpoint_format::gptq_v2);
}

TEST_CASE("an unknown key, another type and a value out of range are refused by file and key", "[recipe]") {
  CHECK_THAT(refusal(R"({"bit": 4})"), test::contains("r.json: \"bit\" is no setting of a recipe"));
  CHECK_THAT(refusal(R"({"bits": "4"})"), test::contains("r.json: \"bits\" must be an integer"));
  CHECK_THAT(refusal(R"({"sym": 1})"), test::contains("\"sym\" must be true or false, not 1"));
  CHECK_THAT(refusal(R"({"bits": 5})"), test::contains("r.json: bits must be 2, 3, 4 or 8, not 5"));
  CHECK_THAT(refusal(R"({"order": "random"})"), test::contains("\"order\" must be one of natural, desc_act"));
  CHECK_THAT(refusal(R"({"damp_percent": 1})"), test::contains("r.json: damp_percent must lie between 0 and 1"));
  CHECK_THAT(refusal(R"({"mse": 0.01})"), test::contains("mse must be 0, or an exponent"));
  CHECK_THAT(refusal(R"({"target_shift": 2})"), test::contains("target_shift must lie between 0 and 1, not be 2"));
  CHECK_THAT(refusal(R"({"sweeps": 101})"), test::contains("sweeps must be a whole number from 0 to 100, not 101"));
  CHECK_THAT(refusal(R"({"engines": ["word"]})"),
             test::contains("\"engines\" names no engine that is known: \"word\""));
  CHECK_THAT(refusal(R"({"calibration": {"sample": 1}})"), test::contains("\"calibration.sample\" is no setting"));
  CHECK_THAT(refusal(R"({"calibration": {"samples": 0}})"), test::contains("samples must be a whole number from 1"));
  CHECK_THAT(refusal(R"({"calibration": {"format": "csv"}})"), test::contains("\"calibration.format\" must be one of"));
  CHECK_THAT(refusal(R"({"dynamic": {"+:(": {}}})"), test::contains("r.json: pattern \"+:(\""));
  CHECK_THAT(refusal(R"({"meta": {"a": 1}})"), test::contains("\"meta\" holds what is no string: a"));
  CHECK_THAT(refusal("[]"), test::contains("r.json: a JSON object is needed"));
}

TEST_CASE("a misspelt setting of a rule is refused, not dropped", "[recipe]") {
  CHECK_THAT(refusal(R"({"dynamic": {"+:.*down_proj": {"bit": 8}}})"),
             test::contains("down_proj") && test::contains("\"bit\""));
  CHECK(parse(R"({"dynamic": {"+:.*down_proj": {"bits": 8}}})").dynamic.size() == 1);
}

TEST_CASE("recipes are told apart by their hash", "[recipe]") {
  recipe r;
  std::string const plain = gptq::recipe_hash(r);
  CHECK(plain.size() == 16);
  CHECK(gptq::recipe_hash(recipe()) == plain);
  r.calibration.samples = 127;
  CHECK(gptq::recipe_hash(r) != plain);
  CHECK_FALSE(r == recipe());
}

TEST_CASE("rules are equal in whatever order those that keep layers in float stand", "[recipe]") {
  recipe const a = parse(R"({"dynamic": {"+:x": {"bits": 8}, "-:y": {}}})");
  CHECK(a == parse(R"({"dynamic": {"-:y": {}, "+:x": {"bits": 8}}})"));
  CHECK_FALSE(a == parse(R"({"dynamic": {"-:z": {}, "+:x": {"bits": 8}}})"));
}
