/// Keys of one config.json, read with checks; every failure names file and key.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/io/json.hpp>

#include <string>
#include <utility>

namespace gptq {
inline namespace v0 {
namespace detail {

inline constexpr index_t most_features = index_t(1) << 22;
inline constexpr index_t most_positions = index_t(1) << 30;

class config_keys {
 public:
  config_keys(json const& object, std::string file) : object_(object), file_(std::move(file)) {}

  [[noreturn]] void fail(std::string const& key, std::string const& reason) const {
    throw format_error(file_ + ": \"" + key + "\" " + reason);
  }
  [[nodiscard]] bool has(char const* key) const {
    auto const found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }
  [[nodiscard]] json const& at(char const* key) const { return *object_.find(key); }
  [[nodiscard]] config_keys object(char const* key) const {
    if (!at(key).is_object()) fail(key, "must be an object");
    return {at(key), file_};
  }
  /// `other` where only that is there, else `key`.
  [[nodiscard]] char const* either(char const* key, char const* other) const {
    return !has(key) && has(other) ? other : key;
  }
  template <class T>
  [[nodiscard]] T get(char const* key) const {
    return value_of<T>(object_, key, file_);
  }
  template <class T>
  [[nodiscard]] T get(char const* key, T fallback) const {
    return value_or<T>(object_, key, std::move(fallback), file_);
  }
  /// An integer in [1, most].
  [[nodiscard]] index_t size(char const* key, index_t most) const {
    auto const n = get<index_t>(key);
    if (n < 1 || n > most) fail(key, "must be from 1 to " + std::to_string(most) + ", not " + std::to_string(n));
    return n;
  }
  [[nodiscard]] index_t size(char const* key, index_t most, index_t fallback) const {
    return has(key) ? size(key, most) : fallback;
  }
  /// A number in [least, most].
  [[nodiscard]] double number(char const* key, double least, double most) const {
    auto const x = get<double>(key);
    if (!(x >= least && x <= most))
      fail(key, "must be from " + short_text(least) + " to " + short_text(most) + ", not " + short_text(x));
    return x;
  }
  [[nodiscard]] double number(char const* key, double least, double most, double fallback) const {
    return has(key) ? number(key, least, most) : fallback;
  }
  [[nodiscard]] json const& raw() const { return object_; }

 private:
  static std::string short_text(double x) { return json(x).dump(); }

  json const& object_;
  std::string file_;
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
