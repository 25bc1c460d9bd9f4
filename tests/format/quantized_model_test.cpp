#include <gptq/engines/inspect.hpp>
#include <gptq/format/quantized_model.hpp>
#include <gptq/pack/dequantize.hpp>

#include "support/files.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

using gptq::json;
using test::message_of;
using test::raw_tensor;

namespace {

/// The tensors of one 4-bit linear "l", 64 → 24, in groups of 32, and a norm beside it.
struct layer {
  std::vector<raw_tensor> tensors;
  json config = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}, {"desc_act", false}, {"sym", true}};

  layer() {
    std::vector<std::uint32_t> const qweight(8 * 24, 0x87654321);
    std::vector<std::uint32_t> const qzeros(2 * 3, 0x77777777);
    std::vector<std::uint16_t> const scales(2 * 24, 0x3800);  // 0.5
    std::vector<std::int32_t> g_idx(64);
    for (std::size_t k = 0; k < 64; ++k) g_idx[k] = static_cast<std::int32_t>(k / 32);
    tensors = {{"l.qweight", "I32", {8, 24}, test::bytes_of(qweight)},
               {"l.qzeros", "I32", {2, 3}, test::bytes_of(qzeros)},
               {"l.scales", "F16", {2, 24}, test::bytes_of(scales)},
               {"l.g_idx", "I32", {64}, test::bytes_of(g_idx)},
               {"norm.weight", "F32", {3}, std::string(12, '\0')}};
  }
  raw_tensor& operator[](std::string const& suffix) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](auto const& t) { return t.name == "l." + suffix; });
  }
  void erase(std::string const& suffix) { tensors.erase(tensors.begin() + (&(*this)[suffix] - tensors.data())); }
  template <class T>
  void set(std::string const& suffix, std::size_t at, T value) {
    std::memcpy((*this)[suffix].bytes.data() + at * sizeof(T), &value, sizeof(T));
  }
  void write(test::temp_dir const& dir) const {
    dir.write("model.safetensors", test::safetensors_bytes(tensors));
    dir.write("config.json", json{{"model_type", "toy"}, {"quantization_config", config}}.dump());
    dir.write("quantize_config.json", config.dump());
  }
};

/// Opens what the layer writes and passes reader and model on.
template <class F>
void with_model(layer const& l, F&& f) {
  test::temp_dir const dir;
  l.write(dir);
  gptq::checkpoint_reader const reader(dir.path());
  f(gptq::quantized_model(reader, *gptq::read_quantization_config(dir.path(), reader.config())));
}

std::string refusal(layer const& l) {
  return message_of([&] { with_model(l, [](auto const&) {}); });
}

/// The problems that inspect finds, one line each.
std::string problems(layer const& l) {
  test::temp_dir const dir;
  l.write(dir);
  std::string text;
  for (auto const& p : gptq::inspect(dir.path()).problems) text += to_string(p) + (p.fatal ? " (fatal)\n" : "\n");
  return text;
}

}  // namespace

TEST_CASE("a well-formed layer is read in place", "[quantized]") {
  with_model(layer(), [](gptq::quantized_model const& m) {
    REQUIRE(m.modules().size() == 1);
    gptq::quantized_module const* const l = m.find("l");
    REQUIRE(l);
    CHECK(m.find("norm") == nullptr);
    CHECK(l->tensors.in_features == 64);
    CHECK(l->tensors.out_features == 24);
    CHECK(l->tensors.groups == 2);
    CHECK(l->tensors.spec == gptq::layer_format{.bits = 4, .group_size = 32});
    CHECK_FALSE(l->scattered);
    CHECK(l->bias == nullptr);
    CHECK(l->bytes == 8 * 24 * 4 + 2 * 3 * 4 + 2 * 24 * 2 + 64 * 4);
    auto const w = gptq::dequantize(l->tensors);
    CHECK(w(0, 0) == 0.5f * (1 - 8));
    CHECK(w(23, 63) == 0.5f * (8 - 8));
  });
  CHECK(problems(layer()).empty());
}

TEST_CASE("words may lie unaligned in the file", "[quantized]") {
  layer l;
  l.tensors.insert(l.tensors.begin(), {"x", "U8", {1}, "1"});
  with_model(l, [](gptq::quantized_model const& m) {
    CHECK(reinterpret_cast<std::uintptr_t>(m.find("l")->tensors.qweight) % 4 != 0);
    CHECK(gptq::dequantize(m.find("l")->tensors)(5, 1) == 0.5f * (2 - 8));
  });
}

