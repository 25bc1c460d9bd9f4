#include <gptq/quantize/describe.hpp>
#include <gptq/quantize/job.hpp>
#include <gptq/quantize/pipeline.hpp>
#include <gptq/quantize/served_plan.hpp>

#include <gptq/backend/host_model.hpp>

#include "support/files.hpp"
#include "support/pipeline_cases.hpp"
#include "support/tensor_list.hpp"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

using test::message_of;

namespace {

gptq::recipe of_format(gptq::checkpoint_format format, std::uint64_t shard_size) {
  gptq::recipe r;
  r.spec.group_size = 32;
  r.quantize.grid.mse = 0;
  r.format = format;
  r.shard_size = shard_size;
  return r;
}

/// The bundled model with tensors that no layer reads.
std::filesystem::path with_strangers(test::temp_dir const& dir, int strangers) {
  gptq::checkpoint_reader const source(test::bundled_model());
  std::filesystem::create_directories(dir / "model");
  std::filesystem::copy_file(test::bundled_model() / "config.json", dir / "model/config.json");
  test::tensor_list tensors;
  for (std::string const& name : source.names()) tensors.add(source.at(name));
  std::vector<std::byte> const zeros(8);
  for (int i = 0; i < strangers; ++i)
    tensors.add("adapter." + std::to_string(i) + ".lora_A", gptq::dtype::f16, {4}, zeros);
  tensors.write(dir / "model");
  return dir / "model";
}

}  // namespace

TEST_CASE("job: what was planned is what is written, file by file and byte by byte", "[job]") {
  auto const format = GENERATE(gptq::checkpoint_format::gptq, gptq::checkpoint_format::compressed_tensors);
  auto const shard_size = GENERATE(std::uint64_t{4'000'000'000}, std::uint64_t{300'000});
  test::temp_dir const dir;
  gptq::job const j(test::bundled_model(), of_format(format, shard_size));
  gptq::host_model_backend b;
  auto const report = run(j, b, dir / "out", test::random_calibration(6));
  CHECK(report.bytes_after == j.layout().total_size());
  std::vector<std::string> names;
  std::uint64_t bytes = 0;
  for (gptq::planned_file const& f : j.files()) {
    CAPTURE(f.name);
    CHECK(std::filesystem::file_size(dir / "out" / f.name) == f.bytes);
    names.push_back(f.name);
    bytes += f.bytes;
  }
  std::sort(names.begin(), names.end());
  CHECK(test::listing(dir / "out") == names);
  CHECK(bytes == j.disk_bytes());
}

TEST_CASE("job: nothing is refused later than when it is made, and an inspection of engines sees no less", "[job]") {
  gptq::recipe r;
  r.spec.group_size = 256;
  CHECK_THAT(message_of<gptq::shape_error>([&] { gptq::job(test::bundled_model(), r); }),
             test::contains("group_size 256 does not divide"));
  r = {};
  r.dynamic = gptq::parse_dynamic_rules({{"-:.*", gptq::json::object()}}, "rules");
  CHECK_THAT(message_of<gptq::shape_error>([&] { gptq::job(test::bundled_model(), r); }),
             test::contains("no layer to quantize"));
  r = {};
  r.lm_head = true;
  CHECK_THAT(message_of<gptq::shape_error>([&] { gptq::job(test::bundled_model(), r); }), test::contains("tied"));
  r = {};
  r.spec.bits = 3;
  r.format = gptq::checkpoint_format::compressed_tensors;
  CHECK_THAT(message_of<gptq::shape_error>([&] { gptq::job(test::bundled_model(), r); }),
             test::contains("no settled form in compressed-tensors"));
  r = {};
  r.shift.target = 2;
  CHECK_THAT(message_of<gptq::shape_error>([&] { gptq::job(test::bundled_model(), r); }),
             test::contains("target_shift must lie between 0 and 1"));
}

