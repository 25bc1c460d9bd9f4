#include <gptq/io/safetensors.hpp>

#include "support/files.hpp"

#include <sys/stat.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

using test::message_of;
using test::raw_tensor;
using test::safetensors_bytes;

namespace {

/// What opening these bytes says.
std::string refusal_of_bytes(std::string const& bytes) {
  test::temp_dir const dir;
  auto const file = dir.write("bad.safetensors", bytes);
  std::string const what = message_of([&] { gptq::safetensors_file{file}; });
  CHECK(what.find(file.string()) == 0);
  return what;
}

/// What opening a file with this header and `data` bytes of data says.
std::string refusal_of_bytes(std::string const& header, std::size_t data) {
  return refusal_of_bytes(safetensors_bytes(header, std::string(data, 'd')));
}

std::string entry(std::string const& name, std::string const& rest) { return "{\"" + name + "\":{" + rest + "}}"; }

std::vector<raw_tensor> const sample = {{"a", "I32", {2}, std::string(8, 'a')},
                                        {"empty", "F16", {0, 5}, ""},
                                        {"scalar", "F16", {}, "ss"},
                                        {"b", "BF16", {2, 3}, std::string(12, 'b')},
                                        {"c", "U8", {1}, "c"}};

}  // namespace

TEST_CASE("a valid file gives its tensors in the order of the data", "[safetensors]") {
  test::temp_dir const dir;
  gptq::safetensors_file const f(dir.write("x.safetensors", safetensors_bytes(sample)));
  REQUIRE(f.tensors().size() == sample.size());
  for (raw_tensor const& expected : sample) {
    auto const at =
        std::find_if(f.tensors().begin(), f.tensors().end(), [&](auto const& t) { return t.name == expected.name; });
    REQUIRE(at != f.tensors().end());
    CHECK(gptq::to_string(at->type) == expected.dtype);
    CHECK(at->shape == expected.shape);
    CHECK(std::string(reinterpret_cast<char const*>(at->bytes.data()), at->bytes.size()) == expected.bytes);
  }
  CHECK(f.tensors().front().name == "a");
  CHECK(f.tensors().back().name == "c");
  CHECK(f.metadata().at("format") == "pt");
}

TEST_CASE("a header may list tensors in any order and end in spaces", "[safetensors]") {
  test::temp_dir const dir;
  std::string const header =
      R"({"late":{"data_offsets":[4,6],"shape":[2],"dtype":"U8"},"early":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   )";
  gptq::safetensors_file const f(dir.write("x.safetensors", safetensors_bytes(header, "123456")));
  CHECK(f.tensors().front().name == "early");
  CHECK(f.tensors().back().name == "late");
}

TEST_CASE("a file without tensors is valid", "[safetensors]") {
  test::temp_dir const dir;
  CHECK(gptq::safetensors_file(dir.write("x.safetensors", safetensors_bytes("{}", ""))).tensors().empty());
}

TEST_CASE("header lengths are checked before anything is read", "[safetensors]") {
  CHECK_THAT(refusal_of_bytes(""), test::contains("truncated"));
  CHECK_THAT(refusal_of_bytes("1234567"), test::contains("truncated"));
  CHECK_THAT(refusal_of_bytes(std::string(8, '\0')), test::contains("does not start with '{'"));
  CHECK_THAT(refusal_of_bytes(std::string(8, '\xff')), test::contains("above the limit"));
  CHECK_THAT(refusal_of_bytes(test::bytes_of(std::vector<std::uint64_t>{100'000'001}) + "{}"),
             test::contains("above the limit"));
  CHECK_THAT(refusal_of_bytes(test::bytes_of(std::vector<std::uint64_t>{3}) + "{}"), test::contains("truncated"));
  std::string const whole = safetensors_bytes(sample);
  for (std::size_t n = 0; n < whole.size(); ++n) refusal_of_bytes(whole.substr(0, n));
}

