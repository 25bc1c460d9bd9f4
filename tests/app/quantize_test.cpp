// From a model folder to a checkpoint and a report.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <gptq/core/float16.hpp>

#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <set>

namespace {

using test::model_copy;
using test::run_well;
using test::tensor_file;

/// Runs quantize with --report and returns the report.
gptq::json quantize(model_copy const& m, std::vector<std::string> more = {}) {
  auto const file = m.results() / "report.json";
  more.insert(more.end(), {"--report", file.string()});
  run_well(m.small_run(more));
  return gptq::read_json(file);
}

gptq::json perplexity(std::filesystem::path const& model, std::filesystem::path const& reference) {
  return gptq::parse_json(
      run_well({"perplexity", model.string(), "--reference", reference.string(), "--text",
                (test::bundled_model() / "evaluation.txt").string(), "--max-tokens", "1536", "--json"})
          .out,
      "stdout");
}

/// The line that people read.
std::string perplexity_line(gptq::json const& e) {
  char line[64];
  std::snprintf(line, sizeof line, "perplexity     %.4f", e.at("perplexity").get<double>());
  return line;
}

}  // namespace

TEST_CASE("quantize writes a complete folder and nothing else", "[app]") {
  model_copy const m;
  auto const before = m.contents();
  auto const r = run_well(m.small_run());
  CHECK_THAT(r.err, test::contains("block 1 of 4") && test::contains("block 4 of 4"));
  CHECK_THAT(r.out, test::contains("mean of down") && test::contains("28 ok"));
  CHECK(m.contents() == before);
  CHECK(test::names_in(m.results()) == std::vector<std::string>{"out"});
  CHECK(test::names_in(m.output()) ==
        std::vector<std::string>{"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
                                 "quantize_config.json", "tokenizer.json", "tokenizer_config.json"});
  for (char const* const name :
       {"chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}) {
    INFO(name);
    CHECK(test::file_text(m.output() / name) == test::file_text(m.model() / name));
  }
  CHECK(test::run_app({"inspect", m.output().string()}).code == 0);
}

TEST_CASE("config.json keeps its keys in their order and gains the settings, which quantize_config.json repeats",
          "[app]") {
  model_copy const m;
  run_well(m.small_run());
  gptq::json config = gptq::read_json(m.output() / "config.json");
  gptq::json const settings = config.at("quantization_config");
  CHECK(settings.dump() == gptq::read_json(m.output() / "quantize_config.json").dump());
  CHECK(settings.at("quant_method") == "gptq");
  CHECK(settings.at("bits") == 4);
  CHECK(settings.at("group_size") == 128);
  CHECK(settings.at("sym") == true);
  CHECK(settings.at("desc_act") == false);
  CHECK(settings.at("checkpoint_format") == "gptq");
  CHECK(settings.at("damp_percent").dump() == "0.01");
  config.erase("quantization_config");
  CHECK(config.dump() == gptq::read_json(m.model() / "config.json").dump());
}

TEST_CASE("tensors that are not quantized are copied bit for bit, biases become float16", "[app]") {
  model_copy const m;
  run_well(m.small_run());
  auto const from = tensor_file::read(m.weights());
  auto const to = tensor_file::read(m.output() / "model.safetensors");
  CHECK(to.header.at("__metadata__").at("format") == "pt");
  for (std::string const name :
       {"model.embed_tokens.weight", "model.norm.weight", "model.layers.2.post_attention_layernorm.weight"}) {
    INFO(name);
    CHECK(to.header.at(name).at("dtype") == "BF16");
    CHECK(to.tensor(name) == from.tensor(name));
  }
  std::string const bias = "model.layers.1.self_attn.k_proj.bias";
  CHECK(to.header.at(bias).at("dtype") == "F16");
  std::string const wide = from.tensor(bias), narrow = to.tensor(bias);
  REQUIRE(wide.size() == narrow.size());
  for (std::size_t i = 0; i < wide.size(); i += 2) {
    gptq::bfloat16 x;
    gptq::float16 y;
    std::memcpy(&x, wide.data() + i, 2);
    std::memcpy(&y, narrow.data() + i, 2);
    CHECK(gptq::to_float16(gptq::to_float(x)) == y);
  }
  CHECK_FALSE(to.header.contains("model.layers.0.mlp.down_proj.weight"));
  CHECK(to.header.at("model.layers.0.mlp.down_proj.qweight").at("shape").dump() == "[48,128]");
}

TEST_CASE("more bits diverge less from the model", "[app]") {
  double last = 1e9;
  for (std::string const bits : {"2", "4", "8"}) {
    model_copy const m;
    run_well(m.small_run({"--bits", bits, "--samples", "4"}));
    auto const e = perplexity(m.output(), m.model());
    INFO(bits << " bits: " << e.dump());
    CHECK(e.at("kl").get<double>() < 0.5 * last);
    CHECK(e.at("kl").get<double>() > 0);
    last = e.at("kl").get<double>();
  }
  CHECK(last < 1e-3);
}

TEST_CASE("preset best comes closer to the float model than default, and reports what each step gained", "[app]") {
  model_copy const m;
  std::vector<double> kl;
  for (std::string const preset : {"default", "best"}) {
    model_copy const copy;
    auto const report = quantize(copy, {"--preset", preset, "--bits", "3", "--samples", "16"});
    kl.push_back(perplexity(copy.output(), copy.model()).at("kl").get<double>());
    auto const& down = report.at("linears").at(27);
    CHECK(down.at("float_loss").is_null() == (preset == "default"));
    if (preset == "default") continue;
    CHECK(report.at("options").at("target_shift") == 1.0);
    CHECK(down.at("float_loss").get<double>() > 0);
    CHECK(down.at("refined_loss").get<double>() < down.at("pass_loss").get<double>());
    CHECK(down.at("rel_loss").get<double>() > down.at("refined_loss").get<double>());
  }
  INFO(kl[0] << " and " << kl[1]);
  CHECK(kl[1] < kl[0]);
}

TEST_CASE("the report tells versions, options, calibration, every layer, time and memory", "[app]") {
  model_copy const m;
  auto const report = quantize(m, {"--bits", "8", "--engine", "vllm"});
  for (char const* const key : {"versions", "model", "output", "options", "calibration", "linears", "statuses",
                                "fallbacks", "warnings", "seconds", "device", "evaluation", "memory", "bytes"})
    CHECK(report.contains(key));
  CHECK(report.at("device").is_null());  // the host computed
  CHECK(report.at("evaluation").is_null());
  CHECK(report.at("versions").contains("gptq"));
  CHECK(report.at("versions").contains("eigen"));
  CHECK(report.at("options").at("bits") == 8);
  CHECK(report.at("options").at("order") == "group_aware");
  CHECK(report.at("options").at("damp_percent").dump() == "0.01");
  CHECK(report.at("options").at("mse").dump() == "2.4");
  CHECK(report.at("calibration").at("samples") == 2);
  CHECK(report.at("calibration").at("tokens") == 400);
  CHECK(report.at("calibration").at("cut") == 2);
  CHECK(report.at("warnings").empty());
  CHECK(report.at("statuses").dump() == R"({"ok":28})");

  REQUIRE(report.at("linears").size() == 28);
  auto const& down = report.at("linears").at(6);
  CHECK(down.at("name") == "model.layers.0.mlp.down_proj");
  CHECK(down.at("N") == 128);
  CHECK(down.at("K") == 384);
  CHECK(down.at("tokens") == 400);
  CHECK(down.at("damp_used").dump() == "0.01");
  CHECK(down.at("status") == "ok");
  CHECK(down.at("factor_precision") == "fp32");
  CHECK(down.at("rel_loss").get<double>() > 0);
  CHECK(down.at("rel_loss").get<double>() < down.at("rtn_rel_loss").get<double>());

  double parts = 0;
  for (char const* const activity : {"load", "forward", "gram", "solve", "pack", "write"})
    parts += report.at("seconds").at(activity).get<double>();
  CHECK(parts > 0);
  CHECK(parts <= report.at("seconds").at("total").get<double>());
  CHECK(report.at("memory").at("peak_anonymous_bytes") > 1'000'000);
  CHECK(report.at("memory").at("peak_resident_bytes") >= report.at("memory").at("peak_anonymous_bytes"));
  CHECK(report.at("bytes").at("before") == tensor_file::read(m.weights()).data.size());
  CHECK(report.at("bytes").at("after") == tensor_file::read(m.output() / "model.safetensors").data.size());
}

TEST_CASE("the report may go into the output folder, and one that can't be written is refused before work", "[app]") {
  model_copy const m;
  m.check_refused({"--report", "not_there"}, {"--report", (m.results() / "not_there" / "r.json").string()}, 1);
  m.check_refused({"--report", ".json", ".html"}, {"--report", (m.results() / "r.txt").string()}, 2);
  std::filesystem::create_directory(m.folder() / "folder.json");
  m.check_refused({"--report", "a folder"}, {"--report", (m.folder() / "folder.json").string()}, 1);
  auto const file = m.output() / "report.json";
  run_well(m.small_run({"--report", file.string()}));
  CHECK(gptq::read_json(file).contains("linears"));
  CHECK(test::names_in(m.results()) == std::vector<std::string>{"out"});
}

TEST_CASE("the report takes the place of nothing that is read or written beside it", "[app]") {
  model_copy const m;
  auto const refused = [&](std::filesystem::path const& file, char const* why, std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--report", file.string()});
    m.check_refused({"--report", why}, more, 1);
  };
  auto const rules = m.folder() / "rules.json";
  std::ofstream(rules) << R"({"-:nothing": {}})";
  refused(m.model() / "config.json", "folder of the source");
  refused(m.results() / ".." / m.model().filename() / "new.json", "folder of the source");
  refused(rules, "is read by this run", {"--dynamic", rules.string()});
  auto const text = m.folder().write("text.html", "To be, or not to be");
  refused(text, "is read by this run", {"--evaluate", text.string()});
  refused(m.output() / "config.json", "a file of the result");
  refused(m.output() / "tokenizer.json", "a file of the result");
  refused(m.output() / "quantize_config.json", "a file of the result");
  CHECK(gptq::read_json(m.model() / "config.json").contains("model_type"));
}

TEST_CASE("the report counts the codes of every layer", "[app]") {
  model_copy const m;
  auto const report = quantize(m, {"--bits", "3"});
  for (auto const& layer : report.at("linears")) {
    auto const counts = layer.at("codes").get<std::vector<std::int64_t>>();
    REQUIRE(counts.size() == 8);
    CHECK(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}) ==
          layer.at("N").get<std::int64_t>() * layer.at("K").get<std::int64_t>());
    CHECK(counts[4] > counts[7]);
  }
}

