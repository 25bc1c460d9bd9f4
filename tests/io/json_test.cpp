#include <gptq/io/json.hpp>

#include "support/files.hpp"

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

using gptq::json;
using test::message_of;

TEST_CASE("keys keep their order through reading and writing", "[json]") {
  test::temp_dir const dir;
  std::string const text =
      "{\n  \"z\": 1,\n  \"a\": [\n    1.5,\n    null,\n    true\n  ],\n  \"m\": {\n    \"é\": \"x\\\"y\"\n  }\n}\n";
  json const document = gptq::read_json(dir.write("in.json", text));
  gptq::write_json(dir / "out.json", document);
  CHECK(test::read_text(dir / "out.json") == text);
}

TEST_CASE("every kind of value is read as the library reads it", "[json]") {
  std::string const text =
      R"({"i":-5,"u":18446744073709551615,"f":1e-5,"s":"\u00e9","b":false,"n":null,"a":[[],{},[1,[2]]],"o":{"o":{"x":{}}}})";
  CHECK(gptq::parse_json(text, "here") == json::parse(text));
  for (char const* const scalar : {"1", "\"x\"", "null", "[]", "{}"})
    CHECK(gptq::parse_json(scalar, "here") == json::parse(scalar));
}

TEST_CASE("malformed documents give one line with file and byte", "[json]") {
  test::temp_dir const dir;
  auto const message = [&](std::string const& text) {
    auto const file = dir.write("bad.json", text);
    std::string const what = message_of([&] { gptq::read_json(file); });
    CHECK(what.find(file.string()) == 0);
    return what;
  };
  CHECK_THAT(message(""), test::contains("empty file"));
  CHECK_THAT(message("{\"a\": 1,}"), test::contains("at byte 9"));
  CHECK_THAT(message("{} x"), test::contains("not valid JSON"));
  CHECK_THAT(message("{\"a\": \"\xff\"}"), test::contains("UTF-8"));
  CHECK_THAT(message("[NaN]"), test::contains("not valid JSON"));
  CHECK_THAT(message("[1e999]"), test::contains("not valid JSON"));
  CHECK_THAT(message("\"line\nbreak\""), test::contains("not valid JSON"));
  CHECK_THAT(message("{\"a\":"), test::contains("unexpected end"));
  CHECK(message("\"" + std::string(100000, 'x')).size() < 1000);
}

TEST_CASE("duplicate keys are refused at any depth", "[json]") {
  CHECK_THAT(message_of([] { gptq::parse_json(R"({"a":1,"b":2,"a":3})", "here"); }),
             test::contains("duplicate key \"a\""));
  CHECK_THAT(message_of([] { gptq::parse_json(R"([{"x":{"b":1,"b":1}}])", "here"); }),
             test::contains("duplicate key \"b\""));
  CHECK_NOTHROW(gptq::parse_json(R"([{"a":1},{"a":2},{"b":{"a":1},"a":1}])", "here"));
}

TEST_CASE("deep nesting is refused, not recursed into", "[json]") {
  std::string const brackets(1'000'000, '[');
  CHECK_THAT(message_of([&] { gptq::parse_json(brackets, "here"); }), test::contains("nested deeper"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  CHECK_THAT(message_of([&] { gptq::parse_json(objects, "here"); }), test::contains("nested deeper"));
  CHECK_NOTHROW(
      gptq::parse_json(std::string(gptq::max_json_depth, '[') + std::string(gptq::max_json_depth, ']'), "here"));
}

TEST_CASE("large objects are read in linear time", "[json]") {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += "\"token" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  text.back() = '}';
  auto const start = std::chrono::steady_clock::now();
  json const document = gptq::parse_json(text, "here");
  CHECK(document.size() == 200'000);
  // Half a second even with sanitizers; searching all earlier keys for each new one takes minutes.
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
}

TEST_CASE("a file that is missing or no file is named", "[json]") {
  test::temp_dir const dir;
  CHECK_THAT(message_of([&] { gptq::read_json(dir / "none.json"); }), test::contains((dir / "none.json").string()));
  CHECK_THAT(message_of([&] { gptq::read_json(dir.path()); }), test::contains("not a regular file"));
}

TEST_CASE("typed access is strict and names file and key", "[json]") {
  json const o = json::parse(R"({"i":4,"neg":-3,"big":5000000000,"f":4.5,"b":true,"s":"x","n":null})");
  CHECK(gptq::value_of<int>(o, "i", "f.json") == 4);
  CHECK(gptq::value_of<std::int64_t>(o, "big", "f.json") == 5000000000);
  CHECK(gptq::value_of<int>(o, "neg", "f.json") == -3);
  CHECK(gptq::value_of<double>(o, "i", "f.json") == 4.0);
  CHECK(gptq::value_of<bool>(o, "b", "f.json"));
  CHECK(gptq::value_of<std::string>(o, "s", "f.json") == "x");
  CHECK(gptq::value_or(o, "n", 7, "f.json") == 7);
  CHECK(gptq::value_or<std::string>(o, "none", "d", "f.json") == "d");

  CHECK(message_of([&] { gptq::value_of<int>(o, "f", "f.json"); }) ==
        "f.json: \"f\" must be an integer in range, not 4.5");
  CHECK_THAT(message_of([&] { gptq::value_of<int>(o, "big", "f.json"); }), test::contains("in range"));
  CHECK_THAT(message_of([&] { gptq::value_of<unsigned>(o, "neg", "f.json"); }), test::contains("in range"));
  CHECK_THAT(message_of([&] { gptq::value_of<int>(o, "b", "f.json"); }), test::contains("not true"));
  CHECK_THAT(message_of([&] { gptq::value_of<std::string>(o, "i", "f.json"); }), test::contains("a string"));
  CHECK_THAT(message_of([&] { gptq::value_of<bool>(o, "i", "f.json"); }), test::contains("true or false"));
  CHECK_THAT(message_of([&] { gptq::value_of<int>(o, "none", "f.json"); }), test::contains("\"none\" is missing"));
  CHECK_THAT(message_of([&] { gptq::value_of<int>(o, "n", "f.json"); }), test::contains("\"n\" is missing"));
  CHECK_THAT(message_of([&] { gptq::value_of<int>(json::array(), "n", "f.json"); }), test::contains("object"));
}

TEST_CASE("json: a NUL byte is no end of a document") {
  using namespace std::string_view_literals;
  CHECK_THAT(
      test::message_of<gptq::format_error>([] { gptq::parse_json("{\"bits\": 4}\0{\"bits\": 2"sv, "recipe.json"); }),
      test::contains("recipe.json") && test::contains("NUL"));
}
