#include <gptq/io/writer.hpp>

#include <gptq/io/reader.hpp>

#include "support/files.hpp"
#include "support/tensor_list.hpp"

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

void add(test::tensor_list& w, std::string const& name, dtype type, std::int64_t count, char fill) {
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

/// A writer of one tensor of bytes each.
gptq::shard_layout bytes_layout(std::vector<std::pair<std::string, std::int64_t>> const& sizes,
                                gptq::shard_options const& options) {
  std::vector<gptq::tensor_outline> tensors;
  for (auto const& [name, size] : sizes) tensors.push_back({name, dtype::u8, {size}});
  return gptq::shard_layout(std::move(tensors), options);
}

void put(checkpoint_writer& w, std::string const& name, std::size_t size, char fill = 'x') {
  w.add(name, dtype::u8, {static_cast<std::int64_t>(size)}, bytes(std::string(size, fill)));
}

}  // namespace

TEST_CASE("what was written is read back, every type and shape", "[writer]") {
  test::temp_dir const dir;
  dir.write("config.json", "{}");
  {
    test::tensor_list w;
    add(w, "u8", dtype::u8, 3, 'a');
    add(w, "half", dtype::f16, 5, 'b');
    w.add("scalar", dtype::f64, {}, bytes("12345678"));
    w.add("none", dtype::bf16, {0, 4}, {});
    w.add("words", dtype::i32, {2, 1}, bytes("ABCDEFGH"));
    add(w, "half2", dtype::bf16, 1, 'c');
    w.write(dir.path());
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
    test::tensor_list w;
    add(w, "c", dtype::u8, 3, 'a');
    add(w, "b", dtype::f16, 3, 'b');
    add(w, "a", dtype::i32, 3, 'c');
    add(w, "B", dtype::bf16, 3, 'd');
    add(w, "d", dtype::i64, 1, 'e');
    w.write(dir.path());
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
    test::tensor_list w;
    add(w, "a", dtype::f16, 3, 'a');
    add(w, "b", dtype::u8, 8, 'b');
    add(w, "c", dtype::i32, 3, 'c');
    add(w, "d", dtype::f16, 8, 'd');
    add(w, "e", dtype::u8, 3, 'e');
    add(w, "f", dtype::f16, 8, 'f');  // in a shard of its own
    w.write(dir.path(), {.shard_size = 60, .header_room = room});
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
    test::tensor_list w;
    add(w, std::string(length, 'n'), dtype::f64, 1, 'x');
    w.write(dir.path());
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
    test::tensor_list w;
    add(w, "a", dtype::u8, 6, 'a');
    add(w, "b", dtype::u8, 4, 'b');   // exactly full
    add(w, "c", dtype::u8, 25, 'c');  // larger than a shard
    add(w, "d", dtype::u8, 1, 'd');
    w.write(dir.path(), {.shard_size = 10, .metadata = {{"embed", "head"}}});
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
    test::tensor_list w;
    for (auto const& name : source.names()) w.add(source.at(name));
    w.write(dir.path(), {.shard_size = 500'000});
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

TEST_CASE("tensors are written in any order, in place, and no other file is made", "[writer]") {
  test::temp_dir const dir;
  auto const plan = bytes_layout({{"a", 8}, {"b", 3}, {"c", 16}, {"d", 5}}, {.shard_size = 27, .header_room = 512});
  REQUIRE(plan.shards().size() == 2);
  CHECK(plan.total_size() == 32);
  {
    checkpoint_writer w(dir.path(), plan);
    put(w, "d", 5, 'd');
    CHECK(test::listing(dir.path()) == std::vector<std::string>{plan.shards()[1].name});
    put(w, "b", 3, 'b');
    put(w, "c", 16, 'c');
    put(w, "a", 8, 'a');
    w.finish();
  }
  dir.write("config.json", "{}");
  std::uint64_t bytes_on_disk = plan.index().size();
  for (auto const& shard : plan.shards()) {
    CHECK(std::filesystem::file_size(dir / shard.name) == shard.size);
    bytes_on_disk += shard.size;
  }
  CHECK(plan.file_bytes() == bytes_on_disk);
  CHECK(test::read_text(dir / "model.safetensors.index.json") == plan.index());
  gptq::checkpoint_reader const r(dir.path());
  CHECK(r.names() == std::vector<std::string>{"a", "c", "b", "d"});
  for (std::string const& name : r.names()) {
    auto const& t = plan.tensors()[plan.find(name)];
    CHECK(text_of(r.at(name)) == std::string(t.bytes, name[0]));
    CHECK(test::read_text(dir / plan.shards()[t.shard].name).substr(t.offset, t.bytes) == text_of(r.at(name)));
  }
}

TEST_CASE("a folder without tensors has one file, with a header", "[writer]") {
  test::temp_dir const dir;
  dir.write("config.json", "{}");
  gptq::write_checkpoint(dir.path(), {});
  CHECK(gptq::checkpoint_reader(dir.path()).names().empty());
}

TEST_CASE("a writer that is destroyed before finish leaves nothing", "[writer]") {
  test::temp_dir const dir;
  {
    checkpoint_writer w(dir.path(), bytes_layout({{"a", 8}, {"b", 8}, {"c", 8}}, {.shard_size = 10}));
    put(w, "a", 8);
    put(w, "b", 8);
    CHECK(test::listing(dir.path()).size() == 2);
  }
  CHECK(test::listing(dir.path()).empty());
}

TEST_CASE("a disk that fills up is an error that names the file, and nothing is left", "[writer]") {
  test::temp_dir const dir;
  auto const limit = static_cast<rlim_t>(GENERATE(0, 100, 3000, 9000));  // in a header, in the data, in a later shard
  auto const room = static_cast<std::size_t>(GENERATE(0, 512));
  std::string what;
  {
    checkpoint_writer w(dir.path(), bytes_layout({{"t0", 2048}, {"t1", 2048}, {"t2", 2048}, {"large", 10000}},
                                                 {.shard_size = 4096, .header_room = room}));
    file_size_limit const full(limit);
    what = message_of([&] {
      for (char const* const name : {"t0", "t1", "t2"}) put(w, name, 2048);
      put(w, "large", 10000);
      w.finish();
    });
  }
  CHECK_THAT(what, test::contains(dir.path().string()) && test::contains(".safetensors: can't write: File too large"));
  CHECK(test::listing(dir.path()).empty());
}

TEST_CASE("a write error in the index leaves nothing either", "[writer]") {
  test::temp_dir const dir;
  std::vector<std::pair<std::string, std::int64_t>> sizes;
  for (int i = 0; i < 30; ++i) sizes.emplace_back("tensor number " + std::to_string(i), 1);
  {
    checkpoint_writer w(dir.path(), bytes_layout(sizes, {.shard_size = 1}));
    for (auto const& [name, size] : sizes) put(w, name, 1);
    file_size_limit const full(1000);
    CHECK_THAT(message_of([&] { w.finish(); }), test::contains("model.safetensors.index.json: can't write"));
  }
  CHECK(test::listing(dir.path()).empty());
}

TEST_CASE("what can't be laid out is refused", "[writer]") {
  CHECK_THROWS_AS(bytes_layout({}, {.shard_size = 0}), gptq::shape_error);
  CHECK_THAT(message_of([] { bytes_layout({{"a", 1}, {"a", 1}}, {}); }), test::contains("'a' can't be written twice"));
  CHECK_THAT(message_of([] { bytes_layout({{"__metadata__", 1}}, {}); }), test::contains("__metadata__"));
  CHECK_THAT(message_of([] { bytes_layout({{"\xff", 1}}, {}); }), test::contains("UTF-8"));
  CHECK_THAT(message_of<gptq::shape_error>([] {
               bytes_layout({{"a", -1}}, {});
             }),
             test::contains("[-1] is impossible"));
}

TEST_CASE("misuse of the writer is refused", "[writer]") {
  test::temp_dir const dir;
  auto const plan = bytes_layout({{"a", 1}, {"b", 2}}, {});
  CHECK_THAT(message_of([&] { checkpoint_writer(dir / "none", plan); }), test::contains("can't write into it"));
  {
    checkpoint_writer w(dir.path(), plan);
    put(w, "a", 1);
    CHECK_THAT(message_of([&] { put(w, "a", 1); }), test::contains("'a' can't be written twice"));
    auto const refusal = [&](auto&& f) { return message_of<gptq::shape_error>(f); };
    CHECK_THAT(refusal([&] { put(w, "c", 1); }), test::contains("'c' was not planned"));
    CHECK_THAT(refusal([&] { put(w, "b", 3); }), test::contains("'b' was planned as [2] of U8, not [3] of U8"));
    CHECK_THAT(refusal([&] { w.add("b", dtype::f32, {2}, bytes("1234")); }),
               test::contains("4 bytes do not fit shape [2] of F32"));
    CHECK_THAT(refusal([&] { w.finish(); }), test::contains("'b' was planned and not written"));
  }
  CHECK(test::listing(dir.path()).empty());
  dir.write("model.safetensors", "x");
  CHECK_THAT(message_of([&] { checkpoint_writer(dir.path(), plan); }),
             test::contains("model.safetensors: already exists"));
}