TEST_CASE("scales of other types and a bias are accepted", "[quantized]") {
  layer l;
  l["scales"] = {"l.scales", "BF16", {2, 24}, test::bytes_of(std::vector<std::uint16_t>(48, 0x3f00))};
  l.tensors.push_back({"l.bias", "F16", {24}, std::string(48, '\0')});
  with_model(l, [](gptq::quantized_model const& m) {
    CHECK(m.find("l")->bias);
    CHECK(m.find("l")->scales == gptq::dtype::bf16);
    CHECK(gptq::dequantize(m.find("l")->tensors)(0, 0) == -3.5f);
  });
  l["scales"] = {"l.scales", "F32", {2, 24}, test::bytes_of(std::vector<float>(48, 0.25f))};
  with_model(l, [](gptq::quantized_model const& m) { CHECK(gptq::dequantize(m.find("l")->tensors)(0, 0) == -1.75f); });
}

TEST_CASE("a missing g_idx means position / group_size, and is a problem for others", "[quantized]") {
  layer l;
  l.erase("g_idx");
  with_model(l, [](gptq::quantized_model const& m) {
    CHECK(m.find("l")->tensors.in_features == 64);
    CHECK(gptq::dequantize(m.find("l")->tensors)(0, 0) == -3.5f);
  });
  CHECK(problems(l) == "C1 l: has no g_idx: some readers need it\n");
}

TEST_CASE("zero points that are left out, or empty, are those of symmetric grids", "[quantized]") {
  auto const expected = [](gptq::quantized_model const& m) {
    auto const w = gptq::dequantize(m.find("l")->tensors);
    CHECK(w(0, 0) == 0.5f * (1 - 8));
    CHECK(w(23, 63) == 0.5f * (8 - 8));
  };
  char const* const version = GENERATE("gptq", "gptq_v2");
  layer l;
  l.config["checkpoint_format"] = version;
  SECTION("absent") {
    l.erase("qzeros");
    with_model(l, expected);
    CHECK(problems(l) == "C1 l: has no zero points: some readers need them\n");
    l.config["sym"] = false;
    CHECK_THAT(refusal(l), test::contains("l: missing tensors: l.qzeros"));
  }
  SECTION("empty") {
    auto const shape = GENERATE(std::vector<std::int64_t>{2, 0}, std::vector<std::int64_t>{0});
    l["qzeros"] = {"l.qzeros", "I32", shape, ""};
    with_model(l, expected);
    CHECK(problems(l) == "C1 l: has no zero points: some readers need them\n");
    l.config["sym"] = false;
    CHECK_THAT(refusal(l), test::contains("qzeros is empty, but sym is false"));
  }
  SECTION("more groups than inputs are refused before anything is made of them") {
    l["qzeros"] = {"l.qzeros", "I32", {0}, ""};
    l["scales"] = {"l.scales", "F16", {128, 24}, test::bytes_of(std::vector<std::uint16_t>(128 * 24, 0x3800))};
    CHECK_THAT(refusal(l), test::contains("shapes do not fit together"));
  }
}

TEST_CASE("the width comes from the shapes, whatever the config says", "[quantized]") {
  layer l;
  l.config["bits"] = 8;
  l.config["group_size"] = 128;
  with_model(l, [](gptq::quantized_model const& m) {
    CHECK(m.find("l")->tensors.spec.bits == 4);
    CHECK(m.find("l")->tensors.spec.group_size == 32);
  });
  CHECK(problems(l) == "C6 l: has 4 bits, group_size 32; the config says 8 and 128\n");
}