TEST_CASE("the header must be one JSON object", "[safetensors]") {
  CHECK_THAT(refusal_of_bytes(" {}", 0), test::contains("does not start with '{'"));
  CHECK_THAT(refusal_of_bytes("[]", 0), test::contains("does not start with '{'"));
  CHECK_THAT(refusal_of_bytes("{\"a\":}", 0), test::contains("header: not valid JSON"));
  CHECK_THAT(refusal_of_bytes("{\"\xff\":1}", 0), test::contains("UTF-8"));
  CHECK_THAT(refusal_of_bytes("{} {}", 0), test::contains("not valid JSON"));
  CHECK_THAT(refusal_of_bytes("{\"a\":" + std::string(200'000, '['), 0), test::contains("nested deeper"));
}

TEST_CASE("duplicate names are refused", "[safetensors]") {
  std::string const one = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  CHECK_THAT(refusal_of_bytes("{" + one + "," + one + "}", 1), test::contains("duplicate key \"a\""));
  CHECK_THAT(refusal_of_bytes(entry("a", R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])"), 1),
             test::contains("duplicate key \"dtype\""));
}

TEST_CASE("an entry has exactly dtype, shape and data_offsets of the right kinds", "[safetensors]") {
  CHECK_THAT(refusal_of_bytes(R"({"a":[1]})", 0), test::contains("tensor 'a'") && test::contains("not an object"));
  CHECK_THAT(refusal_of_bytes(entry("a", R"("dtype":"U8","shape":[1])"), 1),
             test::contains("exactly dtype, shape and data_offsets"));
  CHECK_THAT(refusal_of_bytes(entry("a", R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1)"), 1),
             test::contains("exactly"));
  CHECK_THAT(refusal_of_bytes(entry("a", R"("dtype":7,"shape":[1],"data_offsets":[0,1])"), 1),
             test::contains("dtype is not a string"));
  CHECK_THAT(refusal_of_bytes(entry("a", R"("dtype":"F4","shape":[1],"data_offsets":[0,1])"), 1),
             test::contains("unknown dtype \"F4\""));
  CHECK_THAT(refusal_of_bytes(entry("a", R"("dtype":"U8","shape":1,"data_offsets":[0,1])"), 1),
             test::contains("shape is not an array"));
  for (char const* const size : {"-1", "1.0", "\"1\"", "1e0", "18446744073709551615", "null", "[1]"})
    CHECK_THAT(
        refusal_of_bytes(entry("a", std::string(R"("dtype":"U8","shape":[)") + size + R"(],"data_offsets":[0,1])"), 1),
        test::contains("non-negative integer"));
  for (char const* const offsets :
       {"[0]", "[0,1,2]", "[-1,0]", "[0,1.5]", "{}", "[0,99999999999999999999]", "[\"0\",1]"})
    CHECK_THAT(refusal_of_bytes(entry("a", std::string(R"("dtype":"U8","shape":[1],"data_offsets":)") + offsets), 1),
               test::contains("data_offsets"));
}

TEST_CASE("metadata maps strings to strings", "[safetensors]") {
  CHECK_THAT(refusal_of_bytes(R"({"__metadata__":[]})", 0), test::contains("__metadata__ is not an object"));
  CHECK_THAT(refusal_of_bytes(R"({"__metadata__":{"a":1}})", 0), test::contains("\"a\" is not a string"));
}

TEST_CASE("offsets and shapes must agree with each other and with the file", "[safetensors]") {
  auto const with = [](std::string const& shape, std::string const& offsets, std::size_t data) {
    return refusal_of_bytes(entry("a", R"("dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets), data);
  };
  CHECK_THAT(with("[1]", "[4,0]", 4), test::contains("reversed"));
  CHECK_THAT(with("[1]", "[0,8]", 4), test::contains("outside the file's 4 bytes"));
  CHECK_THAT(with("[1]", "[18446744073709551608,18446744073709551612]", 4), test::contains("outside"));
  CHECK_THAT(with("[2]", "[0,4]", 4), test::contains("takes 8 bytes"));
  CHECK_THAT(with("[]", "[0,8]", 8), test::contains("takes 4 bytes"));
  CHECK_THAT(with("[4611686018427387904,4]", "[0,0]", 0), test::contains("overflows"));
  CHECK_THAT(with("[4611686018427387905]", "[0,4]", 4), test::contains("overflows"));
  CHECK_THAT(with("[0,9223372036854775807,9223372036854775807]", "[0,0]", 0), test::contains("overflows"));
}

TEST_CASE("data have neither holes nor overlaps nor a rest", "[safetensors]") {
  auto const two = [](std::string const& a, std::string const& b, std::size_t data) {
    return refusal_of_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                                R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                            data);
  };
  CHECK_THAT(two("[0,4]", "[5,9]", 9), test::contains("tensor 'b': there is a hole of 1 bytes"));
  CHECK_THAT(two("[1,5]", "[5,9]", 9), test::contains("tensor 'a': there is a hole of 1 bytes"));
  CHECK_THAT(two("[0,4]", "[3,7]", 7), test::contains("tensor 'b': its data overlap"));
  CHECK_THAT(two("[0,4]", "[0,4]", 4), test::contains("overlap"));
  CHECK_THAT(two("[0,4]", "[4,8]", 9), test::contains("1 bytes at the end"));
  CHECK_THAT(refusal_of_bytes("{}", 1), test::contains("1 bytes at the end"));
}

TEST_CASE("names from a file can't break a message", "[safetensors]") {
  std::string const what = refusal_of_bytes("{\"a\\n\\u001b[31m" + std::string(5000, 'x') + "\":[]}", 0);
  CHECK(what.size() < 500);
  CHECK(what.find('\x1b') == std::string::npos);
}

TEST_CASE("what is no regular file is refused, without waiting", "[safetensors]") {
  test::temp_dir const dir;
  REQUIRE(::mkfifo((dir / "pipe.safetensors").c_str(), 0600) == 0);
  CHECK_THAT(message_of([&] { gptq::safetensors_file{dir / "pipe.safetensors"}; }),
             test::contains("not a regular file"));
  CHECK_THAT(message_of([&] { gptq::safetensors_file{dir.path()}; }), test::contains("not a regular file"));
  CHECK_THAT(message_of([&] { gptq::safetensors_file{dir / "none"}; }), test::contains("No such file"));
}

TEST_CASE("flipped bytes never do more than throw", "[safetensors]") {
  test::temp_dir const dir;
  std::string const valid = safetensors_bytes(sample);
  std::mt19937 random(7);
  int opened = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = valid;
    for (unsigned flips = 1 + random() % 4; flips > 0; --flips)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 8 == 0) bytes.resize(random() % bytes.size());
    auto const file = dir.write("x.safetensors", bytes);
    try {
      gptq::safetensors_file const f(file);
      unsigned sum = 0;
      for (auto const& t : f.tensors())
        for (std::byte const b : t.bytes) sum += unsigned(b);
      opened += sum > 0;
    } catch (gptq::error const& e) {
      REQUIRE(std::string(e.what()).find('\n') == std::string::npos);
    }
  }
  CHECK(opened > 20);  // flips in the data are harmless
}
