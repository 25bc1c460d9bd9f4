/// --engine and --tensor-parallel: who will serve the result.
#pragma once

#include "console.hpp"
#include "remedy.hpp"

#include <gptq/engines/engines.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <vector>

namespace app {

struct engine_arguments {
  std::vector<std::string> names;
  std::optional<int> tensor_parallel;
};

inline void add_engine_options(CLI::App& command, engine_arguments& a) {
  command
      .add_option("--engine", a.names,
                  "Check for this engine (repeatable): vllm, sglang, transformers, gptqmodel, exllamav2, llama.cpp, "
                  "ort-genai, openvino")
      ->check(CLI::IsMember(std::vector<std::string>(gptq::engine_names.begin(), gptq::engine_names.end())))
      ->allow_extra_args(false)
      ->type_name("NAME");
  command.add_option("--tensor-parallel", a.tensor_parallel, "Devices that the engine divides each layer among")
      ->check(CLI::Range(1, 1024))
      ->default_str("1")
      ->type_name("N");
}

/// What the engines asked for say of a model, with the options that change it.
inline std::vector<gptq::engine_finding> check_engines(std::vector<std::string> const& engines, int tensor_parallel,
                                                       gptq::served_model model) {
  model.tensor_parallel = tensor_parallel;
  std::vector<gptq::engine_finding> all;
  for (std::string const& name : engines)
    for (auto& f : gptq::check_engine(model, *gptq::find_engine(name))) {
      f.change = with_options(f.change, f.remedy);
      all.push_back(std::move(f));
    }
  return all;
}

/// "exllamav2 (E1), openvino (P1)": the engines that would refuse the model or get it wrong.
inline std::string rejecting_engines(gptq::served_model const& model) {
  std::string text;
  for (char const* const name : gptq::engine_names) {
    std::string ids;
    for (auto const& f : gptq::check_engine(model, *gptq::find_engine(name)))
      if (f.result != gptq::verdict::degraded && ids.find(f.rule) == std::string::npos)
        ids += (ids.empty() ? "" : ", ") + f.rule;
    if (!ids.empty()) text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", name, ids);
  }
  return text;
}

}  // namespace app
