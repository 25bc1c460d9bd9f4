/// A component in the JSON of a tokenizer, together with what messages about it say.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/io/json.hpp>
#include <gptq/io/message.hpp>

#include <cstddef>
#include <string>

namespace gptq {
inline namespace v0 {
namespace text {

/// A view: the JSON document and the name must outlive it.
class part {
 public:
  /// `where`: file and place, for example "m/tokenizer.json: pre_tokenizer".
  part(json const& value, std::string where) : value_(&value), where_(std::move(where)) {}

  [[nodiscard]] json const& value() const { return *value_; }
  [[nodiscard]] std::string const& where() const { return where_; }
  [[nodiscard]] bool null() const { return value_->is_null(); }

  [[noreturn]] void refuse(std::string const& reason) const { throw format_error(where_ + ": " + reason); }
  [[noreturn]] void refuse_type(std::string const& type) const {
    refuse("type \"" + gptq::detail::printable(type, 60) + "\" is not supported");
  }

  /// The type that decides how the rest is read.
  [[nodiscard]] std::string type() const { return get<std::string>("type"); }

  template <class T>
  [[nodiscard]] T get(char const* key) const {
    return value_of<T>(*value_, key, where_);
  }
  template <class T>
  [[nodiscard]] T get_or(char const* key, T fallback) const {
    return value_or<T>(*value_, key, std::move(fallback), where_);
  }

  /// The value of a key, of any kind; null where it is absent.
  [[nodiscard]] part child(char const* key) const {
    static json const nothing;
    if (!value_->is_object()) refuse(std::string("a JSON object is needed, not ") + value_->type_name());
    auto const found = value_->find(key);
    return part(found == value_->end() ? nothing : *found, where_ + ": " + key);
  }

  /// Calls f(part) for each element of the array under `key`.
  template <class F>
  void for_each(char const* key, F&& f) const {
    part const list = child(key);
    if (!list.value().is_array()) list.refuse("a JSON array is needed");
    std::size_t n = 0;
    for (json const& element : list.value()) f(part(element, list.where() + '[' + std::to_string(n++) + ']'));
  }

 private:
  json const* value_;
  std::string where_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
