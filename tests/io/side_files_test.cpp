#include <gptq/io/side_files.hpp>

#include "support/files.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace {

std::vector<std::string> taken_over(std::filesystem::path const& from, std::filesystem::path const& to) {
  auto const files = gptq::list_side_files(from);
  gptq::copy_side_files(from, to, files);
  std::vector<std::string> names;
  for (auto const& f : files) {
    names.push_back(f.name);
    CHECK(std::filesystem::file_size(to / f.name) == f.bytes);
  }
  return names;
}

}  // namespace

TEST_CASE("tokenizer, templates, settings, code and licence are copied, nothing else", "[side_files]") {
  test::temp_dir const dir;
  std::vector<std::string> const taken = {"LICENSE",
                                          "USE_POLICY.md",
                                          "added_tokens.json",
                                          "chat_template.jinja",
                                          "configuration_telechat2.py",
                                          "generation_config.json",
                                          "merges.txt",
                                          "special_tokens_map.json",
                                          "tokenizer.json",
                                          "tokenizer.model",
                                          "tokenizer_config.json",
                                          "vocab.txt"};
  std::vector<std::string> const left = {"config.json",
                                         "quantize_config.json",
                                         "quant_config.json",
                                         "model.safetensors",
                                         "golden.safetensors",
                                         "model.safetensors.index.json",
                                         "pytorch_model.bin",
                                         "pytorch_model.bin.index.json",
                                         "x.pt",
                                         "x.pth",
                                         "x.gguf",
                                         "README.md",
                                         "calibration.txt",
                                         ".gitattributes",
                                         ".hidden.json",
                                         "unknown"};
  for (auto const& list : {taken, left})
    for (auto const& name : list) dir.write("from/" + name, "content of " + name);
  std::filesystem::create_directory(dir / "from/tokenizer.d");
  std::filesystem::create_directory(dir / "to");
  CHECK(taken_over(dir / "from", dir / "to") == taken);
  CHECK(test::listing(dir / "to") == taken);
  CHECK(test::read_text(dir / "to/tokenizer.json") == "content of tokenizer.json");
}

TEST_CASE("links to files are copied as files; empty files too", "[side_files]") {
  test::temp_dir const dir;
  dir.write("blob", "b");
  dir.write("from/tokenizer.json", "");
  std::filesystem::create_symlink(dir / "blob", dir / "from/vocab.json");
  std::filesystem::create_symlink(dir / "none", dir / "from/merges.txt");
  std::filesystem::create_directory(dir / "to");
  CHECK(taken_over(dir / "from", dir / "to") == std::vector<std::string>{"tokenizer.json", "vocab.json"});
  CHECK_FALSE(std::filesystem::is_symlink(dir / "to/vocab.json"));
  CHECK(test::read_text(dir / "to/vocab.json") == "b");
}

TEST_CASE("a folder that is missing is named", "[side_files]") {
  test::temp_dir const dir;
  CHECK_THAT(test::message_of([&] { gptq::list_side_files(dir / "none"); }), test::contains("none"));
}