TEST_CASE("--report FILE.html is one page with every layer, its tags closed, nothing fetched", "[app]") {
  model_copy const m;
  auto const file = m.results() / "r.html";
  auto arguments = m.small_run({"--preset", "best", "--report", file.string()});
  arguments[2] = (m.results() / "a<b>&c").string();
  run_well(arguments);
  std::string const page = test::file_text(file);
  CHECK_THAT(page, test::contains("a&lt;b&gt;&amp;c") && test::contains("after refinement"));
  for (char const* const fetched : {"http", "src=", "href", "url(", "@import", "<script"})
    CHECK(page.find(fetched) == std::string::npos);
  for (int block = 0; block < 4; ++block)
    CHECK_THAT(page, test::contains("<td>model.layers." + std::to_string(block) + ".mlp.down_proj</td>"));

  std::map<std::string, int> seen;
  std::vector<std::string> open;
  for (std::size_t at = page.find("<html"); (at = page.find('<', at)) != std::string::npos;) {
    std::size_t const end = page.find('>', at);
    REQUIRE(end != std::string::npos);
    std::string const tag = page.substr(at + 1, end - at - 1);
    std::string const name = tag.substr(tag[0] == '/' ? 1 : 0, tag.find_first_of(" /", 1) - (tag[0] == '/' ? 1 : 0));
    if (tag[0] == '/') {
      REQUIRE_FALSE(open.empty());
      CHECK(open.back() == tag.substr(1));
      open.pop_back();
    } else if (tag.back() != '/') {
      ++seen[name];
      open.push_back(name);
    }
    at = end;
  }
  CHECK(open.empty());
  CHECK(seen["svg"] == 28 + 7 + 1);  // histograms, kinds of layers, seconds
  CHECK(seen["circle"] == 28 * 5);
}

