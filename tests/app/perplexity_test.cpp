// What perplexity measures and prints.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <algorithm>
#include <cmath>

namespace {

using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;
using test::bard;
using test::check_refused;
using test::model_copy;
using test::run_app;
using test::run_well;

std::string const evaluation = (test::bundled_model() / "evaluation.txt").string();

gptq::json measure(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "perplexity");
  arguments.push_back("--json");
  auto const r = run_well(arguments);
  return gptq::parse_json(r.out, "stdout");
}

}  // namespace

TEST_CASE("the bundled model has the perplexity that it is known for", "[app][slow]") {
  auto const e = measure({bard, "--text", evaluation});
  CHECK_THAT(e.at("perplexity").get<double>(), WithinRel(60.88, 5e-4));
  CHECK(e.at("windows") == 37);
  CHECK(e.at("tokens") == 37 * 511);
  CHECK(e.at("kl").is_null());
  CHECK(e.at("kl_windows").is_null());
  CHECK(e.at("top1").is_null());
  CHECK(e.at("seconds").get<double>() > 0);
}

TEST_CASE("a model does not diverge from itself", "[app]") {
  auto const e = measure({bard, "--text", evaluation, "--max-tokens", "600", "--context", "100", "--reference", bard});
  CHECK_THAT(e.at("kl").get<double>(), WithinAbs(0, 1e-12));
  CHECK(e.at("top1") == 1.0);
  CHECK(e.at("windows") == 6);
  CHECK(e.at("tokens") == 6 * 99);
}

TEST_CASE("--ids reads its records as one text, the same as --text", "[app]") {
  test::temp_dir const folder;
  auto const ids = gptq::parse_json(run_well({"tokenize", bard, "--text", evaluation, "--json"}).out, "stdout")
                       .at("ids")
                       .get<std::vector<int>>();
  std::vector<int> const a(ids.begin(), ids.begin() + 300), b(ids.begin() + 300, ids.begin() + 1024);
  auto const file = folder.write("i.jsonl", gptq::json{{"input_ids", a}}.dump() + "\n" + gptq::json(b).dump() + "\n");
  auto const by_ids = measure({bard, "--ids", file.string()});
  auto const by_text = measure({bard, "--text", evaluation, "--max-tokens", "1024"});
  CHECK(by_ids.at("tokens") == 2 * 511);
  CHECK(by_ids.at("perplexity") == by_text.at("perplexity"));
}

TEST_CASE("the text is tokenized without BOS", "[app]") {
  model_copy const m;
  std::vector<std::string> const arguments = {m.model().string(), "--text", evaluation, "--max-tokens", "200",
                                              "--context",        "100"};
  auto const without = measure(arguments).at("perplexity");
  m.add_bos();
  CHECK(measure(arguments).at("perplexity") == without);
}

TEST_CASE("the spread over windows is reported with the divergence", "[app]") {
  model_copy const m;
  m.edit_json("config.json", [](gptq::json& config) { config["rms_norm_eps"] = 1e-2; });
  auto const divergence = [&](std::string const& tokens) {
    return measure(
        {m.model().string(), "--text", evaluation, "--max-tokens", tokens, "--context", "100", "--reference", bard});
  };
  auto const one = divergence("100"), two = divergence("200");
  double const first = one.at("kl").get<double>(), second = 2 * two.at("kl").get<double>() - first;
  CHECK(first != second);
  CHECK(one.at("kl_windows").at("deviation") == 0.0);
  auto const& spread = two.at("kl_windows");
  CHECK_THAT(spread.at("min").get<double>(), WithinRel(std::min(first, second), 1e-6));
  CHECK_THAT(spread.at("max").get<double>(), WithinRel(std::max(first, second), 1e-6));
  CHECK_THAT(spread.at("deviation").get<double>(), WithinRel(std::abs(first - second) / std::sqrt(2), 1e-6));
  CHECK_THAT(spread.at("standard_error").get<double>(), WithinRel(std::abs(first - second) / 2, 1e-6));
}

TEST_CASE("a person reads the same figures", "[app]") {
  auto const r = run_well({"perplexity", bard, "--text", evaluation, "--max-tokens", "1024", "--reference", bard});
  CHECK_THAT(r.out, test::contains("perplexity ") && test::contains("KL divergence") && test::contains(" ± ") &&
                        test::contains("same top token"));
}

TEST_CASE("perplexity of what can't be measured is refused", "[app]") {
  test::temp_dir const folder;
  check_refused(run_app({"perplexity", bard, "--text", "none.txt"}), 1, {"--text", "none.txt"});
  check_refused(run_app({"perplexity", bard, "--text", bard}), 1, {"--text", "a folder"});
  check_refused(run_app({"perplexity", bard, "--text", folder.write("e.txt", "").string()}), 1, {"e.txt", "empty"});
  check_refused(run_app({"perplexity", bard, "--text", folder.write("s.txt", "To be").string()}), 1,
                {"s.txt", "one window of 512"});
  check_refused(run_app({"perplexity", bard, "--ids", folder.write("i.jsonl", "[1, 2, 1024]").string()}), 1,
                {"i.jsonl", "line 1", "1024"});
  check_refused(run_app({"perplexity", (folder / "none").string(), "--text", evaluation}), 1, {"config.json"});
  check_refused(run_app({"perplexity", bard, "--text", evaluation, "--reference", (folder / "none").string()}), 1,
                {"none"});
}

TEST_CASE("a model that computes NaN is refused", "[app]") {
  model_copy const m;
  m.edit_weights([](test::tensor_file& f) {
    std::string huge;
    for (int i = 0; i < 128; ++i) huge += std::string("\x00\x7f", 2);  // 1.7e38
    f.set("model.norm.weight", 0, huge);
  });
  check_refused(run_app({"perplexity", m.model().string(), "--text", evaluation, "--max-tokens", "1024"}), 1,
                {m.model().string(), "NaN"});
}

TEST_CASE("checkpoints that GPTQModel wrote are read as it reads them", "[app][slow]") {
  GPTQ_REQUIRE_SHARED("fixtures");
  struct row {
    char const* folder;
    double perplexity, kl;
  };
  for (row const& wanted :
       {row{"gptqmodel-w4g128", 62.0168, .02771}, row{"gptqmodel-w4g32-desc-act", 61.4594, .01981},
        row{"gptqmodel-w2g64-asym-v2", 83.2967, .50226}, row{"gptqmodel-w4g128-partial", 61.0173, .01784}}) {
    INFO(wanted.folder);
    auto const folder = (test::shared_dir() / "fixtures" / wanted.folder).string();
    CHECK(run_app({"inspect", folder}).code == 0);
    auto const e = measure({folder, "--text", evaluation, "--reference", bard});
    CHECK_THAT(e.at("perplexity").get<double>(), WithinRel(wanted.perplexity, 5e-4));
    CHECK_THAT(e.at("kl").get<double>(), WithinRel(wanted.kl, 2e-3));
  }
}
