/// gptq inspect: what is in a model folder, layer by layer, and whether it is well-formed.
#include "app.hpp"
#include "console.hpp"
#include "engine_options.hpp"
#include "remedy.hpp"

#include <gptq/engines/inspect.hpp>
#include <gptq/io/json.hpp>
#include <gptq/model/family.hpp>
#include <gptq/model/weights.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <string>
#include <vector>

namespace app {
namespace {

struct inspect_arguments {
  std::string model;
  engine_arguments engines;
  bool json = false;
};

/// Where the family is known, names and shapes must be what config.json implies.
void check_model(gptq::inspection& found) {
  if (!found.problems.empty() || !gptq::find_family(found.model_type)) return;
  try {
    gptq::model_weights const weights(found.folder);
  } catch (gptq::error const& e) {
    found.problems.push_back({"model", "config.json", with_options(e.what(), e.change()), true});
  }
}

std::vector<gptq::engine_finding> of_engine(std::vector<gptq::engine_finding> findings, gptq::engine e) {
  std::erase_if(findings, [&](auto const& f) { return f.by != e; });
  return findings;
}

int inspect(inspect_arguments const& a) {
  gptq::checkpoint_reader const reader(a.model);
  gptq::inspection found = gptq::inspect(reader);
  check_model(found);
  for (gptq::advice& note : found.notes) note.text = with_options(note);
  std::vector<gptq::engine_finding> findings;
  if (!a.engines.names.empty()) {
    if (!found.quantization) throw gptq::format_error(a.model + ": --engine: the folder is not quantized");
    findings = check_engines(a.engines.names, a.engines.tensor_parallel.value_or(1), served(reader, found));
  }
  if (a.json) {
    gptq::json document = gptq::to_json(found);
    if (!a.engines.names.empty()) {
      document["engines"] = gptq::json::array();
      for (auto const& f : findings) document["engines"].push_back(to_json(f));
    }
    fmt::print("{}", gptq::to_text(document));
  } else {
    fmt::print("{}", gptq::to_text(found));
    for (auto const& line : gptq::summary_of(findings)) fmt::print("{}\n", line);
    for (auto const& name : a.engines.names) {
      bool const rejects = gptq::rejected(of_engine(findings, *gptq::find_engine(name)));
      fmt::print("{}: {}\n", name, rejects ? "will not do" : found.problems.empty() ? "takes it" : "see the problems");
    }
  }
  return found.problems.empty() && !gptq::rejected(findings) ? success : failure;
}

}  // namespace

void add_inspect(CLI::App& root, action& run) {
  auto const a = std::make_shared<inspect_arguments>();
  CLI::App* const command = root.add_subcommand(
      "inspect", "What is in a model folder; exits with 1 if it is not well-formed, or an engine refuses it");
  command->add_option("model", a->model, "Model folder, float or quantized")->required()->type_name("");
  add_engine_options(*command, a->engines);
  command->add_flag("--json", a->json, "Print one JSON object");
  command->callback([a, &run] { run = [a] { return inspect(*a); }; });
}

}  // namespace app
