/// What config.json says about rotary positions, in the spellings of transformers 4 and 5 and of TeleChat2.
#pragma once

#include <gptq/model/config_keys.hpp>
#include <gptq/model/family.hpp>
#include <gptq/model/rope.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// rope_parameters (transformers 5), else rope_scaling (4): the object that says how positions are scaled, or null.
inline json const* rope_object(config_keys const& keys) {
  char const* const key = keys.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!keys.has(key)) return nullptr;
  json const& found = keys.object(key).raw();
  if (found.empty() || !found.begin()->is_object()) return &found;
  // One object per kind of attention.
  for (json const& one : found)
    if (one != *found.begin()) keys.fail(key, "differs between kinds of attention, which is not supported");
  return &*found.begin();
}

/// One factor for each pair of features.
inline std::vector<double> read_factors(config_keys const& scaling, char const* key, index_t pairs) {
  json const& list = scaling.has(key) ? scaling.at(key) : scaling.raw();
  if (!list.is_array() || static_cast<index_t>(list.size()) != pairs)
    scaling.fail(key, "must be a list of " + std::to_string(pairs) + " numbers");
  std::vector<double> factors;
  for (json const& x : list) {
    if (!x.is_number() || !(x.get<double>() >= 1e-6 && x.get<double>() <= 1e6))
      scaling.fail(key, "holds " + printable(x.dump(), 60) + ", which is not a number from 1e-6 to 1e6");
    factors.push_back(x.get<double>());
  }
  return factors;
}

/// The settings of one type of scaling. `top` is the whole config.json, which holds some of them.
inline void read_scaling(config_keys const& scaling, config_keys const& top, std::string const& type,
                         index_t max_positions, rope_config& rope) {
  // Where both places have it, transformers takes the one at the top.
  auto const original_positions = [&] {
    char const* const key = "original_max_position_embeddings";
    if (top.has(key)) return top.size(key, most_positions);
    if (scaling.has(key)) return scaling.size(key, most_positions);
    if (max_positions == 0) top.fail(key, "is missing; \"" + type + "\" positions need it");
    return max_positions;
  };
  auto const ratio = [&] {  // by how much the text may be longer than the original one
    if (scaling.has("factor")) return scaling.number("factor", 1, 1e6);
    if (max_positions == 0) scaling.fail("factor", "is missing; \"" + type + "\" positions need it");
    return double(max_positions) / double(rope.original_positions);
  };
  if (type == "linear") {
    rope.type = rope_type::linear;
    rope.factor = scaling.number("factor", 1, 1e6);
  } else if (type == "dynamic") {
    rope.type = rope_type::dynamic;
    rope.factor = scaling.number("factor", 1, 1e6);
    if (max_positions == 0) top.fail("max_position_embeddings", "is missing; \"dynamic\" positions need it");
    if (rope.dim == 2) top.fail("head_dim", "leaves one pair of features, which \"dynamic\" positions can't scale");
    rope.original_positions = max_positions;
  } else if (type == "llama3") {
    rope.type = rope_type::llama3;
    rope.factor = scaling.number("factor", 1, 1e6);
    rope.low_frequency = scaling.number("low_freq_factor", 1e-3, 1e6);
    rope.high_frequency = scaling.number("high_freq_factor", 1e-3, 1e6);
    rope.original_positions = scaling.size("original_max_position_embeddings", most_positions);
    if (rope.low_frequency >= rope.high_frequency)
      scaling.fail("low_freq_factor", "must be less than \"high_freq_factor\"");
  } else if (type == "yarn") {
    rope.type = rope_type::yarn;
    if (rope.theta <= 1) scaling.fail("rope_theta", "must be more than 1 for \"yarn\" positions");
    rope.original_positions = original_positions();
    rope.factor = ratio();
    rope.high_frequency = scaling.number("beta_fast", 1e-3, 1e6, 32);
    rope.low_frequency = scaling.number("beta_slow", 1e-3, 1e6, 1);
    rope.whole_pairs = scaling.get<bool>("truncate", true);
    auto const growth = [&](double m) { return rope.factor <= 1 ? 1.0 : 0.1 * m * std::log(rope.factor) + 1; };
    double const m = scaling.number("mscale", 0, 1e3, 0);
    double const m_all = scaling.number("mscale_all_dim", 0, 1e3, 0);
    rope.scale =
        scaling.number("attention_factor", 1e-3, 1e3, m > 0 && m_all > 0 ? growth(m) / growth(m_all) : growth(1));
  } else {  // longrope
    rope.type = rope_type::longrope;
    rope.original_positions = original_positions();
    if (rope.original_positions < 2) scaling.fail("original_max_position_embeddings", "must be more than 1");
    rope.factor = ratio();
    rope.short_factors = read_factors(scaling, "short_factor", rope.dim / 2);
    rope.long_factors = read_factors(scaling, "long_factor", rope.dim / 2);
    double const s = rope.factor;
    double const o = double(rope.original_positions);
    rope.scale = scaling.number("attention_factor", 1e-3, 1e3, s <= 1 ? 1 : std::sqrt(1 + std::log(s) / std::log(o)));
  }
}

inline rope_config read_rope(config_keys const& keys, family_rule const& family, index_t head_dim,
                             index_t max_positions, std::string const& file) {
  static json const none = json::object();
  json const* const found = rope_object(keys);
  config_keys const scaling(found ? *found : none, file);
  rope_config rope;
  rope.theta =
      scaling.has("rope_theta") ? scaling.number("rope_theta", 1, 1e12) : keys.number("rope_theta", 1, 1e12, 1e4);
  auto const& partial = scaling.has("partial_rotary_factor") ? scaling : keys;
  double const part = partial.number("partial_rotary_factor", 0, 1, 1);
  if (part != 1 && !family.partial_rotary) partial.fail("partial_rotary_factor", "is not supported in this family");
  rope.dim = static_cast<index_t>(std::floor(part * double(head_dim)));
  if (rope.dim < 2 || rope.dim % 2 != 0)
    keys.fail(part < 1 ? "partial_rotary_factor" : "head_dim",
              "leaves " + std::to_string(rope.dim) + " features for the rotary embedding, which must be even");

  if (family.rotary == rotary_rule::telechat) {
    if (found && !found->empty()) keys.fail("rope_scaling", "is not supported in this family");
    if (!keys.has("base_seqlen") && !keys.has("training_seqlen")) return rope;
    rope.type = rope_type::telechat;
    rope.original_positions = keys.size("base_seqlen", most_positions);
    rope.trained_positions = keys.size("training_seqlen", most_positions);
    if (rope.dim == 2) keys.fail("head_dim", "leaves one pair of features, which this family's positions can't scale");
    return rope;
  }
  char const* const type_key = scaling.has("rope_type") ? "rope_type" : "type";
  auto type = scaling.get<std::string>(type_key, "default");
  // Old names: Phi-3 called its rule "su", then "yarn".
  if (type == "su" || (type == "yarn" && scaling.has("long_factor"))) type = "longrope";
  if (type == "default") return rope;
  for (char const* const known : {"linear", "dynamic", "llama3", "yarn", "longrope"})
    if (type == known) return read_scaling(scaling, keys, type, max_positions, rope), rope;
  scaling.fail(type_key,
               "\"" + printable(type, 60) + "\" is not supported (default, linear, dynamic, llama3, yarn, longrope)");
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
