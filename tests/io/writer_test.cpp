#include <gptq/io/writer.hpp>

#include <gptq/io/reader.hpp>

#include "support/files.hpp"

#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <string>
#include <vector>

using gptq::checkpoint_writer;
using gptq::dtype;
using test::message_of;

namespace {

std::span<std::byte const> bytes(std::string const& text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string text_of(gptq::tensor_view const& t) {
  return {reinterpret_cast<char const*>(t.bytes.data()), t.bytes.size()};
}

void add(checkpoint_writer& w, std::string const& name, dtype type, std::int64_t count, char fill) {
  w.add(name, type, {count}, bytes(std::string(static_cast<std::size_t>(count) * gptq::size_of(type), fill)));
}

/// While it lives, no file of this process may grow beyond the limit: what a full disk does, without a disk.
struct file_size_limit {
  explicit file_size_limit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    rlimit limit = before;
    limit.rlim_cur = bytes;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~file_size_limit() {
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, SIG_DFL);
  }
  rlimit before{};
};

}  // namespace

TEST_CASE("what was written is read back, every type and shape", "[writer]") {
  test::temp_dir const dir;
  dir.write("config.json", "{}");
  {
    checkpoint_writer w(dir.path(), 1 << 20);
    add(w, "u8", dtype::u8, 3, 'a');
    add(w, "half", dtype::f16, 5, 'b');
    w.add("scalar", dtype::f64, {}, bytes("12345678"));
    w.add("none", dtype::bf16, {0, 4}, {});
    w.add("words", dtype::i32, {2, 1}, bytes("ABCDEFGH"));
    add(w, "half2", dtype::bf16, 1, 'c');
    CHECK(w.total_size() == 3 + 10 + 8 + 8 + 2);
    w.finish();
  }
  CHECK(test::listing(dir.path()) == std::vector<std::string>{"config.json", "model.safetensors"});
  gptq::checkpoint_reader const r(dir.path());
  CHECK(r.names().size() == 6);
  CHECK(text_of(r.at("u8")) == "aaa");
  CHECK(text_of(r.at("half")) == std::string(10, 'b'));
  CHECK(text_of(r.at("scalar")) == "12345678");
  CHECK(r.at("scalar").shape.empty());
  CHECK(r.at("none").shape == std::vector<std::int64_t>{0, 4});
  CHECK(text_of(r.at("words")) == "ABCDEFGH");
  CHECK(r.at("words").type == dtype::i32);
  CHECK(r.parts()[0].metadata().at("format") == "pt");
}

TEST_CASE("data are aligned: header padded to 8, wide elements first, arrival order among equals", "[writer]") {
  test::temp_dir const dir;
  dir.write("config.json", "{}");
  {
    checkpoint_writer w(dir.path(), 1 << 20);
    add(w, "c", dtype::u8, 3, 'a');
    add(w, "b", dtype::f16, 3, 'b');
    add(w, "a", dtype::i32, 3, 'c');
    add(w, "B", dtype::bf16, 3, 'd');
    add(w, "d", dtype::i64, 1, 'e');
    w.finish();
  }
  std::string const file = test::read_text(dir / "model.safetensors");
  std::uint64_t n = 0;
  std::memcpy(&n, file.data(), 8);
  CHECK(n % 8 == 0);
  CHECK(file.substr(8 + n) == std::string(8, 'e') + std::string(12, 'c') + "bbbbbb" + "dddddd" + "aaa");
  CHECK(file.substr(8, 32).find(R"({"__metadata__":{"format":"pt"},)") == 0);
  gptq::checkpoint_reader const r(dir.path());
  CHECK(r.names() == std::vector<std::string>{"d", "a", "b", "B", "c"});
}

TEST_CASE("with room for the header, what keeps the rest aligned is written in place", "[writer]") {
  auto const room =
      static_cast<std::size_t>(GENERATE(16, 500, 4096));  // too small for the header, not a multiple of 8, enough
  test::temp_dir const dir;
  dir.write("config.json", "{}");
  {
    checkpoint_writer w(dir.path(), 60, {}, room);
    add(w, "a", dtype::f16, 3, 'a');
    add(w, "b", dtype::u8, 8, 'b');
    add(w, "c", dtype::i32, 3, 'c');
    add(w, "d", dtype::f16, 8, 'd');
    add(w, "e", dtype::u8, 3, 'e');
    add(w, "f", dtype::f16, 8, 'f');  // in a shard of its own
    w.finish();
  }
  std::string const file = test::read_text(dir / "model-00001-of-00002.safetensors");
  std::uint64_t n = 0;
  std::memcpy(&n, file.data(), 8);
  CHECK(n % 8 == 0);
  if (room > 400) CHECK(n + 8 == (room + 7) / 8 * 8);
  CHECK(file.substr(8 + n) == std::string(8, 'b') + std::string(16, 'd') + std::string(12, 'c') + "aaaaaa" + "eee");
  CHECK(test::listing(dir.path()).size() == 4);
  gptq::checkpoint_reader const r(dir.path());
  CHECK(r.names() == std::vector<std::string>{"b", "d", "c", "a", "e", "f"});
  CHECK(text_of(r.at("e")) == "eee");
  CHECK(text_of(r.at("f")) == std::string(16, 'f'));
}

TEST_CASE("headers of every length are padded", "[writer]") {
  for (std::size_t length = 1; length <= 8; ++length) {
    test::temp_dir const dir;
    checkpoint_writer w(dir.path(), 100);
    add(w, std::string(length, 'n'), dtype::f64, 1, 'x');
    w.finish();
    std::string const file = test::read_text(dir / "model.safetensors");
    CHECK(file[0] % 8 == 0);
    CHECK(file.substr(file.size() - 8) == "xxxxxxxx");
    CHECK(file.size() == 8 + static_cast<std::size_t>(static_cast<unsigned char>(file[0])) + 8);
  }
}

