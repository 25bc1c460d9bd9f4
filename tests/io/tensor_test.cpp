#include <gptq/io/tensor.hpp>

#include "support/files.hpp"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

using gptq::dtype;

namespace {
gptq::tensor_view view_of(std::string const& bytes, dtype type, std::vector<std::int64_t> shape) {
  gptq::tensor_view t;
  t.name = "x.weight";
  t.file = "model.safetensors";
  t.type = type;
  t.shape = std::move(shape);
  t.bytes = std::as_bytes(std::span(bytes.data(), bytes.size()));
  return t;
}
}  // namespace

TEST_CASE("every element type has its name and size", "[tensor]") {
  CHECK(gptq::size_of(dtype::f8_e4m3) == 1);
  CHECK(gptq::size_of(dtype::bf16) == 2);
  CHECK(gptq::size_of(dtype::i32) == 4);
  CHECK(gptq::size_of(dtype::f64) == 8);
  for (int t = 0; t <= int(dtype::f64); ++t) CHECK(gptq::parse_dtype(gptq::to_string(dtype(t))) == dtype(t));
  CHECK(std::string(gptq::to_string(dtype::boolean)) == "BOOL");
  CHECK_FALSE(gptq::parse_dtype("F4"));
}

TEST_CASE("byte counts notice overflow", "[tensor]") {
  std::int64_t const big = (std::numeric_limits<std::int64_t>::max)();
  CHECK(gptq::byte_count(dtype::f32, {}) == 4);
  CHECK(gptq::byte_count(dtype::bf16, {3, 5}) == 30);
  CHECK(gptq::byte_count(dtype::f32, {3, 0}) == 0);
  CHECK_FALSE(gptq::byte_count(dtype::f32, {big}));
  CHECK_FALSE(gptq::byte_count(dtype::u8, {big, 2, 2}));
  CHECK_FALSE(gptq::byte_count(dtype::u8, {0, big, big}));
  CHECK_FALSE(gptq::byte_count(dtype::u8, {-1, -1}));
  CHECK_FALSE(gptq::byte_count(dtype::f64, {std::int64_t{1} << 31, std::int64_t{1} << 30}));
}

TEST_CASE("the three float types convert to float from unaligned data", "[tensor]") {
  std::string const f32 = "#" + test::bytes_of(std::vector<float>{1.5f, -2, 0, 3, 4, 5});
  std::string const f16 = "#" + test::bytes_of(std::vector<std::uint16_t>{0x3e00, 0xc000});
  std::string const bf16 = "#" + test::bytes_of(std::vector<std::uint16_t>{0x3fc0, 0xc000});
  auto const skip_one = [](gptq::tensor_view t) {
    t.bytes = t.bytes.subspan(1);
    return t;
  };
  auto const m = gptq::to_float(skip_one(view_of(f32, dtype::f32, {2, 3})));
  CHECK(m.rows() == 2);
  CHECK(m.cols() == 3);
  CHECK(m(0, 0) == 1.5f);
  CHECK(m(1, 2) == 5.0f);
  for (auto const& [bytes, type] : {std::pair(f16, dtype::f16), std::pair(bf16, dtype::bf16)}) {
    auto const row = gptq::to_float(skip_one(view_of(bytes, type, {2})));
    CHECK(row.rows() == 1);
    CHECK(row(0, 0) == 1.5f);
    CHECK(row(0, 1) == -2.0f);
  }
}

TEST_CASE("a tensor that is no weight is refused by name", "[tensor]") {
  std::string const bytes(24, '\0');
  CHECK(test::message_of([&] {
          gptq::to_float(view_of(bytes, dtype::i32, {2, 3}));
        }) == "model.safetensors: tensor 'x.weight': F32, F16 or BF16 is needed, not I32");
  CHECK_THAT(test::message_of([&] {
               gptq::to_float(view_of(bytes, dtype::f32, {1, 2, 3}));
             }),
             test::contains("[1, 2, 3]"));
  CHECK_THAT(test::message_of([&] { gptq::to_float(view_of(bytes, dtype::f32, {})); }), test::contains("dimensions"));
}
