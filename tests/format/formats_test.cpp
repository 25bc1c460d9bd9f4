// Every format through the one dispatch: what it stores, refuses and declares.
#include <gptq/core/grid.hpp>
#include <gptq/format/formats.hpp>
#include <gptq/format/quantization_config.hpp>
#include <gptq/pack/pack.hpp>

#include "support/catch.hpp"
#include "support/random_linear.hpp"

#include <map>
#include <string>
#include <vector>

namespace {

using gptq::checkpoint_format;
using gptq::remedy;

/// What a writer gets, and a source of the same tensors.
struct tensors_in_memory {
  std::vector<gptq::tensor_outline> order;
  std::map<std::string, std::vector<std::byte>> bytes;
  std::map<std::string, gptq::tensor_view> views;

  void add(std::string const& name, gptq::dtype type, std::vector<std::int64_t> const& shape,
           std::span<std::byte const> data) {
    order.push_back({name, type, shape});
    auto& own = bytes[name] = {data.begin(), data.end()};
    views[name] = {name, type, shape, own, {}};
  }
  gptq::tensor_view const* find(std::string const& name) const {
    auto const at = views.find(name);
    return at == views.end() ? nullptr : &at->second;
  }
};

gptq::layer_outline outline(gptq::layer_format spec, gptq::index_t in = 128, gptq::index_t out = 64) {
  return {.name = "l", .in_features = in, .out_features = out, .spec = spec};
}

template <class T>
bool equal(gptq::matrix<T> const& a, gptq::matrix<T> const& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && std::equal(a.data(), a.data() + a.size(), b.data());
}

}  // namespace

TEST_CASE("formats: each has a name by which it is found, and its settings say which it is", "[formats]") {
  std::vector<std::string> names;
  gptq::for_each_format([&](auto f) {
    CHECK(gptq::find_format(f.name) == f.id);
    CHECK(to_string(f.id) == f.name);
    names.emplace_back(f.name);
    gptq::quantization_config c;
    c.format = f.id;
    c.base = {{.bits = 8, .group_size = 64, .sym = false}, false};
    auto const back = gptq::parse_quantization_config(to_json(c), "settings");
    CHECK(back.format == f.id);
    CHECK(back.base == c.base);
  });
  CHECK(names == gptq::format_names());
  CHECK_FALSE(gptq::find_format("awq"));
  CHECK_THROWS_WITH(gptq::parse_quantization_config({{"quant_method", "awq"}}, "config.json"),
                    test::contains("config.json: quant_method \"awq\" is not supported"));
}

TEST_CASE("formats: what is written is what the layout says, and reads back", "[formats]") {
  int const bits = GENERATE(2, 3, 4, 8);
  bool const sym = GENERATE(false, true);
  int const group_size = GENERATE(-1, 32, 48);
  auto const q = test::random_linear(128, 64, {.bits = bits, .group_size = group_size, .sym = sym}, 1);
  auto const p = gptq::pack(q, checkpoint_format::gptq_v2);
  gptq::for_each_format([&](auto f) {
    if (f.accepts(gptq::view(p))) return;
    CAPTURE(std::string(f.name), bits, sym, group_size);
    tensors_in_memory files;
    gptq::write_quantized(files, "l", gptq::view(p), f.id);
    auto const planned = gptq::layout(f.id, outline(q.spec));
    REQUIRE(files.order.size() == planned.size());
    for (std::size_t i = 0; i < planned.size(); ++i) {
      CHECK(files.order[i].name == planned[i].name);
      CHECK(files.order[i].type == planned[i].type);
      CHECK(files.order[i].shape == planned[i].shape);
      CHECK(files.bytes.at(planned[i].name).size() == planned[i].bytes());
    }
    std::string const name = "l";
    std::vector<gptq::problem> problems;
    gptq::module_problems found(name, problems);
    auto const module = f.read([&](std::string const& t) { return files.find(t); }, name, q.spec, found);
    REQUIRE(module);
    CHECK(problems.empty());
    auto const back = gptq::unpack(module->tensors);
    CHECK(equal(back.codes, q.codes));
    CHECK(equal(back.scales, q.scales));
    CHECK(equal(back.zeros, q.zeros));
    CHECK(back.g_idx == q.g_idx);
  });
}

