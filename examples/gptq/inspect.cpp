/// gptq inspect: what is in a model folder, layer by layer, and whether it is well-formed.
#include "app.hpp"
#include "console.hpp"

#include <gptq/checkpoint/inspect.hpp>
#include <gptq/checkpoint/json.hpp>
#include <gptq/model/family.hpp>
#include <gptq/model/weights.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <string>

namespace app {
namespace {

struct inspect_arguments {
  std::string model;
  bool json = false;
};

/// Where the family is known, names and shapes must be what config.json implies.
void check_model(gptq::inspection& found) {
  if (!found.problems.empty() || !gptq::find_family(found.model_type)) return;
  try {
    gptq::model_weights const weights(found.folder);
  } catch (gptq::error const& e) {
    found.problems.push_back({"model", "config.json", e.what(), true});
  }
}

int inspect(inspect_arguments const& a) {
  gptq::inspection found = gptq::inspect(std::filesystem::path(a.model));
  check_model(found);
  fmt::print("{}", a.json ? gptq::to_text(gptq::to_json(found)) : gptq::to_text(found));
  return found.problems.empty() ? success : failure;
}

}  // namespace

void add_inspect(CLI::App& root, action& run) {
  auto const a = std::make_shared<inspect_arguments>();
  CLI::App* const command =
      root.add_subcommand("inspect", "What is in a model folder; exits with 1 if it is not well-formed");
  command->add_option("model", a->model, "Model folder, float or quantized")->required()->type_name("");
  command->add_flag("--json", a->json, "Print one JSON object");
  command->callback([a, &run] { run = [a] { return inspect(*a); }; });
}

}  // namespace app
