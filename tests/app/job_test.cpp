// Recipes and dry runs; how often a run opens its source; what it tells of the source.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>

using test::check_refused;
using test::model_copy;
using test::run_app;
using test::run_well;

namespace {

gptq::json printed_recipe(std::vector<std::string> const& options) {
  std::vector<std::string> all = {"quantize", "--print-recipe"};
  all.insert(all.end(), options.begin(), options.end());
  return gptq::parse_json(run_well(std::move(all)).out, "stdout");
}

std::string write_file(test::temp_dir const& dir, char const* name, std::string const& text) {
  std::ofstream(dir / name) << text;
  return (dir / name).string();
}

}  // namespace

TEST_CASE("--print-recipe prints what options come to, and needs no files", "[app]") {
  gptq::json const r = printed_recipe({"--preset", "best", "--bits", "3", "--no-sym", "--skip", "a.*", "--samples", "7",
                                       "--shard-size", "5MB", "--engine", "vllm", "--mse", "2"});
  CHECK(r.at("preset") == "best");
  CHECK(r.at("bits") == 3);
  CHECK(r.at("sweeps") == 2);
  CHECK(r.at("format") == "gptq_v2");
  CHECK(r.at("dynamic").contains("-:a.*"));
  CHECK(r.at("calibration").at("samples") == 7);
  CHECK(r.at("shard_size") == 5'000'000);
  CHECK(r.at("engines") == gptq::json::array({"vllm"}));
  CHECK(printed_recipe({}).at("format") == "gptq");
  check_refused(run_app({"quantize", "--print-recipe", "--bits", "5"}), 2, {"--bits"});
}

TEST_CASE("--recipe takes its settings from a file, and options override it", "[app]") {
  test::temp_dir const dir;
  gptq::json const first = printed_recipe({"--preset", "best", "--bits", "3", "--no-sym", "--micro-batch", "100"});
  std::string const file = write_file(dir, "recipe.json", first.dump());
  CHECK(printed_recipe({"--recipe", file}) == first);
  gptq::json const sym = printed_recipe({"--recipe", file, "--sym", "--refit", "0"});
  CHECK(sym.at("sym") == true);
  CHECK(sym.at("format") == "gptq");
  CHECK(sym.at("bits") == 3);
  CHECK(sym.at("refit") == 0);
  CHECK(sym.at("micro_batch") == 100);
  CHECK(printed_recipe({"--recipe", file, "--preset", "parity"}).at("sweeps") == 0);
  check_refused(run_app({"quantize", "--print-recipe", "--recipe", write_file(dir, "x.json", R"({"bitz": 4})")}), 1,
                {"x.json", "\"bitz\" is no setting of a recipe"});
  check_refused(run_app({"quantize", "--print-recipe", "--recipe", (dir / "none.json").string()}), 1, {"none.json"});
}

TEST_CASE("a run with the recipe of another run writes the same files, and reports it", "[app]") {
  model_copy const m;
  std::string const report = (m.results() / "report.json").string();
  run_well(m.small_run({"--bits", "3", "--group-size", "32", "--sweeps", "1", "--report", report}));
  CHECK(gptq::read_json(report).at("micro_batch") == 2048);
  gptq::json const told = gptq::read_json(report).at("recipe");
  CHECK(told.at("bits") == 3);
  std::string const file = write_file(m.folder(), "recipe.json", told.dump());
  std::string const again = (m.results() / "again").string();
  run_well({"quantize", m.model().string(), again, "--calibration",
            (test::bundled_model() / "calibration.txt").string(), "--recipe", file});
  for (std::string const& name : test::names_in(m.output())) {
    CAPTURE(name);
    CHECK(test::file_text(m.output() / name) == test::file_text(std::filesystem::path(again) / name));
  }
}