TEST_CASE("C1: tensors that are missing, doubled or of the wrong kind are refused", "[quantized]") {
  layer l;
  SECTION("all missing ones are listed") {
    l.config["sym"] = false;
    l.erase("qzeros");
    l.erase("scales");
    CHECK_THAT(refusal(l), test::contains("l: missing tensors: l.qzeros, l.scales"));
  }
  SECTION("qweight alone missing") {
    l.erase("qweight");
    CHECK_THAT(refusal(l), test::contains("missing tensors: l.qweight"));
  }
  SECTION("a float weight beside") {
    l.tensors.push_back({"l.weight", "F16", {1}, "xx"});
    CHECK_THAT(refusal(l), test::contains("both .weight and .qweight"));
  }
  SECTION("dtype") {
    l["qzeros"].dtype = "F32";
    CHECK_THAT(refusal(l), test::contains("l.qzeros is F32 [2, 3], not I32"));
  }
  SECTION("scales dtype") {
    l["scales"].dtype = "I16";
    CHECK_THAT(refusal(l), test::contains("l.scales is I16"));
  }
  SECTION("dimensions") {
    l["g_idx"].shape = {8, 8};
    CHECK_THAT(refusal(l), test::contains("l.g_idx is I32 [8, 8]"));
  }
  SECTION("rows of qweight") {
    l["qweight"].shape = {6, 32};
    CHECK_THAT(refusal(l), test::contains("shapes do not fit together: qweight [6, 32]"));
  }
  SECTION("columns of scales") {
    l["scales"].shape = {3, 16};
    CHECK_THAT(refusal(l), test::contains("scales [3, 16]"));
  }
  SECTION("rows of qzeros") {
    l["qzeros"].shape = {3, 2};
    CHECK_THAT(refusal(l), test::contains("qzeros [3, 2]"));
  }
  SECTION("length of the bias") {
    l.tensors.push_back({"l.bias", "F16", {23}, std::string(46, '\0')});
    CHECK_THAT(refusal(l), test::contains("bias [23]"));
  }
  SECTION("nothing at all, in absurd numbers") {
    l["qweight"] = {"l.qweight", "I32", {std::int64_t{1} << 60, 0}, ""};
    CHECK_THAT(refusal(l), test::contains("shapes do not fit"));
    l["qweight"] = {"l.qweight", "I32", {0, std::int64_t{1} << 60}, ""};
    CHECK_THAT(refusal(l), test::contains("shapes do not fit"));
    l.erase("g_idx");
    CHECK_THAT(refusal(l), test::contains("shapes do not fit"));
    l["qweight"] = {"l.qweight", "I32", {std::int64_t{1} << 60, 0}, ""};
    CHECK_THAT(refusal(l), test::contains("shapes do not fit"));
  }
  SECTION("groups that nothing explains") {
    l["g_idx"].bytes = test::bytes_of(std::vector<std::int32_t>(64, 0));
    l.config["group_size"] = 16;
    CHECK_THAT(refusal(l), test::contains("2 groups do not fit 64 inputs at group_size 16"));
    l["g_idx"].bytes = test::bytes_of(std::vector<std::int32_t>(64, 1));
    CHECK_THAT(refusal(l), test::contains("2 groups do not fit"));
  }
}

TEST_CASE("all modules that can't be read are listed", "[quantized]") {
  layer l;
  layer other;
  for (raw_tensor& t : other.tensors) {
    t.name = "m" + t.name.substr(1);
    if (t.name.ends_with("qzeros")) t.dtype = "F32";
    if (!t.name.ends_with("weight") || t.name.ends_with("qweight")) l.tensors.push_back(t);
  }
  l.erase("scales");
  CHECK_THAT(refusal(l), test::contains("l: missing tensors: l.scales") && test::contains("; m: m.qzeros is F32"));
}

TEST_CASE("C2: desc_act and g_idx must agree", "[quantized]") {
  layer l;
  l.config["desc_act"] = true;
  CHECK(problems(l) == "C2 l: desc_act is true, but g_idx is position / group_size\n");
  l.set("g_idx", 0, std::int32_t{1});
  l.set("g_idx", 63, std::int32_t{0});
  CHECK(problems(l).empty());
  with_model(l, [](gptq::quantized_model const& m) { CHECK(m.find("l")->scattered); });
  l.config["desc_act"] = false;
  CHECK(problems(l) == "C2 l: g_idx is scattered, but desc_act is false\n");
}

TEST_CASE("C3: the stored zeros must be those of format and sym", "[quantized]") {
  layer l;
  l.config["checkpoint_format"] = "gptq_v2";
  CHECK_THAT(problems(l), test::contains("C3 l: zero point [0, 0] is 7, but sym is true: stored in the other format?"));
  l.config["checkpoint_format"] = "gptq";
  l["qzeros"].bytes = test::bytes_of(std::vector<std::uint32_t>(6, 0x88888888));
  CHECK_THAT(problems(l), test::contains("zero point [0, 0] is 9, but sym is true: stored in the other format?"));
  l["qzeros"].bytes = test::bytes_of(std::vector<std::uint32_t>(6, 0x77777727));
  CHECK(problems(l) == "C3 l: zero point [0, 1] is 3, but sym is true\n");
  l.config["sym"] = false;
  CHECK(problems(l).empty());
  l["qzeros"].bytes = test::bytes_of(std::vector<std::uint32_t>(6, 0x777777F7));
  CHECK_THAT(problems(l), test::contains("zero point [0, 1] is 0, which readers of format gptq disagree about"));
}

