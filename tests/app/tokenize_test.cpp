// Token ids of a file, for people and for programs.
#include "app/app.hpp"
#include "app/model_copy.hpp"

namespace {

using test::bard;
using test::check_refused;
using test::run_app;
using test::run_well;

}  // namespace

TEST_CASE("tokenize prints ids on one line, or as JSON", "[app]") {
  test::temp_dir const folder;
  auto const file = folder.write("t.txt", "To be, or not\nto be.").string();
  auto const plain = run_well({"tokenize", bard, "--text", file});
  auto const document = run_well({"tokenize", bard, "--text", file, "--json"});
  CHECK(plain.err.empty());
  CHECK(document.err.empty());
  auto const ids = gptq::parse_json(document.out, "stdout").at("ids");
  CHECK(ids.size() > 5);
  std::string line;
  for (auto const& id : ids) line += (line.empty() ? "" : " ") + id.dump();
  CHECK(plain.out == line + "\n");
}

TEST_CASE("tokenize needs nothing but tokenizer.json", "[app]") {
  test::temp_dir const folder;
  auto const file = folder.write("t.txt", "To be").string();
  std::filesystem::copy_file(test::bundled_model() / "tokenizer.json", folder / "some.json");
  CHECK(run_well({"tokenize", (folder / "some.json").string(), "--text", file}).out ==
        run_well({"tokenize", bard, "--text", file}).out);
}

TEST_CASE("bytes that are no UTF-8 are replaced, with a note", "[app]") {
  test::temp_dir const folder;
  auto const r = run_well({"tokenize", bard, "--text", folder.write("t.txt", "a \xff b").string(), "--json"});
  CHECK_THAT(r.err, test::contains("t.txt") && test::contains("not UTF-8"));
  CHECK(r.out ==
        run_well({"tokenize", bard, "--text", folder.write("u.txt", "a \xEF\xBF\xBD b").string(), "--json"}).out);
}

TEST_CASE("special tokens are added only on request", "[app]") {
  GPTQ_REQUIRE_SHARED("models/tinystories-656k-llama");
  test::temp_dir const folder;
  auto const model = (test::shared_dir() / "models" / "tinystories-656k-llama").string();
  auto const file = folder.write("t.txt", "Once upon a time").string();
  auto const without = run_well({"tokenize", model, "--text", file}).out;
  CHECK(run_well({"tokenize", model, "--text", file, "--add-special"}).out == "1 " + without);
}

TEST_CASE("the first ids of the golden files", "[app]") {
  struct row {
    char const *model, *text;
    bool bos;
  };
  GPTQ_REQUIRE_SHARED("models");
  for (row const& r : {row{"bard-qwen2-1m", "models/bard-qwen2-1m/heldout_shakespeare.txt", false},
                       row{"web-qwen2-22m", "text/wikitext2_raw_test.txt", false},
                       row{"tinystories-656k-llama", "text/tinystories_train_head_2MiB.txt", true}}) {
    INFO(r.model);
    auto const model = test::shared_dir() / "models" / r.model;
    std::vector<std::string> arguments = {"tokenize", model.string(), "--text", (test::shared_dir() / r.text).string(),
                                          "--json"};
    if (r.bos) arguments.push_back("--add-special");
    auto const ids = gptq::parse_json(run_well(arguments).out, "stdout").at("ids").get<std::vector<std::int32_t>>();
    auto const golden = test::tensor_file::read(model / "golden.safetensors").tensor("input_ids");
    std::vector<std::int32_t> row(96);
    std::memcpy(row.data(), golden.data(), row.size() * sizeof row[0]);
    CHECK(std::vector<std::int32_t>(ids.begin(), ids.begin() + 96) == row);
  }
}

TEST_CASE("text and tokenizers that can't be read are refused", "[app]") {
  test::temp_dir const folder;
  check_refused(run_app({"tokenize", bard, "--text", "none.txt"}), 1, {"--text", "none.txt"});
  check_refused(run_app({"tokenize", bard, "--text", folder.path().string()}), 1, {"--text", "a folder"});
  check_refused(run_app({"tokenize", folder.path().string(), "--text", folder.write("t.txt", "x").string()}), 1,
                {"tokenizer.json"});
}
