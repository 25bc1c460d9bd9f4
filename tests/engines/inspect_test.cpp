#include <gptq/engines/inspect.hpp>

#include "support/files.hpp"

#include <filesystem>
#include <string>

using gptq::json;

namespace {
json module_named(json const& inspection, std::string const& name) {
  for (json const& m : inspection.at("modules"))
    if (m.at("name") == name) return m;
  return nullptr;
}
}  // namespace

TEST_CASE("a float folder is listed module by module", "[inspect]") {
  auto const in = gptq::inspect(test::bundled_model());
  CHECK(in.problems.empty());
  CHECK(in.tensors == 50);
  CHECK(in.bytes == 2 * 919680);
  CHECK(in.model_type == "qwen2");
  CHECK_FALSE(in.quantization);
  json const out = gptq::to_json(in);
  CHECK(out.at("well_formed") == true);
  CHECK(out.at("quantization").is_null());
  CHECK(
      module_named(out, "model.layers.3.self_attn.k_proj") ==
      json::parse(
          R"({"name":"model.layers.3.self_attn.k_proj","kind":"float","dtype":"BF16","shape":[64,128],"bias":true,"bytes":16512})"));
  CHECK(module_named(out, "model.norm").at("shape") == json::parse("[128]"));
  std::uint64_t bytes = 0;
  for (auto const& m : in.modules) bytes += m.bytes;
  CHECK(bytes == in.bytes);
}

TEST_CASE("folders that a peer wrote are well-formed, and their facts are found", "[inspect]") {
  GPTQ_REQUIRE_SHARED("fixtures");
  auto const look = [](char const* name) {
    auto const in = gptq::inspect(test::shared_dir() / "fixtures" / name);
    CHECK(in.problems.empty());
    CHECK_THAT(gptq::to_text(in), test::contains("well-formed"));
    return gptq::to_json(in);
  };
  json const plain = look("gptqmodel-w4g128");
  CHECK(plain.at("tensors") == 134);
  CHECK(
      module_named(plain, "model.layers.0.mlp.down_proj") ==
      json::parse(
          R"({"name":"model.layers.0.mlp.down_proj","kind":"quantized","dtype":"F16","shape":[128,384],"bias":false,"bytes":27072,"bits":4,"group_size":128,
                        "sym":true,"in_features":384,"out_features":128,"groups":3,"g_idx":"trivial","zeros":[8,8]})"));
  CHECK(module_named(plain, "model.layers.0.self_attn.v_proj").at("bias") == true);

  json const scattered = look("gptqmodel-w4g32-desc-act");
  CHECK(module_named(scattered, "model.layers.2.self_attn.q_proj").at("g_idx") == "scattered");
  CHECK(scattered.at("quantization").at("desc_act") == true);

  json const asym = look("gptqmodel-w2g64-asym-v2");
  CHECK(module_named(asym, "model.layers.0.mlp.up_proj").at("bits") == 2);
  CHECK(module_named(asym, "model.layers.0.mlp.up_proj").at("sym") == false);
  CHECK(asym.at("quantization").at("format") == "gptq_v2");

  json const partial = look("gptqmodel-w4g128-partial");
  CHECK(module_named(partial, "model.layers.0.self_attn.q_proj").at("kind") == "float");
  CHECK(module_named(partial, "model.layers.1.self_attn.q_proj").at("bits") == 4);
  CHECK(module_named(partial, "model.layers.1.mlp.down_proj").at("bits") == 8);
  CHECK(module_named(partial, "model.layers.1.mlp.down_proj").at("group_size") == 64);
}

TEST_CASE("the text form has one line a module and counts problems", "[inspect]") {
  test::temp_dir const dir;
  dir.write("config.json", R"({"quantization_config": {"bits": 4}})");
  dir.write("model.safetensors",
            test::safetensors_bytes(
                {{"a.qweight", "I32", {1, 1}, "1234"}, {"b.weight", "F16", {1}, "12"}, {"c", "U8", {1}, "1"}}));
  std::string const text = gptq::to_text(gptq::inspect(dir.path()));
  CHECK_THAT(text, test::contains("unknown model type, quantized (gptq), 3 tensors, 7 bytes in 1 file\n"));
  CHECK_THAT(text, test::contains("problem: C1 a: missing tensors: a.scales\n"));
  CHECK_THAT(text, test::contains("\n3 problems\n"));
}
