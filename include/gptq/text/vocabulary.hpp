/// Tokens and their ids.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/text/part.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// Tokens and their ids, both ways. Movable, not copyable.
class vocabulary {
 public:
  vocabulary() = default;
  vocabulary(vocabulary&&) = default;  // the keys of ids_ point into tokens_
  vocabulary& operator=(vocabulary&&) = default;

  /// {"token": id, …}. Ids need not be dense, but not absurdly far apart. Throws format_error.
  explicit vocabulary(part const& p) {
    if (!p.value().is_object()) p.refuse("a JSON object is needed");
    if (p.value().empty()) p.refuse("no tokens");
    std::size_t const count = p.value().size();
    std::size_t const limit = 1'000'000 + 16 * count;
    std::size_t end = 0;
    for (auto const& [token, id] : p.value().items()) {
      std::int32_t value = 0;
      if (!gptq::detail::convert(id, value) || value < 0 || static_cast<std::size_t>(value) >= limit)
        p.refuse("the id of \"" + gptq::detail::printable(token, 60) + "\" must be an integer from 0 to " +
                 std::to_string(limit - 1));
      end = std::max(end, static_cast<std::size_t>(value) + 1);
    }
    tokens_.resize(end);
    ids_.reserve(count);
    for (auto const& [token, id] : p.value().items()) {
      auto const at = id.get<std::size_t>();
      if (tokens_[at]) p.refuse("id " + std::to_string(at) + " is given to two tokens");
      tokens_[at] = token;
      ids_.emplace(*tokens_[at], static_cast<std::int32_t>(at));
    }
  }

  [[nodiscard]] std::optional<std::int32_t> id(std::string_view token) const {
    auto const found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

  /// The token of an id, or null.
  [[nodiscard]] std::string const* token(std::int32_t id) const {
    if (id < 0 || id >= end() || !tokens_[static_cast<std::size_t>(id)]) return nullptr;
    return &*tokens_[static_cast<std::size_t>(id)];
  }

  /// Number of tokens.
  [[nodiscard]] index_t size() const { return static_cast<index_t>(ids_.size()); }

  /// One more than the largest id.
  [[nodiscard]] index_t end() const { return static_cast<index_t>(tokens_.size()); }

 private:
  std::vector<std::optional<std::string>> tokens_;  ///< by id; never resized once ids_ refers to it
  std::unordered_map<std::string_view, std::int32_t> ids_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