TEST_CASE("--evaluate measures the result as perplexity does", "[app]") {
  model_copy const m;
  std::string const text = (test::bundled_model() / "evaluation.txt").string();
  auto const e = quantize(m, {"--evaluate", text, "--evaluate-max-tokens", "1536"}).at("evaluation");
  auto const expected = perplexity(m.output(), m.model());
  for (char const* const key : {"perplexity", "kl", "kl_windows", "top1", "tokens", "windows"}) {
    INFO(key);
    CHECK(e.at(key).dump() == expected.at(key).dump());
  }
  CHECK(e.at("windows") == 3);
  CHECK(e.at("kl").get<double>() > 0);
  std::filesystem::remove_all(m.output());
  auto ids =
      gptq::parse_json(run_well({"tokenize", m.model().string(), "--text", text, "--json"}).out, "stdout").at("ids");
  ids.erase(ids.begin() + 1536, ids.end());
  std::ofstream(m.folder() / "ids.jsonl") << ids.dump();
  auto const r = run_well(m.small_run({"--evaluate", (m.folder() / "ids.jsonl").string()}));
  CHECK_THAT(r.out, test::contains("written to") && test::contains(perplexity_line(expected)));
}

TEST_CASE("a text for --evaluate that won't do is refused before any work", "[app]") {
  model_copy const m;
  m.check_refused({"--evaluate", "none.txt"}, {"--evaluate", "none.txt"});
  m.check_refused({"short.txt", "one window of 512"}, {"--evaluate", m.folder().write("short.txt", "To be").string()});
  m.check_refused({"ids.jsonl", "1024"}, {"--evaluate", m.folder().write("ids.jsonl", "[1, 1024]").string()});
  m.check_refused({"--evaluate-max-tokens", "--evaluate"}, {"--evaluate-max-tokens", "600"}, 2);
}

