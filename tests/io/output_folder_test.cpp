#include <gptq/io/output_folder.hpp>

#include "support/files.hpp"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace fs = std::filesystem;
using gptq::output_folder;
using test::message_of;

namespace {

void put(fs::path const& file, std::string const& text) { std::ofstream(file) << text; }

/// A place with a float model in "source".
struct place : test::temp_dir {
  place() { write("source/config.json", "{}"); }
  fs::path source() const { return path() / "source"; }
  void quantized(std::string const& name) const { write(fs::path(name) / "quantize_config.json", "{}"); }
  std::string refusal(fs::path const& target, bool overwrite) const {
    auto const before = test::listing(path());
    std::string const what = message_of([&] { output_folder(target, source(), overwrite); });
    CHECK(test::listing(path()) == before);
    return what;
  }
};

}  // namespace

TEST_CASE("the folder appears only when it is committed", "[output]") {
  place const dir;
  {
    output_folder out(dir / "out", dir.source(), false);
    CHECK(out.path() != out.target());
    CHECK(out.path().parent_path() == out.target().parent_path());
    put(out.path() / "x", "1");
    CHECK_FALSE(fs::exists(dir / "out"));
    out.commit();
  }
  CHECK(test::listing(dir.path()) == std::vector<std::string>{"out", "source"});
  CHECK(test::read_text(dir / "out" / "x") == "1");
}

TEST_CASE("without commit nothing is left, not even folders above", "[output]") {
  place const dir;
  {
    output_folder out(dir / "a/b/out/", dir.source(), false);
    put(out.path() / "x", "1");
    CHECK(out.target().filename() == "out");
  }
  CHECK(test::listing(dir.path()) == std::vector<std::string>{"source"});
}

TEST_CASE("missing folders above the target are created", "[output]") {
  place const dir;
  output_folder out(dir / "a/b/out", dir.source(), false);
  out.commit();
  CHECK(fs::is_directory(dir / "a/b/out"));
}

TEST_CASE("an existing target is refused", "[output]") {
  place const dir;
  fs::create_directory(dir / "empty");
  dir.write("file", "");
  dir.quantized("model");
  fs::create_symlink(dir / "nowhere", dir / "dangling");
  for (char const* const name : {"empty", "file", "model", "dangling", "source"})
    CHECK_THAT(dir.refusal(dir / name, false), test::contains(name));
  CHECK_THAT(dir.refusal(dir / "model", false), test::contains("already exists"));
}

TEST_CASE("overwriting replaces a folder that holds a quantized model", "[output]") {
  place const dir;
  std::string const marker = GENERATE("quantize_config.json", "config.json");
  dir.write("out/" + marker, R"({"quantization_config": {"bits": 4}})");
  dir.write("out/old", "");
  {
    output_folder out(dir / "out", dir.source(), true);
    put(out.path() / "new", "");
    CHECK(fs::exists(dir / "out/old"));
    out.commit();
  }
  CHECK(test::listing(dir / "out") == std::vector<std::string>{"new"});
  CHECK(test::listing(dir.path()) == std::vector<std::string>{"out", "source"});
}

TEST_CASE("overwriting that fails leaves the old folder", "[output]") {
  place const dir;
  dir.quantized("out");
  { output_folder const out(dir / "out", dir.source(), true); }
  CHECK(test::listing(dir / "out") == std::vector<std::string>{"quantize_config.json"});
  CHECK(test::listing(dir.path()) == std::vector<std::string>{"out", "source"});
}

