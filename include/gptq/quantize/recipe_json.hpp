/// Recipes as JSON: one canonical text for each, in which every key stands, always in the same order.
///
///   gptq::recipe const r = gptq::read_recipe("recipe.json");
///   std::string const id = gptq::recipe_hash(r);
#pragma once

#include <gptq/engines/engine_rule.hpp>
#include <gptq/io/json.hpp>
#include <gptq/quantize/recipe.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The double that reads as the shortest decimal of this float: 2.4f is written 2.4.
inline double as_decimal(float x) {
  std::string const text = detail::shortest(x);
  double out = 0;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

namespace detail {

/// Refuses overrides of a rule that this library does not know: files of other tools may hold more, a recipe may not.
inline void check_rule_keys(json const& rules, std::string const& where) {
  if (!rules.is_object()) return;  // refused by who reads them
  for (auto const& [pattern, overrides] : rules.items()) {
    if (!overrides.is_object()) continue;
    for (auto const& item : overrides.items())
      if (item.key() != "bits" && item.key() != "group_size" && item.key() != "sym" && item.key() != "desc_act")
        throw format_error(where + ": \"dynamic\": \"" + printable(pattern, 60) + "\": \"" + printable(item.key(), 60) +
                           "\" is no setting of a layer (bits, group_size, sym, desc_act are)");
  }
}

/// Takes the members of an object one by one, each at most once; what is left over is unknown.
class member_reader {
 public:
  /// `within` is put before keys in messages: "calibration."
  member_reader(json const& object, std::string where, std::string within = {})
      : object_(object), where_(std::move(where)), within_(std::move(within)) {
    if (!object.is_object()) throw format_error(where_ + ": a JSON object is needed, not " + object.type_name());
  }

  /// The member, or null where it is absent.
  json const* find(char const* key) {
    known_.push_back(key);
    auto const at = object_.find(key);
    return at == object_.end() ? nullptr : &*at;
  }

  template <class T>
  bool take(char const* key, T& out) {
    json const* const value = find(key);
    if (!value) return false;
    if (!convert(*value, out)) fail(key, std::string("must be ") + wanted<T>() + ", not " + excerpt(*value));
    return true;
  }

  /// One of the names; calls set(index).
  template <class Names, class Set>
  void take_name(char const* key, Names const& names, Set&& set) {
    std::string name;
    if (!take(key, name)) return;
    std::string all;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (name == names[i]) return static_cast<void>(set(i));
      all += (i ? ", " : "") + std::string(names[i]);
    }
    fail(key, "must be one of " + all + ", not \"" + printable(name, 60) + "\"");
  }

  [[noreturn]] void fail(char const* key, std::string const& why) const {
    throw format_error(where_ + ": \"" + within_ + key + "\" " + why);
  }

  /// Refuses what was not asked for.
  void finish() const {
    for (auto const& item : object_.items())
      if (std::find(known_.begin(), known_.end(), item.key()) == known_.end())
        throw format_error(where_ + ": \"" + within_ + printable(item.key(), 60) + "\" is no setting of a recipe");
  }

  static std::string excerpt(json const& value) {
    return printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 60);
  }

 private:
  json const& object_;
  std::string where_;
  std::string within_;
  std::vector<std::string> known_;
};

inline constexpr std::array<char const*, 3> order_names = {"natural", "desc_act", "group_aware"};
inline constexpr std::array<char const*, 2> dtype_names = {"keep", "float16"};

}  // namespace detail

/// The canonical form: every key, in a fixed order.
inline json to_json(recipe const& r) {
  return {{"preset", r.preset},
          {"bits", r.spec.bits},
          {"group_size", r.spec.group_size},
          {"sym", r.spec.sym},
          {"order", to_string(r.spec.order)},
          {"static_groups", r.spec.static_groups},
          {"dynamic", to_json(r.dynamic)},
          {"lm_head", r.lm_head},
          {"all_layers", r.all_layers},
          {"as_llama", r.as_llama},
          {"damp_percent", r.quantize.damp_percent},
          {"mse", as_decimal(r.quantize.grid.mse)},
          {"mse_steps", r.quantize.grid.mse_steps},
          {"mse_max_shrink", as_decimal(r.quantize.grid.mse_max_shrink)},
          {"round_scales", r.quantize.grid.round_scales},
          {"nonzero_zeros", r.quantize.grid.nonzero_zeros},
          {"reference_range", r.quantize.grid.reference_range},
          {"reference_dead", r.quantize.reference_dead},
          {"measure", r.quantize.measure},
          {"refit", r.quantize.reestimations},
          {"sweeps", r.quantize.descent_passes},
          {"target_shift", r.shift.target},
          {"residual_shift", r.shift.residual},
          {"true_sequential", r.true_sequential},
          {"format", to_string(r.format)},
          {"dtype", detail::dtype_names[r.to_float16 ? 1 : 0]},
          {"shard_size", r.shard_size},
          {"engines", r.engines},
          {"tensor_parallel", r.tensor_parallel},
          {"micro_batch", r.micro_batch},
          {"calibration",
           {{"format", r.calibration.format},
            {"chat_format", r.calibration.chat_format},
            {"samples", r.calibration.samples},
            {"sequence_length", r.calibration.sequence_length}}},
          {"meta", r.meta.empty() ? json::object() : json(r.meta)}};
}