TEST_CASE("an explicit option overrides its preset", "[app]") {
  model_copy const m;
  auto const options = quantize(m, {"--preset", "parity"}).at("options");
  CHECK(options.at("order") == "natural");
  CHECK(options.at("mse").dump() == "0.0");
  CHECK(options.at("round_scales") == false);
  CHECK(options.at("reference_dead") == true);
  std::filesystem::remove_all(m.output());
  auto const overridden =
      quantize(m, {"--preset", "parity", "--mse", "2", "--order", "desc_act", "--damp-percent", "0.05"});
  CHECK(overridden.at("options").at("order") == "desc_act");
  CHECK(overridden.at("options").at("mse").dump() == "2.0");
  CHECK(overridden.at("options").at("damp_percent").dump() == "0.05");
  CHECK(overridden.at("options").at("round_scales") == false);
  CHECK(gptq::read_json(m.output() / "quantize_config.json").at("desc_act") == true);
}

TEST_CASE("a grid without symmetry is written as gptq_v2, or with zero points that gptq can hold", "[app]") {
  model_copy const m;
  auto const zeros = [&] {
    auto const found = gptq::parse_json(run_well({"inspect", m.output().string(), "--json"}).out, "stdout");
    std::set<int> all;
    for (auto const& module : found.at("modules"))
      if (module.at("kind") == "quantized")
        for (auto const& zero : module.at("zeros")) all.insert(zero.get<int>());
    return all;
  };
  auto const v2 = quantize(m, {"--no-sym", "--bits", "2", "--group-size", "16"});
  CHECK(v2.at("options").at("format") == "gptq_v2");
  CHECK(v2.at("options").at("nonzero_zeros") == false);
  CHECK(gptq::read_json(m.output() / "config.json").at("quantization_config").at("sym") == false);
  CHECK(*zeros().begin() == 0);
  std::filesystem::remove_all(m.output());
  auto const v1 = quantize(m, {"--no-sym", "--bits", "2", "--group-size", "16", "--format", "gptq"});
  CHECK(v1.at("options").at("format") == "gptq");
  CHECK(v1.at("options").at("nonzero_zeros") == true);
  CHECK(*zeros().begin() == 1);
}