TEST_CASE("overwriting replaces nothing else", "[output]") {
  place const dir;
  fs::create_directory(dir / "empty");
  dir.write("file", "");
  dir.write("float/config.json", "{}");
  dir.write("broken/config.json", "{");
  dir.quantized("model");
  dir.quantized("deep");
  fs::create_directory(dir / "deep/.git");
  fs::create_symlink(dir / "model", dir / "link");
  fs::create_symlink(dir / "nowhere", dir / "dangling");
  CHECK_THAT(dir.refusal(dir / "empty", true), test::contains("does not hold a quantized model"));
  CHECK_THAT(dir.refusal(dir / "float", true), test::contains("does not hold a quantized model"));
  CHECK_THAT(dir.refusal(dir / "broken", true), test::contains("does not hold a quantized model"));
  CHECK_THAT(dir.refusal(dir / "file", true), test::contains("not a folder"));
  CHECK_THAT(dir.refusal(dir / "link", true), test::contains("symbolic link"));
  CHECK_THAT(dir.refusal(dir / "link/", true), test::contains("symbolic link"));
  CHECK_THAT(dir.refusal(dir / "dangling", true), test::contains("symbolic link"));
  CHECK_THAT(dir.refusal(dir / "deep", true), test::contains("holds the folder .git"));
}

TEST_CASE("the source is never the target, inside it or around it, under any name", "[output]") {
  place const dir;
  dir.quantized("source");
  dir.quantized("source/inner");
  dir.quantized(".");
  fs::create_directory_symlink(dir.source(), dir / "alias");
  for (bool const overwrite : {false, true}) {
    CHECK_THAT(dir.refusal(dir.source(), overwrite), test::contains("the source"));
    CHECK_THAT(dir.refusal(dir / "source/./../source", overwrite), test::contains("the source"));
    CHECK_THAT(dir.refusal(dir / "source/inner", overwrite), test::contains("the source"));
    CHECK_THAT(dir.refusal(dir / "source/new/deep", overwrite), test::contains("the source"));
    CHECK_THAT(dir.refusal(dir / "alias/new", overwrite), test::contains("the source"));
    CHECK_THAT(dir.refusal(dir / "alias", overwrite), test::contains("the source"));
    CHECK_THAT(dir.refusal(dir.path(), overwrite), test::contains("contains the source"));
  }
}

TEST_CASE("a folder that holds files of the source is not replaced", "[output]") {
  place const dir;
  dir.quantized("blobs");
  dir.write("blobs/weights", "x");
  fs::create_symlink(dir / "blobs/weights", dir.source() / "model.safetensors");
  CHECK_THAT(dir.refusal(dir / "blobs", true), test::contains("holds files of the source"));
}

TEST_CASE("two runs to one target do not collide: the second keeps its result aside", "[output]") {
  place const dir;
  output_folder first(dir / "out", dir.source(), false);
  auto second = std::make_unique<output_folder>(dir / "out", dir.source(), false);
  CHECK(first.path() != second->path());
  put(first.path() / "who", "first");
  put(second->path() / "who", "second");
  first.commit();
  fs::path const kept = second->path();
  CHECK_THAT(message_of([&] { second->commit(); }),
             test::contains("already exists") && test::contains("kept in " + kept.string()));
  second.reset();
  CHECK(test::read_text(dir / "out/who") == "first");
  CHECK(test::read_text(kept / "who") == "second");
}

TEST_CASE("what must not be replaced at the end is not", "[output]") {
  place const dir;
  dir.quantized("out");
  output_folder out(dir / "out", dir.source(), true);
  fs::remove(dir / "out/quantize_config.json");
  put(dir / "out/thesis.txt", "");
  CHECK_THAT(message_of([&] { out.commit(); }), test::contains("does not hold a quantized model"));
  CHECK(fs::exists(dir / "out/thesis.txt"));
}

TEST_CASE("names that can't be an output folder are refused", "[output]") {
  place const dir;
  CHECK_THAT(dir.refusal("", false), test::contains("empty name"));
  CHECK_THAT(dir.refusal("/", false), test::contains("can't be an output folder"));
  dir.write("file", "");
  CHECK_THAT(dir.refusal(dir / "file/out", false), test::contains("can't create the folder"));
}

TEST_CASE("too little disk space is refused with both figures", "[output]") {
  place const dir;
  output_folder const out(dir / "out", dir.source(), false);
  CHECK_NOTHROW(out.check_space(1));
  CHECK_THAT(message_of([&] { out.check_space(std::uint64_t{1} << 60); }),
             test::contains("1152921504606846976 bytes needed"));
}
