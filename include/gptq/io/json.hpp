/// JSON documents of model folders: strict reading, writing that keeps the order of keys. The only header that knows
/// the JSON library.
#pragma once

#include <gptq/io/file_mapping.hpp>
#include <gptq/io/message.hpp>
#include <gptq/io/output_file.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Keys keep the order of the file. Looking up a key is linear in the size of the object: walk through large ones
/// (weight maps, vocabularies) once instead, and fill them with emplace_back().
using json = nlohmann::ordered_json;

/// Nesting beyond this is refused: copying and printing recurse.
inline constexpr std::size_t max_json_depth = 128;

namespace detail {

/// Builds a document bottom-up, in time linear in its size, and refuses duplicate keys and deep nesting. (The parser of
/// the library keeps the last of two equal keys and, with ordered keys, searches all earlier ones for each new one.)
class json_builder {
 public:
  using string_t = json::string_t;

  json result;
  std::string problem;
  std::size_t position = 0;

  bool null() { return value(nullptr); }
  bool boolean(bool x) { return value(x); }
  bool number_integer(json::number_integer_t x) { return value(x); }
  bool number_unsigned(json::number_unsigned_t x) { return value(x); }
  bool number_float(json::number_float_t x, string_t const&) { return value(x); }
  bool string(string_t& x) { return value(std::move(x)); }
  bool binary(json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(); }
  bool start_array(std::size_t) { return open(); }
  bool key(string_t& k) {
    key_ = std::move(k);
    return true;
  }
  bool end_array() {
    json::array_t elements;
    elements.reserve(members_.size() - levels_.back().first);
    for (std::size_t m = levels_.back().first; m < members_.size(); ++m)
      elements.push_back(std::move(members_[m].second));
    return close(json(std::move(elements)));
  }
  bool end_object() {
    std::size_t const first = levels_.back().first;
    std::vector<std::string_view> names;
    names.reserve(members_.size() - first);
    for (std::size_t m = first; m < members_.size(); ++m) names.push_back(members_[m].first);
    std::sort(names.begin(), names.end());
    auto const twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) return fail("duplicate key \"" + printable(*twice) + "\"");
    json::object_t object;
    object.reserve(members_.size() - first);
    for (std::size_t m = first; m < members_.size(); ++m)
      object.emplace_back(std::move(members_[m].first), std::move(members_[m].second));
    return close(json(std::move(object)));
  }
  template <class Exception>
  bool parse_error(std::size_t at, std::string const&, Exception const& e) {
    std::string what = e.what();
    std::size_t const start = what.find("] ");  // after "[json.exception.parse_error.101] "
    if (start != std::string::npos) what.erase(0, start + 2);
    position = at;
    return fail(printable(what));
  }

 private:
  struct level {
    std::size_t first;  ///< of its members
    std::string key;    ///< under which it goes into the level around it
  };

  bool fail(std::string what) {
    problem = std::move(what);
    return false;
  }
  bool open() {
    if (levels_.size() == max_json_depth) return fail("nested deeper than " + std::to_string(max_json_depth));
    levels_.push_back({members_.size(), std::move(key_)});
    key_.clear();
    return true;
  }
  bool close(json container) {
    members_.resize(levels_.back().first);
    key_ = std::move(levels_.back().key);
    levels_.pop_back();
    return value(std::move(container));
  }
  template <class T>
  bool value(T&& x) {
    if (levels_.empty())
      result = std::forward<T>(x);
    else
      members_.emplace_back(std::move(key_), std::forward<T>(x));
    key_.clear();
    return true;
  }

  std::string key_;
  std::vector<std::pair<std::string, json>> members_;  ///< of all open levels, one after the other
  std::vector<level> levels_;
};

}  // namespace detail

/// Parses one document; `where` opens the message of the format_error thrown for bad syntax, bad UTF-8, duplicate keys
/// or too deep nesting.
inline json parse_json(std::string_view text, std::string const& where) {
  // The parser takes a NUL byte for the end and would leave out what follows.
  if (std::size_t const nul = text.find('\0'); nul != std::string_view::npos)
    throw format_error(where + ": not valid JSON at byte " + std::to_string(nul) + ": a NUL byte");
  detail::json_builder builder;
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    std::string const at = builder.position ? " at byte " + std::to_string(builder.position) : std::string();
    throw format_error(where + ": not valid JSON" + at + ": " + builder.problem);
  }
  return std::move(builder.result);
}

/// Reads a whole file as one document. Throws format_error naming file, byte offset and reason.
inline json read_json(std::filesystem::path const& file) {
  file_mapping const mapping(file);
  if (mapping.text().empty()) throw format_error(file.string() + ": empty file");
  return parse_json(mapping.text(), file.string());
}

/// The text of a document, keys in their order, two spaces a level, as the Hugging Face tools write it.
inline std::string to_text(json const& document) {
  return document.dump(2, ' ', false, json::error_handler_t::replace) + '\n';
}

/// Writes a document to a file that must not exist yet. Throws format_error naming file and reason.
inline void write_json(std::filesystem::path const& file, json const& document) {
  output_file out(file);
  out.write(to_text(document));
  out.close();
}

/// The value of a key as T (bool, an integer, a floating-point type or std::string), or `fallback` where the key is
/// absent or null. Unlike the library's conversions, these are strict: 4.5 or true is no integer, and none is out of
/// range. Throws format_error naming `where` (a file), key and the kind found.
template <class T>
T value_or(json const& object, char const* key, T fallback, std::string const& where);

/// The same for a key that must be there.
template <class T>
T value_of(json const& object, char const* key, std::string const& where);

namespace detail {

template <class T>
bool convert(json const& value, T& out) {
  if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) return false;
    out = value.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    if (value.is_number_unsigned()) {
      auto const x = value.get<std::uint64_t>();
      if (x > static_cast<std::uint64_t>((std::numeric_limits<T>::max)())) return false;
      out = static_cast<T>(x);
    } else if (value.is_number_integer()) {  // negative
      auto const x = value.get<std::int64_t>();
      if (std::is_unsigned_v<T> || x < static_cast<std::int64_t>((std::numeric_limits<T>::min)())) return false;
      out = static_cast<T>(x);
    } else {
      return false;
    }
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!value.is_number()) return false;
    out = value.get<T>();
  } else {
    static_assert(std::is_same_v<T, std::string>, "bool, integer, floating point or std::string");
    if (!value.is_string()) return false;
    out = value.get_ref<std::string const&>();
  }
  return true;
}

template <class T>
constexpr char const* wanted() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_integral_v<T>) return "an integer in range";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  return "a string";
}

}  // namespace detail

template <class T>
T value_or(json const& object, char const* key, T fallback, std::string const& where) {
  if (!object.is_object()) throw format_error(where + ": a JSON object is needed, not " + object.type_name());
  auto const found = object.find(key);
  if (found == object.end() || found->is_null()) return fallback;
  T out{};
  if (!detail::convert(*found, out)) {
    throw format_error(where + ": \"" + key + "\" must be " + detail::wanted<T>() + ", not " +
                       detail::printable(found->dump(-1, ' ', false, json::error_handler_t::replace), 60));
  }
  return out;
}

template <class T>
T value_of(json const& object, char const* key, std::string const& where) {
  if (!object.is_object()) throw format_error(where + ": a JSON object is needed, not " + object.type_name());
  auto const found = object.find(key);
  if (found == object.end() || found->is_null()) throw format_error(where + ": \"" + key + "\" is missing");
  return value_or<T>(object, key, T{}, where);
}

}  // namespace v0
}  // namespace gptq
