/// Per-module rules of a quantization config: {"-:regex": {}, "+:regex": {"bits": 8, "group_size": 64}}.
#pragma once

#include <gptq/io/json.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarms of g++ 12 with sanitizers
#endif
#include <regex>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace gptq {
inline namespace v0 {

/// One rule: modules whose name it matches stay in float ("-:"), or have other settings ("+:" or no prefix).
struct dynamic_rule {
  std::string key;  ///< as in the file, with its prefix
  bool keep_float = false;
  std::optional<int> bits;
  std::optional<int> group_size;
  std::optional<bool> sym;
  std::optional<bool> desc_act;
  std::optional<std::regex> matcher;  ///< the compiled key, set where rules are parsed
};

namespace detail {

/// Larger patterns and longer names are refused: the standard library's matcher recurses.
inline constexpr std::size_t max_pattern = 1000;
inline constexpr std::size_t max_pattern_states = 10000;
inline constexpr std::size_t max_matched_name = 1000;

/// An upper bound for the states of a pattern's automaton: its length times all its {counts}.
inline std::size_t pattern_states(std::string_view pattern) {
  std::size_t states = pattern.size();
  for (std::size_t i = pattern.find('{'); i < pattern.size(); i = pattern.find('{', i + 1)) {
    std::size_t largest = 1;
    std::size_t number = 0;
    for (std::size_t j = i + 1; j < pattern.size() && pattern[j] != '}'; ++j) {
      bool const digit = pattern[j] >= '0' && pattern[j] <= '9';
      number = digit ? number * 10 + static_cast<std::size_t>(pattern[j] - '0') : 0;
      if (number > max_pattern_states) return number;
      if (number > largest) largest = number;
    }
    states *= largest;
    if (states > max_pattern_states) break;
  }
  return states;
}

/// A pattern that matches a name and nothing else.
inline std::string escape_pattern(std::string_view name) {
  std::string out;
  for (char const c : name) {
    if (std::string_view(".^$|()[]{}*+?\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

inline std::string_view pattern_of(dynamic_rule const& rule) {
  std::string_view const key = rule.key;
  return key.starts_with("-:") || key.starts_with("+:") ? key.substr(2) : key;
}

inline std::regex compile_rule(dynamic_rule const& rule, std::string const& where) {
  std::string_view const pattern = pattern_of(rule);
  if (pattern.size() > max_pattern || pattern_states(pattern) > max_pattern_states)
    throw format_error(where + ": pattern \"" + printable(rule.key, 60) + "\" of \"dynamic\" is too large");
  auto syntax = std::regex::ECMAScript | std::regex::optimize;
#if defined(__GLIBCXX__)
  // No backtracking, so no pattern takes exponential time; a pattern that needs it (a back-reference) is refused.
  syntax |= std::regex_constants::__polynomial;
#endif
  try {
    return std::regex(pattern.begin(), pattern.end(), syntax);
  } catch (std::regex_error const& e) {
    throw format_error(where + ": pattern \"" + printable(rule.key) + "\" of \"dynamic\": " + e.what());
  }
}

}  // namespace detail

/// Parses the value of "dynamic"; null or an absent key give no rule. Throws format_error naming `where` and the
/// pattern.
inline std::vector<dynamic_rule> parse_dynamic_rules(json const& value, std::string const& where) {
  std::vector<dynamic_rule> rules;
  if (value.is_null()) return rules;
  if (!value.is_object()) throw format_error(where + ": \"dynamic\" is not an object");
  for (auto const& item : value.items()) {
    std::string const& key = item.key();
    json const& overrides = item.value();
    dynamic_rule rule;
    rule.key = key;
    rule.keep_float = key.starts_with("-:");
    std::string const place = where + ": \"dynamic\" \"" + detail::printable(key) + "\"";
    if (!rule.keep_float) {
      if (!overrides.is_object()) throw format_error(place + " is not an object");
      auto const take = [&]<class T>(char const* name, std::optional<T>& out) {
        if (overrides.contains(name) && !overrides.at(name).is_null()) out = value_of<T>(overrides, name, place);
      };
      take("bits", rule.bits);
      take("group_size", rule.group_size);
      take("sym", rule.sym);
      take("desc_act", rule.desc_act);
    }
    rule.matcher = detail::compile_rule(rule, where);
    rules.push_back(std::move(rule));
  }
  return rules;
}

/// The JSON form; rules that keep modules in float come first, since some readers take the first match.
inline json to_json(std::vector<dynamic_rule> const& rules) {
  json out = json::object();
  for (bool const keep_float : {true, false})
    for (dynamic_rule const& rule : rules) {
      if (rule.keep_float != keep_float) continue;
      json overrides = json::object();
      if (rule.bits) overrides["bits"] = *rule.bits;
      if (rule.group_size) overrides["group_size"] = *rule.group_size;
      if (rule.sym) overrides["sym"] = *rule.sym;
      if (rule.desc_act) overrides["desc_act"] = *rule.desc_act;
      out[rule.key] = std::move(overrides);
    }
  return out;
}

/// The rule for a module, or null: those that keep it in float first, then the first match. Patterns are anchored at
/// the start of the name only.
inline dynamic_rule const* matching_rule(std::vector<dynamic_rule> const& rules, std::string_view module) {
  if (rules.empty()) return nullptr;
  if (module.size() > detail::max_matched_name)
    throw format_error("module name is longer than " + std::to_string(detail::max_matched_name) + ": " +
                       detail::printable(module, 60));
  for (bool const keep_float : {true, false})
    for (dynamic_rule const& rule : rules) {
      if (rule.keep_float != keep_float) continue;
      std::optional<std::regex> own;
      if (!rule.matcher) own = detail::compile_rule(rule, "quantization config");
      std::regex const& matcher = own ? *own : *rule.matcher;
      try {
        if (std::regex_search(module.begin(), module.end(), matcher, std::regex_constants::match_continuous))
          return &rule;
      } catch (std::regex_error const& e) {
        throw format_error("pattern \"" + detail::printable(rule.key) + "\" of \"dynamic\": " + e.what());
      }
    }
  return nullptr;
}

}  // namespace v0
}  // namespace gptq