namespace detail {

inline void take_solve(member_reader& m, recipe& r) {
  grid_options& grid = r.quantize.grid;
  m.take("damp_percent", r.quantize.damp_percent);
  m.take("mse", grid.mse);
  m.take("mse_steps", grid.mse_steps);
  m.take("mse_max_shrink", grid.mse_max_shrink);
  m.take("round_scales", grid.round_scales);
  m.take("reference_range", grid.reference_range);
  m.take("reference_dead", r.quantize.reference_dead);
  m.take("measure", r.quantize.measure);
  m.take("refit", r.quantize.reestimations);
  m.take("sweeps", r.quantize.descent_passes);
  m.take("target_shift", r.shift.target);
  m.take("residual_shift", r.shift.residual);
}

inline void take_lists(member_reader& m, recipe& r, std::string const& where) {
  if (json const* const rules = m.find("dynamic")) {
    detail::check_rule_keys(*rules, where);
    r.dynamic = parse_dynamic_rules(*rules, where);
  }
  if (json const* const engines = m.find("engines")) {
    if (!engines->is_array()) m.fail("engines", "must be a list of names, not " + member_reader::excerpt(*engines));
    r.engines.clear();
    for (json const& name : *engines) {
      if (!name.is_string() || !find_engine(name.get_ref<std::string const&>()))
        m.fail("engines", "names no engine that is known: " + member_reader::excerpt(name));
      r.engines.push_back(name.get<std::string>());
    }
  }
  if (json const* const meta = m.find("meta")) {
    if (!meta->is_object()) m.fail("meta", "must be an object, not " + member_reader::excerpt(*meta));
    for (auto const& item : meta->items()) {
      if (!item.value().is_string()) m.fail("meta", "holds what is no string: " + printable(item.key(), 60));
      r.meta[item.key()] = item.value().template get<std::string>();
    }
  }
  if (json const* const cut = m.find("calibration")) {
    member_reader c(*cut, where, "calibration.");
    c.take_name("format", std::array{"", "lines", "windows", "records", "ids"},
                [&](std::size_t) { r.calibration.format = cut->at("format").get<std::string>(); });
    c.take("chat_format", r.calibration.chat_format);
    c.take("samples", r.calibration.samples);
    c.take("sequence_length", r.calibration.sequence_length);
    c.finish();
  }
}

}  // namespace detail

/// A recipe from its JSON. Keys that are absent have the value of the preset that it names, or of the default one, and
/// `format` suits the symmetry. Throws format_error that names `where` and the key for a key that is unknown, of another
/// type, or out of range.
inline recipe parse_recipe(json const& object, std::string const& where) {
  detail::member_reader m(object, where);
  recipe r;
  m.take_name("preset", preset_names, [&](std::size_t i) { apply_preset(r, preset_names[i]); });
  m.take("bits", r.spec.bits);
  m.take("group_size", r.spec.group_size);
  m.take("sym", r.spec.sym);
  m.take_name("order", detail::order_names, [&](std::size_t i) { r.spec.order = static_cast<column_order>(i); });
  m.take("static_groups", r.spec.static_groups);
  detail::take_lists(m, r, where);
  detail::take_solve(m, r);
  m.take("lm_head", r.lm_head);
  m.take("all_layers", r.all_layers);
  m.take("as_llama", r.as_llama);
  m.take("true_sequential", r.true_sequential);
  m.take_name("dtype", detail::dtype_names, [&](std::size_t i) { r.to_float16 = i == 1; });
  m.take("shard_size", r.shard_size);
  m.take("tensor_parallel", r.tensor_parallel);
  m.take("micro_batch", r.micro_batch);
  r.format = default_format(r);
  std::vector<std::string> const formats = format_names();
  m.take_name("format", formats, [&](std::size_t i) { r.format = *find_format(formats[i]); });
  r.quantize.grid.nonzero_zeros = needs_nonzero_zeros(r);
  m.take("nonzero_zeros", r.quantize.grid.nonzero_zeros);
  m.finish();
  try {
    check_recipe(r);
  } catch (shape_error const& e) {
    throw format_error(where + ": " + e.what());
  }
  return r;
}

/// The recipe in a file. Throws format_error.
inline recipe read_recipe(std::filesystem::path const& file) { return parse_recipe(read_json(file), file.string()); }

/// Whether two recipes have the same canonical text. Rules that keep layers in float come first there, as they decide first.
inline bool operator==(recipe const& a, recipe const& b) { return to_json(a) == to_json(b); }

namespace detail {

/// FNV-1a, 64 bits.
inline constexpr std::uint64_t hash_start = 0xcbf29ce484222325u;
inline void add_to_hash(std::uint64_t& hash, std::string_view text) {
  for (char const c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
}
inline std::string hexadecimal(std::uint64_t x) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(x));
  return text.data();
}

}  // namespace detail

/// 16 hexadecimal digits of the canonical text (FNV-1a, 64 bits): equal for equal recipes, on every machine. Not for
/// security.
inline std::string recipe_hash(recipe const& r) {
  std::uint64_t hash = detail::hash_start;
  detail::add_to_hash(hash, to_json(r).dump());
  return detail::hexadecimal(hash);
}

}  // namespace v0
}  // namespace gptq
