// What inspect tells of a folder, and when it says that one is not well-formed.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <fstream>

namespace {

using test::check_refused;
using test::model_copy;
using test::run_app;
using test::run_well;
using test::tensor_file;

/// A quantized model with something wrong: inspect must end with 1 and list the problem.
template <class F>
void check_problem(std::string const& text, F&& spoil) {
  model_copy const m;
  run_well(m.small_run());
  spoil(m.output());
  auto const plain = run_app({"inspect", m.output().string()});
  INFO(plain.out << plain.err);
  CHECK(plain.code == 1);
  CHECK_THAT(plain.out, test::contains("problem: ") && test::contains(text));
  auto const r = run_app({"inspect", m.output().string(), "--json"});
  CHECK(r.code == 1);
  auto const found = gptq::parse_json(r.out, "stdout");
  CHECK(found.at("well_formed") == false);
  CHECK_THAT(found.at("problems").dump(), test::contains(text));
}

void edit_settings(std::filesystem::path const& folder, char const* key, gptq::json const& value) {
  for (char const* const name : {"config.json", "quantize_config.json"}) {
    gptq::json document = gptq::read_json(folder / name);
    gptq::json& settings = std::string(name) == "config.json" ? document["quantization_config"] : document;
    settings[key] = value;
    std::ofstream(folder / name, std::ios::trunc) << document.dump();
  }
}

}  // namespace

TEST_CASE("inspect lists every module of a float and of a quantized folder", "[app]") {
  model_copy const m;
  run_well(m.small_run({"--bits", "3", "--group-size", "64"}));
  auto const found = gptq::parse_json(run_well({"inspect", m.output().string(), "--json"}).out, "stdout");
  CHECK(found.at("well_formed") == true);
  CHECK(found.at("model_type") == "qwen2");
  int quantized = 0;
  for (auto const& module : found.at("modules")) {
    if (module.at("kind") != "quantized") continue;
    ++quantized;
    CHECK(module.at("bits") == 3);
    CHECK(module.at("group_size") == 64);
    CHECK(module.at("g_idx") == "trivial");
    CHECK(module.at("zeros").dump() == "[4,4]");
  }
  CHECK(quantized == 28);
  auto const text = run_well({"inspect", m.output().string()}).out;
  CHECK_THAT(text, test::contains("model.layers.3.mlp.down_proj") && test::contains("3 bit g64 sym") &&
                       test::contains("well-formed"));
  auto const source = gptq::parse_json(run_well({"inspect", m.model().string(), "--json"}).out, "stdout");
  CHECK(source.at("quantization").is_null());
  CHECK(source.at("well_formed") == true);
}

TEST_CASE("inspect lists what is wrong and ends with 1", "[app]") {
  SECTION("settings that differ between the two files") {
    check_problem("quantize_config.json", [](auto const& folder) {
      gptq::json settings = gptq::read_json(folder / "quantize_config.json");
      settings["bits"] = 8;
      std::ofstream(folder / "quantize_config.json", std::ios::trunc) << settings.dump();
    });
  }
  SECTION("desc_act that the files do not need") {
    check_problem("desc_act", [](auto const& folder) { edit_settings(folder, "desc_act", true); });
  }
  SECTION("a g_idx out of range") {
    check_problem("g_idx", [](auto const& folder) {
      auto f = tensor_file::read(folder / "model.safetensors");
      f.set("model.layers.0.mlp.down_proj.g_idx", 0, std::string("\x09\x00\x00\x00", 4));
      f.write(folder / "model.safetensors");
    });
  }
  SECTION("a scale that is NaN") {
    check_problem("scales", [](auto const& folder) {
      auto f = tensor_file::read(folder / "model.safetensors");
      f.set("model.layers.0.mlp.down_proj.scales", 0, std::string("\xff\x7f", 2));
      f.write(folder / "model.safetensors");
    });
  }
  SECTION("sizes that config.json does not say") {
    check_problem("intermediate_size", [](auto const& folder) {
      gptq::json config = gptq::read_json(folder / "config.json");
      config.erase("intermediate_size");
      std::ofstream(folder / "config.json", std::ios::trunc) << config.dump();
    });
  }
}

TEST_CASE("a folder that can't be opened is refused", "[app]") {
  model_copy const m;
  check_refused(run_app({"inspect", (m.folder() / "none").string()}), 1, {"none"});
  check_refused(run_app({"inspect", m.weights().string()}), 1, {"model.safetensors"});
  m.set_weights(test::file_text(m.weights()).substr(0, 5000));
  check_refused(run_app({"inspect", m.model().string(), "--json"}), 1, {"model.safetensors"});
}