TEST_CASE("--no-true-sequential, --static-groups and --group-size -1 reach the files", "[app]") {
  model_copy const m;
  auto const report =
      quantize(m, {"--no-true-sequential", "--static-groups", "--order", "desc_act", "--group-size", "32"});
  CHECK(report.at("options").at("true_sequential") == false);
  auto const settings = gptq::read_json(m.output() / "quantize_config.json");
  CHECK(settings.at("true_sequential") == false);
  CHECK(settings.at("static_groups") == true);
  CHECK(settings.at("desc_act") == false);
  CHECK(settings.at("group_size") == 32);
  std::filesystem::remove_all(m.output());
  CHECK(quantize(m, {"--group-size", "-1"}).at("options").at("group_size") == -1);
  CHECK(gptq::read_json(m.output() / "quantize_config.json").at("group_size") == -1);
}

TEST_CASE("--dtype float16 converts what stays in float, and the key", "[app]") {
  model_copy const m;
  quantize(m, {"--dtype", "float16"});
  auto const config = gptq::read_json(m.output() / "config.json");
  CHECK(config.at("dtype") == "float16");
  CHECK_FALSE(config.contains("torch_dtype"));
  auto const file = tensor_file::read(m.output() / "model.safetensors");
  for (auto const& name : file.names()) {
    INFO(name);
    CHECK(file.header.at(name).at("dtype") != "BF16");
  }
}

TEST_CASE("--shard-size splits the weights, with the same tensors in them", "[app]") {
  model_copy const m;
  run_well(m.small_run());
  auto const whole = tensor_file::read(m.output() / "model.safetensors");
  std::filesystem::remove_all(m.output());
  run_well(m.small_run({"--shard-size", "300KB"}));
  auto const map = gptq::read_json(m.output() / "model.safetensors.index.json").at("weight_map");
  CHECK(map.size() == whole.names().size());
  std::set<std::string> files;
  for (auto const& item : map.items()) {
    files.insert(item.value().get<std::string>());
    CHECK(tensor_file::read(m.output() / item.value().get<std::string>()).tensor(item.key()) ==
          whole.tensor(item.key()));
  }
  CHECK(files.size() == 3);
  CHECK(test::run_app({"inspect", m.output().string()}).code == 0);
}

TEST_CASE("one calibration run twice gives the same bytes", "[app]") {
  model_copy const a, b;
  run_well(a.small_run());
  run_well(b.small_run());
  CHECK(test::file_text(a.output() / "model.safetensors") == test::file_text(b.output() / "model.safetensors"));
}

TEST_CASE("layers that fall back are listed and end the run with 3, unless allowed", "[app]") {
  model_copy const m;
  // All inputs of the first linears are zero: nothing is known about its layers.
  m.edit_weights([](tensor_file& f) { f.set("model.layers.1.input_layernorm.weight", 0, std::string(256, '\0')); });
  std::vector<std::string> const report = {"--report", (m.results() / "r.json").string()};
  auto const r = test::run_app(m.small_run(report));
  INFO(r.err);
  CHECK(r.code == 3);
  CHECK_THAT(r.err, test::contains("model.layers.1.self_attn.q_proj: rtn_no_data") &&
                        test::contains("model.layers.1.self_attn.v_proj") && test::contains("3 layers fell back"));
  CHECK(test::run_app({"inspect", m.output().string()}).code == 0);
  auto const document = gptq::read_json(m.results() / "r.json");
  CHECK(document.at("fallbacks") == 3);
  CHECK(document.at("linears").at(7).at("rel_loss").is_null());
  std::filesystem::remove_all(m.output());
  CHECK(test::run_app(m.small_run({"--allow-fallback"})).code == 0);
}

TEST_CASE("fewer tokens than the widest layer has inputs is a warning", "[app]") {
  model_copy const m;
  auto const report = quantize(m, {"--samples", "1", "--sequence-length", "100"});
  CHECK_THAT(report.at("warnings").dump(), test::contains("100 calibration tokens") && test::contains("384"));
  CHECK(report.at("statuses").contains("few_tokens"));
}
