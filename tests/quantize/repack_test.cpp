// Folders written anew in another format: the same weights, and what each format can't say.
#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/gptq_folder.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/pack/dequantize.hpp>
#include <gptq/quantize/repack.hpp>

#include <map>

namespace {

using gptq::checkpoint_format;
using test::gptq_folder;
using test::tiny_layer;

/// Name → dequantized weight of every quantized layer.
std::map<std::string, gptq::matrix<float>> weights_of(std::filesystem::path const& folder) {
  gptq::checkpoint_reader const reader(folder);
  gptq::quantized_model const model(reader, *gptq::read_quantization_config(folder, reader.config()));
  std::map<std::string, gptq::matrix<float>> out;
  for (auto const& m : model.modules()) out.emplace(m.name, gptq::dequantize(m.tensors));
  return out;
}

/// Name → bytes of every tensor.
std::map<std::string, std::string> tensors_of(std::filesystem::path const& folder) {
  gptq::checkpoint_reader const reader(folder);
  std::map<std::string, std::string> out;
  for (auto const& name : reader.names()) {
    auto const bytes = reader.at(name).bytes;
    out[name] = {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
  }
  return out;
}

void check_same(std::filesystem::path const& a, std::filesystem::path const& b) {
  auto const x = weights_of(a), y = weights_of(b);
  REQUIRE(x.size() == y.size());
  REQUIRE(!x.empty());
  for (auto const& [name, w] : x) {
    auto const& v = y.at(name);
    REQUIRE(w.size() == v.size());
    CHECK(std::equal(w.data(), w.data() + w.size(), v.data()));
  }
}

gptq_folder model_of(gptq::quant_spec spec, checkpoint_format format, int zero = -1) {
  gptq_folder m;
  m.settings.base = {spec.format(), gptq::scattered_groups(spec)};
  m.settings.format = format;
  m.edit("", [&](tiny_layer& l) {
    l.spec = spec;
    l.zero = zero;
  });
  return m;
}

void repack(std::filesystem::path const& from, std::filesystem::path const& to, checkpoint_format format) {
  gptq::repack(from, to, {.format = format});
  auto const found = gptq::inspect(to);
  for (auto const& p : found.problems) UNSCOPED_INFO(to_string(p));
  CHECK(found.problems.empty());
  CHECK(found.quantization->format == format);
}

}  // namespace

TEST_CASE("repack: v1, v2 and compressed-tensors hold the same weights, there and back") {
  for (int const bits : {2, 3, 4, 8})
    for (int const zero : {-1, 1}) {
      test::temp_dir const dir;
      model_of({.bits = bits, .group_size = 64, .sym = zero < 0}, checkpoint_format::gptq, zero).write(dir / "v1");
      repack(dir / "v1", dir / "v2", checkpoint_format::gptq_v2);
      repack(dir / "v2", dir / "again", checkpoint_format::gptq);
      check_same(dir / "v1", dir / "v2");
      CHECK_FALSE((tensors_of(dir / "v1") == tensors_of(dir / "v2")));
      CHECK((tensors_of(dir / "v1") == tensors_of(dir / "again")));
      if (bits == 3) {
        CHECK_THAT(test::message_of([&] {
                     gptq::repack(dir / "v1", dir / "ct", {.format = checkpoint_format::compressed_tensors});
                   }),
                   test::contains("3 bit"));
        CHECK_FALSE(std::filesystem::exists(dir / "ct"));
        continue;
      }
      repack(dir / "v1", dir / "ct", checkpoint_format::compressed_tensors);
      check_same(dir / "v1", dir / "ct");
      gptq::checkpoint_reader const reader(dir / "ct");
      CHECK(reader.contains("model.layers.0.mlp.up_proj.weight_zero_point") == (zero > 0));
      CHECK(reader.at("model.layers.0.mlp.up_proj.weight_packed").shape == std::vector<std::int64_t>{128, 4 * bits});
      CHECK(reader.at("model.layers.0.mlp.up_proj.weight_shape").type == gptq::dtype::i64);
      CHECK_FALSE(std::filesystem::exists(dir / "ct" / "quantize_config.json"));
      repack(dir / "ct", dir / "back", checkpoint_format::gptq);
      check_same(dir / "v1", dir / "back");
    }
}

TEST_CASE("repack: layers in float and other widths are declared in the other format too") {
  test::temp_dir const dir;
  gptq_folder m;
  m.edit("o_proj", [](tiny_layer& l) { l.quantized = false; });
  m.edit("down_proj", [](tiny_layer& l) { l.spec = {.bits = 8, .group_size = 64}; });
  m.settings.dynamic = gptq::parse_dynamic_rules(
      gptq::parse_json(R"({"-:.*o_proj$": {}, ".*down_proj": {"bits": 8, "group_size": 64}})", "rules"), "rules");
  m.write(dir / "v1");
  repack(dir / "v1", dir / "ct", checkpoint_format::compressed_tensors);
  check_same(dir / "v1", dir / "ct");
  auto const settings = gptq::read_json(dir / "ct" / "config.json").at("quantization_config");
  CHECK(settings.at("ignore").dump() == R"(["lm_head","model.layers.0.self_attn.o_proj"])");
  CHECK(settings.at("config_groups").at("group_1").at("targets").dump() == R"(["re:.*down_proj"])");
  CHECK(settings.at("config_groups").at("group_1").at("weights").at("num_bits") == 8);
  repack(dir / "ct", dir / "back", checkpoint_format::gptq);
  check_same(dir / "v1", dir / "back");
  auto const back = gptq::read_json(dir / "back" / "quantize_config.json");
  CHECK(back.at("dynamic").contains(R"(-:model\.layers\.0\.self_attn\.o_proj$)"));
  CHECK(back.at("modules_in_block_to_quantize").at(0).size() == 6);
}

TEST_CASE("repack: what a format can't say is refused, naming the layer, and nothing is left") {
  test::temp_dir const dir;
  model_of({.sym = false}, checkpoint_format::gptq_v2, 0).write(dir / "zero");
  CHECK_THAT(test::message_of([&] { gptq::repack(dir / "zero", dir / "out", {.format = checkpoint_format::gptq}); }),
             test::contains("model.layers.0.self_attn.q_proj: the zero point of group 0, output 0 is 0"));
  model_of({.group_size = 32, .order = gptq::column_order::desc_act}, checkpoint_format::gptq).write(dir / "scattered");
  CHECK_THAT(test::message_of([&] {
               gptq::repack(dir / "scattered", dir / "out", {.format = checkpoint_format::compressed_tensors});
             }),
             test::contains("quantize in the group-aware order"));
  CHECK(test::listing(dir.path()) == std::vector<std::string>{"scattered", "zero"});
  auto const report = gptq::repack(dir / "scattered", dir / "out", {.format = checkpoint_format::gptq_v2});
  CHECK_THAT(report.warnings.back().text, test::contains("current vLLM refuses"));
  CHECK(report.warnings.back().change == gptq::remedies(gptq::remedy::order_group_aware));
  check_same(dir / "scattered", dir / "out");
}

TEST_CASE("repack: other shards and a missing g_idx") {
  test::temp_dir const dir;
  gptq_folder m;
  m.edit("", [](tiny_layer& l) { l.g_idx = false; });
  m.write(dir / "plain");
  gptq::repack(dir / "plain", dir / "out", {.format = {}, .shard_size = 20000});
  auto const names = test::listing(dir / "out");
  CHECK(std::count_if(names.begin(), names.end(), [](auto const& n) { return n.ends_with(".safetensors"); }) > 2);
  check_same(dir / "plain", dir / "out");
  CHECK(gptq::inspect(dir / "out").problems.empty());
}

TEST_CASE("repack: zero points that a symmetric folder leaves out are written") {
  test::temp_dir const dir;
  bool const empty = GENERATE(false, true);
  for (checkpoint_format const format : {checkpoint_format::gptq, checkpoint_format::gptq_v2}) {
    gptq_folder m = model_of({}, format);
    std::string const name = to_string(format);
    m.write(dir / ("full " + name));
    m.edit("", [&](tiny_layer& l) { l.qzeros = empty ? test::zero_tensor::empty : test::zero_tensor::none; });
    m.write(dir / name);
    CHECK_FALSE((tensors_of(dir / name) == tensors_of(dir / ("full " + name))));
    repack(dir / name, dir / ("again " + name), format);
    CHECK((tensors_of(dir / ("again " + name)) == tensors_of(dir / ("full " + name))));
  }
}

TEST_CASE("repack: checkpoints by GPTQModel, there and back") {
  GPTQ_REQUIRE_SHARED("fixtures");
  for (char const* const name : {"gptqmodel-w4g128", "gptqmodel-w4g128-partial", "gptqmodel-w2g64-asym-v2"}) {
    test::temp_dir const dir;
    auto const source = test::shared_dir() / "fixtures" / name;
    repack(source, dir / "ct", checkpoint_format::compressed_tensors);
    check_same(source, dir / "ct");
    repack(dir / "ct", dir / "v2", checkpoint_format::gptq_v2);
    check_same(source, dir / "v2");
  }
  auto const found = gptq::inspect(test::shared_dir() / "fixtures" / "gptqmodel-w4g32-desc-act");
  REQUIRE(found.notes.size() == 1);
  CHECK_THAT(found.notes.front().text, test::contains("current vLLM refuses"));
}

TEST_CASE("repack: settings in the spellings of AutoGPTQ, optimum and others are read") {
  GPTQ_REQUIRE_SHARED("gptq-format");
  for (auto const& entry : std::filesystem::directory_iterator(test::shared_dir() / "gptq-format")) {
    INFO(entry.path().string());
    gptq::json config;
    if (std::filesystem::exists(entry.path() / "config.json")) config = gptq::read_json(entry.path() / "config.json");
    auto const settings = gptq::read_quantization_config(entry.path(), config);
    REQUIRE(settings);
    CHECK(settings->base == gptq::module_settings{{4, 128, true}, false});
    CHECK(settings->format == checkpoint_format::gptq);
  }
}

TEST_CASE("repack: compressed-tensors that is not understood is refused by name") {
  auto const settings = [](std::string const& text) {
    return test::message_of([&] { gptq::parse_quantization_config(gptq::parse_json(text, "x"), "config.json"); });
  };
  CHECK_THAT(settings(R"({"quant_method": "compressed-tensors", "format": "naive-quantized"})"),
             test::contains("\"naive-quantized\" is not supported"));
  CHECK_THAT(settings(R"({"quant_method": "compressed-tensors", "format": "pack-quantized"})"),
             test::contains("config_groups"));
  CHECK_THAT(settings(R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0":
                          {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float"}}}})"),
             test::contains("type \"float\""));
  CHECK_THAT(settings(R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0":
                          {"targets": ["Linear"], "weights": {"num_bits": 5, "group_size": 128}}}})"),
             test::contains("bits = 5"));
}
