/// Whether an engine loads a model and computes the right numbers: the rules, applied.
#pragma once

#include <gptq/engines/engine_rule.hpp>
#include <gptq/engines/engine_rules_serving.hpp>
#include <gptq/engines/engine_rules_tools.hpp>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Calls f with every rule.
template <class F>
void for_each_engine_rule(F&& f) {
  auto const all = [&](auto const& rules) {
    for (engine_rule const& r : rules) f(r);
  };
  all(vllm_rules), all(sglang_rules), all(transformers_rules), all(gptqmodel_rules), all(exllamav2_rules);
  all(llama_cpp_rules), all(ort_genai_rules), all(openvino_rules);
}

/// All places where the model breaks a rule of the engine, in the order of the rules. What holds for every engine
/// (C1 to C6) is not looked at here: those are the problems of an inspection.
inline std::vector<engine_finding> check_engine(served_model const& m, engine e) {
  std::vector<engine_finding> all;
  for_each_engine_rule([&](engine_rule const& rule) {
    if (rule.by != e) return;
    rule_report report;
    rule.check(m, report);
    auto found = report.take(rule);
    std::move(found.begin(), found.end(), std::back_inserter(all));
  });
  return all;
}

/// Whether the engine refuses the model or gets it wrong.
inline bool rejected(std::vector<engine_finding> const& findings) {
  return std::any_of(findings.begin(), findings.end(),
                     [](engine_finding const& f) { return f.result != verdict::degraded; });
}

/// Findings as lines, those of one rule and kind together: the first place, and how many more.
inline std::vector<std::string> summary_of(std::vector<engine_finding> const& findings) {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < findings.size();) {
    std::size_t end = i + 1;
    while (end < findings.size() && findings[end].rule == findings[i].rule &&
           findings[end].result == findings[i].result)
      ++end;
    engine_finding first = findings[i];
    if (end - i > 1) first.what += " (and " + std::to_string(end - i - 1) + " more)";
    lines.push_back(to_string(first));
    i = end;
  }
  return lines;
}

/// The words of a finding, without the codes of its remedies.
inline json to_json(engine_finding const& f) {
  return {{"engine", to_string(f.by)}, {"rule", f.rule}, {"verdict", to_string(f.result)},
          {"where", f.where},          {"what", f.what}, {"change", f.change}};
}

}  // namespace v0
}  // namespace gptq
