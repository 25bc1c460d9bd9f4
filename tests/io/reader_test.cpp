#include <gptq/io/reader.hpp>

#include "support/files.hpp"

#include <filesystem>
#include <string>
#include <vector>

using gptq::checkpoint_reader;
using test::message_of;
using test::safetensors_bytes;

namespace {

std::string one(std::string const& name) { return safetensors_bytes({{name, "U8", {1}, "x"}}); }

/// A folder with config.json.
struct folder : test::temp_dir {
  folder() { write("config.json", R"({"model_type": "toy"})"); }
  void write_index(std::string const& map) const {
    write("model.safetensors.index.json", R"({"metadata":{"total_size":2},"weight_map":)" + map + "}");
  }
  std::string refusal() const {
    return message_of([&] { checkpoint_reader{path()}; });
  }
};

}  // namespace

TEST_CASE("a folder with one file is read; golden files beside it are not", "[reader]") {
  folder const dir;
  dir.write("model.safetensors", safetensors_bytes({{"b", "U8", {1}, "1"}, {"a", "U8", {2}, "23"}}));
  dir.write("golden.safetensors", "not a safetensors file");
  dir.write("gptq_model-4bit-128g.safetensors", "neither");
  checkpoint_reader const r(dir.path());
  CHECK(r.names() == std::vector<std::string>{"b", "a"});
  CHECK(r.contains("a"));
  CHECK_FALSE(r.contains("golden"));
  CHECK(r.at("a").bytes.size() == 2);
  CHECK(r.find("c") == nullptr);
  CHECK(r.config().at("model_type") == "toy");
  CHECK_THAT(message_of([&] { (void)r.at("c"); }), test::contains("tensor 'c' is missing"));
}

TEST_CASE("all missing tensors are listed", "[reader]") {
  folder const dir;
  dir.write("model.safetensors", one("a"));
  checkpoint_reader const r(dir.path());
  CHECK_NOTHROW(r.require(std::vector<std::string>{"a"}));
  CHECK_THAT(message_of([&] {
               r.require(std::vector<std::string>{"x", "a", "y"});
             }),
             test::contains("missing tensors: x, y"));
}

TEST_CASE("shards are read through the index, in the order of their file names", "[reader]") {
  folder const dir;
  dir.write("part-2.safetensors", one("b"));
  dir.write("part-1.safetensors", one("z"));
  dir.write("model.safetensors", "ignored: there is an index");
  dir.write_index(R"({"b":"part-2.safetensors","z":"part-1.safetensors"})");
  checkpoint_reader const r(dir.path());
  CHECK(r.names() == std::vector<std::string>{"z", "b"});
  CHECK(r.at("b").file.filename() == "part-2.safetensors");
}

TEST_CASE("index and parts must agree in both directions", "[reader]") {
  folder const dir;
  dir.write("1.safetensors", safetensors_bytes({{"a", "U8", {1}, "1"}, {"b", "U8", {1}, "2"}}));
  dir.write("2.safetensors", one("c"));
  SECTION("a name that its file does not hold") {
    dir.write_index(R"({"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors","d":"2.safetensors"})");
    CHECK_THAT(dir.refusal(), test::contains("2.safetensors that it does not hold: 'd'"));
  }
  SECTION("a tensor that is not listed") {
    dir.write_index(R"({"a":"1.safetensors","c":"2.safetensors"})");
    CHECK_THAT(dir.refusal(), test::contains("does not list all tensors for 1.safetensors: 'b'"));
  }
  SECTION("a name listed for the wrong file") {
    dir.write_index(R"({"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"})");
    CHECK_THAT(dir.refusal(), test::contains("'b'"));
  }
  SECTION("a tensor in two files") {
    dir.write("2.safetensors", safetensors_bytes({{"c", "U8", {1}, "1"}, {"a", "U8", {1}, "2"}}));
    dir.write_index(R"({"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"})");
    CHECK_THAT(dir.refusal(), test::contains("'a'"));
  }
  SECTION("a file that is missing") {
    dir.write_index(R"({"a":"1.safetensors","b":"1.safetensors","c":"3.safetensors"})");
    CHECK_THAT(dir.refusal(), test::contains("3.safetensors") && test::contains("No such file"));
  }
  SECTION("a part that is broken") {
    dir.write("2.safetensors", one("c").substr(0, 20));
    dir.write_index(R"({"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"})");
    CHECK_THAT(dir.refusal(), test::contains("2.safetensors: truncated"));
  }
}

TEST_CASE("file names in an index are plain", "[reader]") {
  std::string const name =
      GENERATE("../x.safetensors", "sub/x.safetensors", "/etc/passwd", "a\\\\b", "..", ".", "", "x\\u0000y");
  folder const dir;
  dir.write_index("{\"a\":\"" + name + "\"}");
  CHECK_THAT(dir.refusal(), test::contains("not a plain file name"));
}

