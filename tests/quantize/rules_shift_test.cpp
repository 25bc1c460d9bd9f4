/// Rules for single layers and the output head, together with the float model running beside.
#include "support/model.hpp"
#include "support/pipeline_cases.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/quantize/pipeline.hpp>

#include <cstring>
#include <map>
#include <string>
#include <utility>

namespace {

gptq::recipe with_rules(char const* rules) {
  gptq::recipe options;
  options.spec.group_size = -1;
  options.dynamic = gptq::parse_dynamic_rules(gptq::json::parse(rules), "rules");
  options.lm_head = true;
  options.micro_batch = 40;
  return options;
}

auto const samples = test::random_samples({33, 20, 17, 40}, 32, 9);

}  // namespace

TEST_CASE(
    "pipeline: with the float model beside, each layer has its own spec, some stay in float, the head takes part") {
  auto options = with_rules(R"({"-:.*layers\\.0\\.self_attn\\.[qkv]_proj": {}, "-:.*layers\\.1\\.mlp\\.down_proj": {},
                                "+:.*mlp\\.(gate|up)_proj": {"bits": 8}, "+:lm_head": {"bits": 8, "sym": false}})");
  options.shift = {1, 0.5};
  options.true_sequential = GENERATE(true, false);
  CAPTURE(options.true_sequential);
  test::temp_dir const dir;
  auto const model = test::tiny_model().write(dir);
  gptq::host_model_backend b;
  auto const report = gptq::quantize_model(b, model, dir / "out", samples, options);
  CHECK(report.kept_float.size() == 4);
  std::map<std::string, gptq::linear_record> by_name;
  for (auto const& l : report.linears) by_name[l.name] = l;
  CHECK(by_name.size() == 11);
  REQUIRE(by_name.count("lm_head") == 1);
  for (auto const& [name, l] : by_name) {
    CAPTURE(name);
    bool const wide = name == "lm_head" || name.ends_with("gate_proj") || name.ends_with("up_proj");
    CHECK(l.spec.bits == (wide ? 8 : 4));
    CHECK(l.spec.sym == (name != "lm_head"));
    CHECK(l.report.tokens == 110);
    CHECK(l.report.float_loss > 0);
    CHECK(l.report.rel_loss > 0);
  }
  // Block 0's attention is the float model's, so nothing has moved before its o_proj.
  auto const& first = by_name.at("model.layers.0.self_attn.o_proj").report;
  CHECK_THAT(first.float_loss, Catch::Matchers::WithinRel(first.rel_loss, 0.05));
  gptq::model_weights const quantized(dir / "out");
  CHECK(quantized.unexpected().empty());
  CHECK(quantized.reader().contains("lm_head.qweight"));
  CHECK(quantized.reader().contains("model.layers.1.mlp.down_proj.weight"));
}

TEST_CASE("pipeline: a head behind blocks in float has nothing to make up for") {
  test::temp_dir const dir;
  auto const model = test::tiny_model().write(dir);
  auto options = with_rules(R"({"-:.*layers": {}})");
  gptq::host_model_backend b;
  auto const plain = gptq::quantize_model(b, model, dir / "plain", samples, options);
  options.shift = {1, 0.5};
  auto const beside = gptq::quantize_model(b, model, dir / "beside", samples, options);
  REQUIRE(beside.linears.size() == 1);
  CHECK_THAT(beside.linears.front().report.float_loss,
             Catch::Matchers::WithinRel(plain.linears.front().report.rel_loss, 0.05));
  gptq::checkpoint_reader const one(dir / "plain"), other(dir / "beside");
  for (char const* const name : {"lm_head.qweight", "lm_head.scales"}) {
    auto const x = one.at(name).bytes, y = other.at(name).bytes;
    REQUIRE(x.size() == y.size());
    CHECK(std::memcmp(x.data(), y.data(), x.size()) == 0);
  }
}

TEST_CASE("pipeline: with a head and the float model beside, short memory ends in a complete folder or in none") {
  test::temp_dir const dir;
  auto const model = test::tiny_model().write(dir);
  auto options = with_rules("{}");
  options.shift = {1, 0.5};
  options.quantize.measure = false;
  int completed = 0, at = 1;
  for (bool out_of_reach = false; !out_of_reach; at += 3) {
    CAPTURE(at);
    test::short_of_memory<gptq::host_model_backend> b;
    b.refuse_at = at;
    try {
      auto const report = gptq::quantize_model(b, model, dir / "out", samples, options);
      CHECK(report.linears.size() == 15);
      CHECK(gptq::model_weights(dir / "out").quantized() != nullptr);
      std::filesystem::remove_all(dir / "out");
      ++completed;
    } catch (gptq::device_memory_error const&) {
      CHECK_FALSE(std::filesystem::exists(dir / "out"));
    }
    out_of_reach = b.refuse_at > 0;
  }
  CHECK(completed >= 8);
  CHECK(at > 100);
}