TEST_CASE("--dry-run tells what a run would write, and writes nothing", "[app]") {
  model_copy const m;
  auto const dry = run_well(m.small_run({"--dry-run", "--engine", "vllm"}));
  for (char const* const text : {"28 quantized", "blocks 0-3: self_attn.q_proj", "model.safetensors", "disk", "vllm",
                                 "micro-batch 2048 tokens", "2 samples"})
    CHECK_THAT(dry.out, test::contains(text));
  CHECK(test::names_in(m.results()).empty());
  std::string const report = (m.folder() / "report.json").string();
  run_well(m.small_run({"--dry-run", "--report", report}));
  gptq::json const told = gptq::read_json(report);
  run_well(m.small_run());
  std::map<std::string, std::uint64_t> sizes;
  for (auto const& f : told.at("files")) sizes[f.at("name")] = f.at("bytes");
  CHECK(sizes.size() == test::names_in(m.output()).size());
  for (auto const& [name, bytes] : sizes) CHECK(std::filesystem::file_size(m.output() / name) == bytes);
}

TEST_CASE("--dry-run refuses what the run would refuse", "[app]") {
  model_copy const m;
  auto const refused = [&](std::vector<std::string> const& more, int code) {
    auto with = more;
    with.insert(with.end(), {"--dry-run"});
    auto const dry = run_app(m.small_run(with)), real = run_app(m.small_run(more));
    CHECK(dry.code == code);
    CHECK(dry.err == real.err);
    check_refused(dry, code, {});
    CHECK(test::names_in(m.results()).empty());
  };
  refused({"--group-size", "256"}, 1);
  refused({"--lm-head"}, 1);
  refused({"--bits", "5"}, 2);
  refused({"--bits", "3", "--format", "compressed-tensors"}, 1);
  refused({"--engine", "exllamav2", "--bits", "3"}, 1);
  refused({"--report", "x.txt"}, 2);
  m.edit_weights([](test::tensor_file& f) { f.set("model.norm.weight", 0, std::string("\xff\x7f", 2)); });  // NaN
  refused({}, 1);
  std::filesystem::create_directory(m.output());
  check_refused(run_app(m.small_run({"--dry-run"})), 1, {"already exists"});
  check_refused(run_app(m.small_run({"--dry-run", "--report", "x.html"})), 2, {"--report"});
}

TEST_CASE("tensors that no layer reads are warned of and listed in the report", "[app]") {
  model_copy const m;
  m.edit_weights([](test::tensor_file& f) {
    f.header["adapter.lora_A"] = {
        {"dtype", "BF16"}, {"shape", {2}}, {"data_offsets", {f.data.size(), f.data.size() + 4}}};
    f.data += std::string(4, '\0');
  });
  std::string const report = (m.results() / "report.json").string();
  auto const r = run_well(m.small_run({"--report", report}));
  CHECK_THAT(r.err,
             test::contains("warning: 1 of the source's tensors are read by no layer and copied: adapter.lora_A"));
  CHECK(gptq::read_json(report).at("unread_tensors") == gptq::json::array({"adapter.lora_A"}));
}

#if defined(GPTQ_COUNT_OPENS)
TEST_CASE("a run opens each file of the source's weights once", "[app]") {
  model_copy const m;
  run_well(m.small_run());
  std::string const log = (m.folder() / "opened").string();
  auto const count = [&](std::vector<std::string> arguments) {
    std::filesystem::remove(log);
    ::setenv("GPTQ_OPENED", log.c_str(), 1);
    ::setenv("LD_PRELOAD", GPTQ_COUNT_OPENS, 1);
    auto const r = run_app(std::move(arguments));
    ::unsetenv("LD_PRELOAD");
    ::unsetenv("GPTQ_OPENED");
    INFO(r.err);
    CHECK(r.code == 0);
    std::istringstream lines(test::file_text(log));
    int opened = 0;
    for (std::string line; std::getline(lines, line);) opened += line == m.weights().string();
    return opened;
  };
  CHECK(count(m.small_run({"--overwrite"})) == 1);
  CHECK(count(m.small_run({"--overwrite", "--dry-run", "--engine", "vllm"})) == 1);
}
#endif
