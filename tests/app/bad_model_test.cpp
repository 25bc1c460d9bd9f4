// Model folders that must not be quantized: one line that names file, tensor or key, and nothing written.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <fstream>

namespace {

using test::model_copy;
using test::tensor_file;

std::string const norm = "model.norm.weight";
std::string const query = "model.layers.1.self_attn.q_proj.weight";
std::string const down = "model.layers.2.mlp.down_proj.weight";
char const* const weights = "model.safetensors";

/// Splits the weights in two files with an index, which `spoil` may change.
template <class F>
void split(model_copy const& m, F&& spoil) {
  auto const whole = tensor_file::read(m.weights());
  auto const names = whole.names();
  auto const middle = names.begin() + static_cast<std::ptrdiff_t>(names.size() / 2);
  std::string const parts[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  whole.part({names.begin(), middle}).write(m.model() / parts[0]);
  whole.part({middle, names.end()}).write(m.model() / parts[1]);
  gptq::json map = gptq::json::object();
  for (auto name = names.begin(); name != names.end(); ++name) map[*name] = parts[name < middle ? 0 : 1];
  gptq::json index = {{"metadata", {{"total_size", whole.data.size()}}}, {"weight_map", std::move(map)}};
  std::filesystem::remove(m.weights());
  spoil(index);
  std::ofstream(m.model() / "model.safetensors.index.json") << index.dump();
}

}  // namespace

TEST_CASE("missing, empty and truncated weights are refused", "[app]") {
  model_copy const m;
  std::string const good = test::file_text(m.weights());
  SECTION("missing") {
    std::filesystem::remove(m.weights());
    m.check_refused({"model", "safetensors"});
  }
  SECTION("empty") {
    m.set_weights("");
    m.check_refused({weights});
  }
  SECTION("without a byte of data") {
    m.set_weights(good.substr(0, good.size() - 1));
    m.check_refused({weights});
  }
  SECTION("cut inside the header") {
    m.set_weights(good.substr(0, 100));
    m.check_refused({weights});
  }
  SECTION("cut inside the length") {
    m.set_weights(good.substr(0, 5));
    m.check_refused({weights});
  }
  SECTION("one byte more") {
    m.set_weights(good + "x");
    m.check_refused({weights});
  }
}

TEST_CASE("hostile headers are refused", "[app]") {
  model_copy const m;
  auto const spoil = [&](std::string const& tensor, auto&& change) {
    m.edit_weights([&](tensor_file& f) { change(f.header.at(tensor), f); });
  };
  auto const length = [&](std::uint64_t n) {
    std::string bytes = test::file_text(m.weights());
    std::memcpy(bytes.data(), &n, 8);
    m.set_weights(bytes);
  };
  SECTION("length of the header beyond the file") {
    length(std::uint64_t{1} << 30);
    m.check_refused({weights, "header"});
  }
  SECTION("length of the header that overflows") {
    length(~std::uint64_t{0} - 3);
    m.check_refused({weights, "header"});
  }
  SECTION("no JSON") {
    m.set_weights(tensor_file::bytes("{\"a\": ", "data"));
    m.check_refused({weights, "JSON"});
  }
  SECTION("offsets beyond the file") {
    spoil(norm, [](gptq::json& t, tensor_file&) { t["data_offsets"] = {1'000'000'000, 1'000'000'256}; });
    m.check_refused({weights, norm});
  }
  SECTION("offsets that run backwards") {
    spoil(norm, [](gptq::json& t, tensor_file&) { t["data_offsets"] = {256, 0}; });
    m.check_refused({weights, norm});
  }
  SECTION("offsets below zero") {
    spoil(norm, [](gptq::json& t, tensor_file&) { t["data_offsets"] = {-256, 0}; });
    m.check_refused({weights, norm});
  }
  SECTION("two tensors in one place") {
    spoil(norm, [](gptq::json& t, tensor_file& f) {
      t["data_offsets"] = f.header.at("model.layers.0.input_layernorm.weight").at("data_offsets");
    });
    m.check_refused({weights});
  }
  SECTION("a shape whose product overflows") {
    spoil(norm, [](gptq::json& t, tensor_file&) { t["shape"] = {std::int64_t{1} << 62, 16}; });
    m.check_refused({weights, norm});
  }
  SECTION("a shape that its bytes do not fill") {
    spoil(norm, [](gptq::json& t, tensor_file&) { t["shape"] = {1'000'000'000}; });
    m.check_refused({weights, norm});
  }
  SECTION("a negative shape") {
    spoil(norm, [](gptq::json& t, tensor_file&) { t["shape"] = {-128}; });
    m.check_refused({weights, norm});
  }
  SECTION("an unknown type") {
    spoil(norm, [](gptq::json& t, tensor_file&) { t["dtype"] = "Q4"; });
    m.check_refused({weights, norm, "Q4"});
  }
  SECTION("one name twice") {
    auto const f = tensor_file::read(m.weights());
    std::string header = f.header.dump();
    header.insert(1, "\"" + norm + "\":" + f.header.at(norm).dump() + ",");
    m.set_weights(tensor_file::bytes(header, f.data));
    m.check_refused({weights, norm});
  }
}

TEST_CASE("index and shards must agree", "[app]") {
  model_copy const m;
  SECTION("as they should be") {
    split(m, [](gptq::json&) {});
    test::run_well(m.small_run());
  }
  SECTION("a file that is not there") {
    split(m, [](gptq::json&) {});
    std::filesystem::remove(m.model() / "model-00002-of-00002.safetensors");
    m.check_refused({"model-00002-of-00002.safetensors"});
  }
  SECTION("a tensor that is in another file") {
    split(m, [](gptq::json& index) {
      auto& place = index["weight_map"][norm];
      place = place == "model-00001-of-00002.safetensors" ? "model-00002-of-00002.safetensors"
                                                          : "model-00001-of-00002.safetensors";
    });
    m.check_refused({norm});
  }
  SECTION("a tensor that the index does not name") {
    split(m, [](gptq::json& index) { index["weight_map"].erase(norm); });
    m.check_refused({norm});
  }
  SECTION("a tensor that no file holds") {
    split(m, [](gptq::json& index) { index["weight_map"]["model.extra"] = "model-00001-of-00002.safetensors"; });
    m.check_refused({"model.extra"});
  }
  SECTION("a way out of the folder") {
    split(m, [](gptq::json& index) { index["weight_map"][norm] = "../model.safetensors"; });
    m.check_refused({"index", "../model.safetensors"});
  }
  SECTION("shards without an index") {
    split(m, [](gptq::json&) {});
    std::filesystem::remove(m.model() / "model.safetensors.index.json");
    m.check_refused({"safetensors"});
  }
}

TEST_CASE("tensors must be there, in shape and type", "[app]") {
  model_copy const m;
  SECTION("a missing one, and all that are missing are named") {
    m.edit_weights([](tensor_file& f) {
      auto names = f.names();
      std::erase(names, norm);
      std::erase(names, down);
      f = f.part(names);
    });
    m.check_refused({norm, down});
  }
  SECTION("another shape") {
    m.edit_weights([](tensor_file& f) { f.header.at(query)["shape"] = {64, 256}; });
    m.check_refused({query, "128", "256"});
  }
  SECTION("a size that config.json does not say") {
    m.edit_json("config.json", [](gptq::json& c) { c["intermediate_size"] = 512; });
    m.check_refused({"mlp.gate_proj.weight", "512"});
  }
  SECTION("integers") {
    m.edit_weights([](tensor_file& f) { f.header.at(query)["dtype"] = "I16"; });
    m.check_refused({query, "I16"});
  }
}

TEST_CASE("NaN and Inf in weights are refused before any work", "[app]") {
  model_copy const m;
  struct place {
    std::string tensor, bits;
  };
  auto const at = GENERATE_COPY(values<place>({{query, {"\xc0\x7f", 2}},
                                               {norm, {"\x80\x7f", 2}},
                                               {down, {"\x80\xff", 2}},
                                               {"model.embed_tokens.weight", {"\xff\xff", 2}}}));
  m.edit_weights([&](tensor_file& f) { f.set(at.tensor, 20, at.bits); });
  m.check_refused({weights, at.tensor, "NaN"});
}

TEST_CASE("--dtype float16 refuses values that float16 can't hold", "[app]") {
  model_copy const m;
  m.edit_weights([](tensor_file& f) { f.set(norm, 10, std::string("\x80\x47", 2)); });  // 65536
  m.check_refused({norm, "65536", "float16", "--dtype keep"}, {"--dtype", "float16"});
  test::run_well(m.small_run({"--dtype", "keep"}));
}

TEST_CASE("a family that is not supported is refused by name before weights are read", "[app]") {
  model_copy const m;
  m.set_weights("");
  m.edit_json("config.json", [](gptq::json& c) { c["model_type"] = "gpt_neox"; });
  m.check_refused({"config.json", "gpt_neox", "llama", "mistral", "qwen2"});
}

TEST_CASE("a config.json that makes no sense is refused", "[app]") {
  model_copy const m;
  SECTION("missing") {
    std::filesystem::remove(m.model() / "config.json");
    m.check_refused({"config.json", "No such file"});
  }
  SECTION("no JSON") {
    std::ofstream(m.model() / "config.json", std::ios::trunc) << "model_type: qwen2";
    m.check_refused({"config.json", "JSON"});
  }
  SECTION("a missing key") {
    m.edit_json("config.json", [](gptq::json& c) { c.erase("hidden_size"); });
    m.check_refused({"config.json", "hidden_size"});
  }
  SECTION("an absurd size") {
    m.edit_json("config.json", [](gptq::json& c) { c["num_hidden_layers"] = 1'000'000'000'000; });
    m.check_refused({"config.json", "num_hidden_layers"});
  }
  SECTION("heads that do not fit") {
    m.edit_json("config.json", [](gptq::json& c) { c["num_key_value_heads"] = 3; });
    m.check_refused({"config.json", "num_key_value_heads"});
  }
  SECTION("another kind of positions") {
    m.edit_json("config.json", [](gptq::json& c) { c["rope_parameters"]["rope_type"] = "spiral"; });
    m.check_refused({"config.json", "spiral"});
  }
}

TEST_CASE("a group size that does not divide the inputs is refused, naming the layers", "[app]") {
  model_copy const m;
  m.check_refused({"group_size 256", "model.layers.0.self_attn.q_proj"}, {"--group-size", "256"});
}

TEST_CASE("a model that is quantized already is refused", "[app]") {
  model_copy const m;
  test::run_well(m.small_run());
  auto const again = m.results() / "again";
  test::check_refused(test::run_app({"quantize", m.output().string(), again.string(), "--calibration",
                                     (test::bundled_model() / "calibration.txt").string(), "--samples", "2"}),
                      1, {m.output().string(), "quantized already"});
  CHECK(test::names_in(m.results()) == std::vector<std::string>{"out"});
}

TEST_CASE("weights too large for float16 scales are refused, naming the layer among those that share an input",
          "[app]") {
  model_copy const m;
  m.edit_weights(
      [](tensor_file& f) { f.set("model.layers.0.mlp.up_proj.weight", 2 * 128, "\xff\x49"); });  // 2e6, row 1
  auto const r = test::run_app(m.small_run());
  CHECK(r.code == 1);
  CHECK_THAT(r.err, test::contains("model.layers.0.mlp.up_proj: quantize: the scale of output 1, group 0"));
}

TEST_CASE("activations that overflow are refused, naming the layer", "[app]") {
  model_copy const m;
  m.edit_weights([](tensor_file& f) {
    std::string huge;
    for (int i = 0; i < 128; ++i) huge += std::string("\x00\x7f", 2);  // 1.7e38
    f.set("model.layers.1.post_attention_layernorm.weight", 0, huge);
  });
  auto const r = test::run_app(m.small_run());
  INFO(r.err);
  CHECK(r.code == 1);
  CHECK_THAT(r.err, test::contains("model.layers.1.mlp"));
  CHECK(test::names_in(m.results()).empty());
}