TEST_CASE("shards are closed before they pass their size, and an index lists them", "[writer]") {
  test::temp_dir const dir;
  dir.write("config.json", "{}");
  {
    checkpoint_writer w(dir.path(), 10, {{"embed", "head"}});
    add(w, "a", dtype::u8, 6, 'a');
    add(w, "b", dtype::u8, 4, 'b');   // exactly full
    add(w, "c", dtype::u8, 25, 'c');  // larger than a shard
    add(w, "d", dtype::u8, 1, 'd');
    w.finish();
  }
  CHECK(test::listing(dir.path()) ==
        std::vector<std::string>{"config.json", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                 "model-00003-of-00003.safetensors", "model.safetensors.index.json"});
  gptq::checkpoint_reader const r(dir.path());
  CHECK(r.names() == std::vector<std::string>{"a", "b", "c", "d"});
  CHECK(r.at("b").file.filename() == "model-00001-of-00003.safetensors");
  CHECK(r.at("c").file.filename() == "model-00002-of-00003.safetensors");
  for (auto const& part : r.parts()) {
    CHECK(part.metadata().at("format") == "pt");
    CHECK(part.metadata().at("embed") == "head");
  }
  CHECK(gptq::read_json(dir / "model.safetensors.index.json").at("metadata").at("total_size") == 36);
}

TEST_CASE("a model copied tensor by tensor holds the same tensors", "[writer]") {
  test::temp_dir const dir;
  gptq::checkpoint_reader const source(test::bundled_model());
  std::filesystem::copy_file(test::bundled_model() / "config.json", dir / "config.json");
  {
    checkpoint_writer w(dir.path(), 500'000);
    for (auto const& name : source.names()) w.add(source.at(name));
    w.finish();
  }
  gptq::checkpoint_reader const copy(dir.path());
  REQUIRE(copy.names().size() == source.names().size());
  CHECK(copy.parts().size() > 3);
  for (auto const& name : source.names()) {
    CHECK(copy.at(name).shape == source.at(name).shape);
    CHECK(copy.at(name).type == source.at(name).type);
    CHECK(text_of(copy.at(name)) == text_of(source.at(name)));
  }
}

TEST_CASE("a writer that is destroyed before finish leaves nothing", "[writer]") {
  test::temp_dir const dir;
  {
    checkpoint_writer w(dir.path(), 10);
    add(w, "a", dtype::u8, 8, 'a');
    add(w, "b", dtype::f16, 4, 'b');
    add(w, "c", dtype::u8, 8, 'c');
    CHECK(test::listing(dir.path()).size() >= 3);
  }
  CHECK(test::listing(dir.path()).empty());
}

TEST_CASE("a disk that fills up is an error that names the file, and nothing is left", "[writer]") {
  test::temp_dir const dir;
  auto const limit = static_cast<rlim_t>(
      GENERATE(0, 1000, 4100, 9000));  // in the data, in the copy behind the header, in a later shard
  auto const room = static_cast<std::size_t>(GENERATE(0, 8, 512));
  std::string what;
  {
    checkpoint_writer w(dir.path(), 4096, {}, room);
    std::string const data(2048, 'x');
    file_size_limit const full(limit);
    what = message_of([&] {
      for (int i = 0; i < 4; ++i) w.add("t" + std::to_string(i), dtype::u8, {2048}, bytes(data));
      w.add("large", dtype::u8, {10000}, bytes(std::string(10000, 'y')));
      w.finish();
    });
  }
  CHECK_THAT(what, test::contains(dir.path().string()) && test::contains(".tmp: can't write: File too large"));
  CHECK(test::listing(dir.path()).empty());
}

TEST_CASE("a write error in the index leaves nothing either", "[writer]") {
  test::temp_dir const dir;
  {
    checkpoint_writer w(dir.path(), 1);
    for (int i = 0; i < 30; ++i) add(w, "tensor number " + std::to_string(i), dtype::u8, 1, 'x');
    file_size_limit const full(1000);
    CHECK_THAT(message_of([&] { w.finish(); }), test::contains("model.safetensors.index.json: can't write"));
  }
  CHECK(test::listing(dir.path()).empty());
}

TEST_CASE("misuse of the writer is refused", "[writer]") {
  test::temp_dir const dir;
  CHECK_THROWS_AS(checkpoint_writer(dir.path(), 0), gptq::shape_error);
  CHECK_THAT(message_of([&] { checkpoint_writer(dir / "none", 10); }), test::contains("can't write into it"));
  {
    checkpoint_writer w(dir.path(), 10);
    add(w, "a", dtype::u8, 1, 'a');
    CHECK_THAT(message_of([&] { add(w, "a", dtype::u8, 1, 'a'); }), test::contains("'a' can't be written twice"));
    CHECK_THAT(message_of([&] { add(w, "__metadata__", dtype::u8, 1, 'a'); }), test::contains("__metadata__"));
    CHECK_THAT(message_of<gptq::shape_error>([&] { w.add("b", dtype::f32, {2}, bytes("1234")); }),
               test::contains("4 bytes do not fit shape [2] of F32"));
    add(w, "\xff", dtype::u8, 1, 'a');
    CHECK_THAT(message_of([&] { w.finish(); }), test::contains("UTF-8"));
  }
  CHECK(test::listing(dir.path()).empty());
  dir.write("model.safetensors", "x");
  CHECK_THAT(message_of([&] { checkpoint_writer(dir.path(), 10); }),
             test::contains("model.safetensors: already exists"));
}
