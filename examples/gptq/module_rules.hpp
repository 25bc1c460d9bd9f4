/// --dynamic, --skip and --bits-for: rules for single layers.
#pragma once

#include "app.hpp"

#include <gptq/format/dynamic_rules.hpp>
#include <gptq/quantize/plan.hpp>

#include <fmt/format.h>

#include <string>
#include <vector>

namespace app {

struct rule_arguments {
  std::string dynamic;                ///< JSON or a file
  std::vector<std::string> skip;      ///< patterns
  std::vector<std::string> bits_for;  ///< pattern=bits

  [[nodiscard]] bool any() const { return !dynamic.empty() || !skip.empty() || !bits_for.empty(); }
};

inline gptq::json parse_option(std::string const& text) {
  try {
    return gptq::parse_json(text, "--dynamic");
  } catch (gptq::error const& e) {
    throw usage_error(e.what());
  }
}

/// The rules in the order in which they decide. Throws usage_error naming the option, or what is wrong with a file.
inline std::vector<gptq::dynamic_rule> resolve_rules(rule_arguments const& a, gptq::quant_spec const& base) {
  gptq::json object = gptq::json::object();
  auto const add = [&](char const* option, std::string const& key, gptq::json overrides) {
    if (object.contains(key)) throw usage_error(fmt::format("{}: {} is given twice", option, key));
    object[key] = std::move(overrides);
  };
  for (auto const& pattern : a.skip) add("--skip", "-:" + pattern, gptq::json::object());
  for (auto const& text : a.bits_for) {
    auto const split = text.rfind('=');
    std::string const number = split == std::string::npos ? "" : text.substr(split + 1);
    if (split == 0 || number.size() != 1 || number[0] < '0' || number[0] > '9')
      throw usage_error(fmt::format("--bits-for: {} is not of the form pattern=bits", text));
    add("--bits-for", "+:" + text.substr(0, split), {{"bits", number[0] - '0'}});
  }
  std::string where = "--dynamic, --skip, --bits-for";
  if (!a.dynamic.empty()) {
    auto const start = a.dynamic.find_first_not_of(" \t\n");
    bool const is_text = start != std::string::npos && a.dynamic[start] == '{';
    if (!is_text) where = a.dynamic;
    gptq::json const given = is_text ? parse_option(a.dynamic) : gptq::read_json(a.dynamic);
    if (!given.is_object()) throw usage_error("--dynamic: a JSON object is needed, {\"+:pattern\": {\"bits\": 8}}");
    for (auto const& [key, overrides] : given.items()) {
      if (!overrides.is_object())
        throw usage_error(fmt::format("--dynamic: {}: not an object", gptq::detail::printable(key)));
      for (auto const& item : overrides.items())
        if (item.key() != "bits" && item.key() != "group_size" && item.key() != "sym" && item.key() != "desc_act")
          throw usage_error(fmt::format("--dynamic: {}: \"{}\" is not supported (bits, group_size, sym, desc_act are)",
                                        gptq::detail::printable(key), gptq::detail::printable(item.key())));
      add("--dynamic", key, overrides);
    }
  }
  std::vector<gptq::dynamic_rule> rules;
  try {
    rules = gptq::parse_dynamic_rules(object, where);
    for (auto const& rule : rules) gptq::apply_rule(base, rule);
  } catch (gptq::error const& e) {
    throw usage_error(e.what());
  }
  return rules;
}

}  // namespace app