TEST_CASE("C4: the two config files must be identical", "[quantized]") {
  test::temp_dir const dir;
  layer l;
  auto const inspected = [&] {
    std::string text;
    for (auto const& p : gptq::inspect(dir.path()).problems) text += to_string(p) + "\n";
    return text;
  };
  l.write(dir);
  json reordered = json::object();
  for (auto at = l.config.rbegin(); at != l.config.rend(); ++at) reordered[at.key()] = at.value();
  dir.write("quantize_config.json", reordered.dump());
  CHECK(inspected().empty());
  reordered["group_size"] = 64;
  dir.write("quantize_config.json", reordered.dump());
  CHECK(inspected() == "C4 quantize_config.json: differs from config.json\n");
  std::filesystem::remove(dir / "quantize_config.json");
  CHECK_THAT(inspected(),
             test::contains("C4 quantize_config.json: does not have the quantization settings that config.json has"));
  dir.write("config.json", "{}");
  dir.write("quantize_config.json", l.config.dump());
  CHECK_THAT(inspected(), test::contains("C4 config.json: does not have"));
  dir.write("quantize_config.json", R"({"quant_method": "awq"})");
  CHECK_THAT(inspected(),
             test::contains("\"awq\" is not supported") && test::contains("no usable quantization settings"));
}

TEST_CASE("C5: g_idx is in range with full groups, scales are positive and finite", "[quantized]") {
  layer l;
  SECTION("out of range") {
    l.set("g_idx", 7, std::int32_t{2});
    CHECK_THAT(refusal(l), test::contains("g_idx[7] = 2 is outside the 2 groups"));
    l.set("g_idx", 7, std::int32_t{-1});
    CHECK_THAT(refusal(l), test::contains("g_idx[7] = -1"));
  }
  SECTION("populations") {
    l.set("g_idx", 0, std::int32_t{1});
    CHECK_THAT(problems(l), test::contains("C5 l: group 0 has 31 inputs, not 32"));
  }
  SECTION("zero and negative scales are a problem") {
    l.set("scales", 30, std::uint16_t{0});
    CHECK(problems(l) == "C5 l: scales[1, 6] = 0.000000\n");
    l.set("scales", 30, std::uint16_t{0xb800});
    CHECK_THAT(problems(l), test::contains("scales[1, 6] = -0.5"));
    CHECK_NOTHROW(with_model(l, [](auto const&) {}));
  }
  SECTION("NaN and infinity are refused") {
    l.set("scales", 30, std::uint16_t{0x7c00});
    CHECK_THAT(refusal(l), test::contains("scales[1, 6] = inf"));
    l.set("scales", 30, std::uint16_t{0x7e01});
    CHECK_THAT(refusal(l), test::contains("scales[1, 6] = nan"));
  }
}

TEST_CASE("settings and tensors that contradict each other are a problem", "[quantized]") {
  layer l;
  l.config["dynamic"] = {{"-:l", json::object()}};
  CHECK_THAT(problems(l), test::contains("C6 l: is quantized, but a rule"));
  l = layer();
  l.tensors = {{"norm.weight", "F32", {1}, "1234"}};
  CHECK_THAT(problems(l), test::contains("C6 config.json: quantization settings, but no quantized tensor"));
  l = layer();
  l.config["lm_head"] = true;
  CHECK_THAT(problems(l), test::contains("C6 lm_head: is not quantized, but \"lm_head\" is true"));
}

TEST_CASE("flipped bytes in a quantized folder never do more than throw", "[quantized]") {
  test::temp_dir const dir;
  layer const l;
  l.write(dir);
  std::string const weights = test::read_text(dir / "model.safetensors");
  std::string const config = test::read_text(dir / "config.json");
  std::filesystem::remove(dir / "quantize_config.json");
  unsigned state = 3;
  auto const random = [&] { return state = state * 1664525u + 1013904223u, state >> 8; };
  auto const flipped = [&](std::string text, std::size_t within) {
    for (unsigned n = random() % 3; n > 0; --n) text[random() % within] = static_cast<char>(random());
    return text;
  };
  int read = 0;
  for (int round = 0; round < 400; ++round) {
    dir.write("model.safetensors", flipped(weights, 900));
    dir.write("config.json", flipped(config, config.size()));
    try {
      gptq::checkpoint_reader const reader(dir.path());
      (void)gptq::to_text(gptq::inspect(reader));
      (void)gptq::to_text(gptq::to_json(gptq::inspect(reader)));
      auto const settings = gptq::read_quantization_config(dir.path(), reader.config());
      if (!settings) continue;
      gptq::quantized_model const m(reader, *settings);
      for (auto const& module : m.modules()) read += gptq::dequantize(module.tensors).size() > 0;
    } catch (gptq::error const& e) {
      REQUIRE(std::string(e.what()).find('\n') == std::string::npos);
    }
  }
  CHECK(read > 30);
}
