/// A run's result as engines will meet it, before there is one.
#pragma once

#include <gptq/engines/served_model.hpp>
#include <gptq/quantize/job.hpp>

#include <set>
#include <string>

namespace gptq {
inline namespace v0 {

/// What a job would write.
inline served_model served(job const& j) {
  checkpoint_reader const& reader = j.weights().reader();
  served_model m;
  m.config = j.config();
  m.settings = to_json(j.settings());
  m.quantization = parse_quantization_config(m.settings, "settings");
  m.quantization.meta = m.settings.contains("meta") ? m.settings.at("meta") : json::object();
  solve_limits limits;
  constrain(j.asked().format, limits);
  std::set<std::string> seen;
  for (planned_linear const& p : j.plan().linears()) {
    served_linear l;
    l.name = p.info.name;
    seen.insert(l.name);
    l.quantized = p.spec.has_value();
    l.bias = content_of(reader.find(l.name + ".bias"));
    l.inputs = p.info.inputs;
    l.outputs = p.info.rows;
    if (p.spec) {
      l.settings = settings_of(*p.spec);
      l.scattered = l.settings.desc_act;
      l.zero_points_of_0 = !p.spec->sym && !limits.nonzero_zeros;
    }
    m.linears.push_back(std::move(l));
  }
  for (std::string const& name : reader.names()) {
    tensor_view const& t = reader.at(name);
    std::string const module(detail::parent_name(name));
    if (!is_float(t.type))
      m.unknown_integers.push_back(name);
    else if (name.ends_with(".weight") && t.shape.size() == 2 && !detail::is_embedding(module) && !seen.count(module))
      m.linears.push_back({.name = module,
                           .quantized = false,
                           .bias = content_of(reader.find(module + ".bias")),
                           .inputs = t.shape[1],
                           .outputs = t.shape[0],
                           .settings = {}});
  }
  return m;
}

}  // namespace v0
}  // namespace gptq