TEST_CASE("an index needs a weight map of strings", "[reader]") {
  folder const dir;
  dir.write("model.safetensors.index.json", R"({"metadata":{}})");
  CHECK_THAT(dir.refusal(), test::contains("weight_map"));
  dir.write_index("[]");
  CHECK_THAT(dir.refusal(), test::contains("weight_map"));
  dir.write_index(R"({"a":1})");
  CHECK_THAT(dir.refusal(), test::contains("'a' is not a string"));
  dir.write_index(R"({"a":"x","a":"y"})");
  CHECK_THAT(dir.refusal(), test::contains("duplicate key \"a\""));
  dir.write("model.safetensors.index.json", "{");
  CHECK_THAT(dir.refusal(), test::contains("model.safetensors.index.json: not valid JSON"));
}

TEST_CASE("a folder that is incomplete says what is missing", "[reader]") {
  folder const dir;
  CHECK_THAT(dir.refusal(), test::contains("no model.safetensors"));
  dir.write("pytorch_model.bin", "x");
  CHECK_THAT(dir.refusal(), test::contains(".bin weights are not supported"));
  dir.write("model-00001-of-00002.safetensors", one("a"));
  CHECK_THAT(dir.refusal(), test::contains("no model.safetensors.index.json"));
  dir.write("model.safetensors", "");
  CHECK_THAT(dir.refusal(), test::contains("model.safetensors: truncated"));

  CHECK_THAT(message_of([&] { checkpoint_reader{dir / "none"}; }), test::contains("not a folder"));
  CHECK_THAT(message_of([&] { checkpoint_reader{dir / "config.json"}; }), test::contains("not a folder"));
  test::temp_dir const bare;
  CHECK_THAT(message_of([&] { checkpoint_reader{bare.path()}; }), test::contains("config.json"));
  bare.write("config.json", "[]");
  CHECK_THAT(message_of([&] { checkpoint_reader{bare.path()}; }), test::contains("not a JSON object"));
}

TEST_CASE("the file that AutoGPTQ wrote is accepted, if it is the only one", "[reader]") {
  folder const dir;
  dir.write("gptq_model-4bit-128g.safetensors", one("a"));
  dir.write("golden.safetensors", "x");
  CHECK(checkpoint_reader(dir.path()).contains("a"));
  dir.write("gptq_model-8bit-128g.safetensors", one("a"));
  CHECK_THAT(dir.refusal(), test::contains("more than one gptq_model*.safetensors"));
  dir.write("gptq_model-8bit-128g.safetensors.index.json",
            R"({"weight_map":{"a":"gptq_model-8bit-128g.safetensors"}})");
  CHECK(checkpoint_reader(dir.path()).contains("a"));
}

TEST_CASE("a tied tensor is found under the name it is stored", "[reader]") {
  folder const dir;
  dir.write(
      "model.safetensors",
      safetensors_bytes(
          R"({"__metadata__":{"format":"pt","embed":"head","x":"none"},"head":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          "1"));
  checkpoint_reader const r(dir.path());
  CHECK(r.alias_of("embed") == "head");
  CHECK(r.alias_of("head").empty());
  CHECK(r.alias_of("x").empty());
  CHECK(r.alias_of("format").empty());
}

TEST_CASE("the bundled model and the shared ones open", "[reader]") {
  CHECK(checkpoint_reader(test::bundled_model()).names().size() == 50);
  GPTQ_REQUIRE_SHARED("models/web-qwen2-22m");
  checkpoint_reader const sharded(test::shared_dir() / "models" / "web-qwen2-22m");
  CHECK(sharded.parts().size() == 4);
  CHECK(sharded.names().size() == 74);
  checkpoint_reader const tied(test::shared_dir() / "models" / "tinystories-656k-llama");
  CHECK(tied.alias_of("model.embed_tokens.weight") == "lm_head.weight");
}

TEST_CASE("flipped bytes in an index never do more than throw", "[reader]") {
  folder const dir;
  dir.write("1.safetensors", one("a"));
  dir.write("2.safetensors", one("b"));
  std::string const valid = R"({"metadata":{"total_size":2},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})";
  unsigned state = 1;
  auto const random = [&] { return state = state * 1664525u + 1013904223u, state >> 8; };
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = valid;
    for (int flips = 0; flips < 3; ++flips) bytes[random() % bytes.size()] = static_cast<char>(random());
    dir.write("model.safetensors.index.json", bytes);
    try {
      checkpoint_reader{dir.path()};
    } catch (gptq::error const& e) {
      REQUIRE(std::string(e.what()).find('\n') == std::string::npos);
    }
  }
}