TEST_CASE("formats: what a file can't say is refused with what to change", "[formats]") {
  using gptq::accepts;
  auto scattered = outline({.group_size = 32});
  scattered.scattered = true;
  CHECK_FALSE(accepts(checkpoint_format::gptq, scattered));
  REQUIRE(accepts(checkpoint_format::compressed_tensors, scattered));
  CHECK(accepts(checkpoint_format::compressed_tensors, scattered)->change == remedy::order_group_aware);
  CHECK_FALSE(accepts(checkpoint_format::gptq_v2, outline({.bits = 3})));
  REQUIRE(accepts(checkpoint_format::compressed_tensors, outline({.bits = 3})));
  CHECK(accepts(checkpoint_format::compressed_tensors, outline({.bits = 3}))->change.contains(remedy::format_gptq));

  auto q = test::random_linear(64, 32, {.bits = 4, .group_size = 32, .sym = false}, 1);
  q.zeros(1, 5) = 0;
  auto const p = gptq::pack(q, checkpoint_format::gptq_v2);
  CHECK_FALSE(accepts(checkpoint_format::gptq_v2, gptq::view(p)));
  CHECK_FALSE(accepts(checkpoint_format::compressed_tensors, gptq::view(p)));
  auto const no = accepts(checkpoint_format::gptq, gptq::view(p));
  REQUIRE(no);
  CHECK(no->reason == "the zero point of group 1, output 5 is 0, which format gptq can't store");
  CHECK(no->change == remedy::format_gptq_v2);
  tensors_in_memory files;
  try {
    gptq::write_quantized(files, "l", gptq::view(p), checkpoint_format::gptq);
    FAIL("written");
  } catch (gptq::format_error const& e) {
    CHECK_THAT(e.what(), test::contains("l: the zero point of group 1, output 5"));
    CHECK(e.change() == remedy::format_gptq_v2);
  }
  CHECK(files.order.empty());
}

TEST_CASE("formats: shapes that readers do not take are refused before a solve, and copied where they exist",
          "[formats]") {
  gptq::for_each_format([&](auto f) {
    CHECK_FALSE(f.accepts(outline({.bits = 4, .group_size = 32})));
    REQUIRE(f.accepts(outline({.bits = 4, .group_size = 256})));
    CHECK(f.accepts(outline({.bits = 4, .group_size = 256}))->reason ==
          "group_size 256 does not divide the 128 inputs");
    REQUIRE(f.accepts(outline({.bits = 2, .group_size = -1}, 128, 72)));
    CHECK(f.accepts(outline({.bits = 2, .group_size = -1}, 128, 72))->reason ==
          "2 bit codes of 72 outputs do not fill whole words");
    CHECK(f.accepts(outline({.bits = 8, .group_size = -1}, 126))->reason ==
          "8 bit codes of 126 inputs do not fill whole words");
    auto const p = gptq::pack(test::random_linear(90, 9, {.bits = 4, .group_size = 48}, 1), checkpoint_format::gptq);
    CHECK_FALSE(f.accepts(gptq::view(p)));
  });
}

TEST_CASE("formats: only version 1 limits the zero points of a solve", "[formats]") {
  gptq::for_each_format([](auto f) {
    gptq::grid_options grid;
    gptq::constrain(f.id, grid);
    CHECK(grid.nonzero_zeros == (f.id == checkpoint_format::gptq));
  });
}

TEST_CASE("formats: layers in float are declared in the words of the format", "[formats]") {
  gptq::float_layers const floats = {
      .names = {"a.o_proj", "lm_head"},
      .rules = gptq::parse_dynamic_rules({{"-:a\\.o_proj$", gptq::json::object()}}, "rules"),
      .quantized = {{"a.q_proj"}}};
  gptq::for_each_format([&](auto f) {
    gptq::quantization_config c;
    c.format = f.id;
    c.dynamic = gptq::parse_dynamic_rules({{"-:old$", gptq::json::object()}, {"+:b", {{"bits", 8}}}}, "rules");
    f.declare_float(c, floats);
    auto const back = gptq::parse_quantization_config(to_json(c), "settings");
    CHECK_FALSE(back.settings_for("a.o_proj"));
    CHECK(back.settings_for("old"));
    CHECK(back.settings_for("b")->bits == 8);
    CHECK(back.modules_in_block_to_quantize.empty() == (f.id == checkpoint_format::compressed_tensors));
  });
}