TEST_CASE("job: a quantized model is refused, and no engine is asked about it", "[job]") {
  test::temp_dir const dir;
  gptq::recipe r = of_format(gptq::checkpoint_format::gptq, 4'000'000'000);
  gptq::host_model_backend b;
  gptq::quantize_model(b, test::bundled_model(), dir / "out", test::random_calibration(2), r);
  CHECK_THAT(message_of([&] { gptq::job(dir / "out", r); }), test::contains("the model is quantized already"));
}

TEST_CASE("job: what engines will meet is what the folder says", "[job]") {
  test::temp_dir const dir;
  gptq::job const j(test::bundled_model(), of_format(gptq::checkpoint_format::gptq, 4'000'000'000));
  auto const expected = served(j);
  gptq::host_model_backend b;
  run(j, b, dir / "out", test::random_calibration(2));
  gptq::checkpoint_reader const reader(dir / "out");
  CHECK(expected.settings == reader.config().at("quantization_config"));
  auto const found = served(reader, gptq::inspect(reader));
  CHECK(found.linears.size() == expected.linears.size());
}

TEST_CASE("job: tensors that no layer reads are told, and copied", "[job]") {
  test::temp_dir const dir;
  int const strangers = GENERATE(0, 1, 5);
  auto const model = with_strangers(dir, strangers);
  gptq::job const j(model, of_format(gptq::checkpoint_format::gptq, 4'000'000'000));
  CHECK(j.unread().size() == static_cast<std::size_t>(strangers));
  gptq::host_model_backend b;
  auto const report = run(j, b, dir / "out", test::random_calibration(2));
  CHECK(report.unread == j.unread());
  REQUIRE(j.warnings().size() == (strangers == 0 ? 0 : 1));
  if (strangers == 0) return;
  CHECK_THAT(j.warnings()[0].text,
             test::contains(std::to_string(strangers) + " of the source's tensors are read by no"));
  CHECK_THAT(j.warnings()[0].text, test::contains("adapter.0.lora_A"));
  if (strangers == 5) CHECK_THAT(j.warnings()[0].text, test::contains("adapter.2.lora_A and 2 more"));
  CHECK(gptq::checkpoint_reader(dir / "out").contains("adapter.0.lora_A"));
}

TEST_CASE("job: layers are told in groups that agree", "[job]") {
  gptq::recipe r;
  r.dynamic = gptq::parse_dynamic_rules({{"-:.*layers\\.0\\.mlp", gptq::json::object()}, {"+:.*o_proj", {{"bits", 8}}}},
                                        "rules");
  gptq::job const j(test::bundled_model(), r);
  auto const groups = summarize_layers(j);
  std::size_t layers = 0;
  for (auto const& g : groups) layers += g.names.size() * g.blocks.size();
  CHECK(layers == j.plan().linears().size());
  auto const o = std::find_if(groups.begin(), groups.end(), [](auto const& g) { return g.spec && g.spec->bits == 8; });
  REQUIRE(o != groups.end());
  CHECK(o->names == std::vector<std::string>{"self_attn.o_proj"});
  CHECK(gptq::ranges_of(o->blocks) == "0-3");
  auto const kept = std::find_if(groups.begin(), groups.end(), [](auto const& g) { return !g.spec; });
  REQUIRE(kept != groups.end());
  CHECK(kept->names == std::vector<std::string>{"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
  CHECK(gptq::ranges_of(kept->blocks) == "0");
  CHECK(gptq::ranges_of({0, 1, 2, 4, 6, 7}) == "0-2, 4, 6-7");
}

TEST_CASE("job: its description holds recipe, files and sizes, and its fingerprint changes with recipe and source",
          "[job]") {
  gptq::job const j(test::bundled_model(), {});
  auto const d = describe(j);
  CHECK(d.at("recipe") == to_json(gptq::recipe()));
  CHECK(d.at("disk_bytes") == j.disk_bytes());
  CHECK(d.at("quantized") == 28);
  CHECK(d.at("files").size() == j.files().size());
  gptq::recipe other;
  other.spec.bits = 8;
  CHECK(fingerprint(gptq::job(test::bundled_model(), other)) != d.at("fingerprint"));
  test::temp_dir const dir;
  gptq::job const changed(with_strangers(dir, 1), {});
  CHECK(fingerprint(changed).at("source") != d.at("fingerprint").at("source"));
  CHECK(fingerprint(changed).at("recipe") == d.at("fingerprint").at("recipe"));
  CHECK_THAT(describe_text(j), test::contains("28 quantized, 0 kept in float"));
}

TEST_CASE("job: progress tells groups by number and name", "[job]") {
  test::temp_dir const dir;
  std::vector<std::string> seen;
  gptq::run_options options;
  options.progress = [&](gptq::pipeline_progress const& p) {
    REQUIRE(p.group < p.groups);
    REQUIRE(p.block < p.blocks);
    std::string const at = std::to_string(p.block) + "." + std::to_string(p.group) + " " + std::string(p.name);
    if (seen.empty() || seen.back() != at) seen.push_back(at);
  };
  gptq::host_model_backend b;
  auto const report = gptq::quantize_model(b, test::bundled_model(), dir / "out", test::random_calibration(2),
                                           of_format(gptq::checkpoint_format::gptq, 4'000'000'000), options);
  REQUIRE(seen.size() >= 8);
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  for (auto const& l : report.linears)
    CHECK(std::any_of(seen.begin(), seen.end(),
                      [&](auto const& s) { return l.group.starts_with(s.substr(s.find(' ') + 1)); }));
}
