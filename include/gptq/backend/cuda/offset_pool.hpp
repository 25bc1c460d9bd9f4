/// Which parts of one range of bytes are taken.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <optional>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Cuts a range into pieces: the smallest hole that fits is used, and holes that touch become one.
class offset_pool {
 public:
  static constexpr std::size_t alignment = 512;

  explicit offset_pool(std::size_t bytes = 0) {
    if (bytes >= alignment) holes_.emplace(0, bytes / alignment * alignment);
  }

  /// The offset of a piece of that size, or nothing where no hole is large enough.
  std::optional<std::size_t> take(std::size_t bytes) {
    std::size_t const size = rounded(bytes);
    auto best = holes_.end();
    for (auto hole = holes_.begin(); hole != holes_.end(); ++hole)
      if (hole->second >= size && (best == holes_.end() || hole->second < best->second)) best = hole;
    if (best == holes_.end()) return std::nullopt;
    auto const [offset, whole] = *best;
    holes_.erase(best);
    if (whole > size) holes_.emplace(offset + size, whole - size);
    return offset;
  }

  /// Takes back what take(bytes) gave.
  void give(std::size_t offset, std::size_t bytes) {
    std::size_t size = rounded(bytes);
    auto next = holes_.lower_bound(offset);
    if (next != holes_.end() && offset + size == next->first) {
      size += next->second;
      next = holes_.erase(next);
    }
    if (next != holes_.begin())
      if (auto const before = std::prev(next); before->first + before->second == offset) {
        before->second += size;
        return;
      }
    holes_.emplace_hint(next, offset, size);
  }

  [[nodiscard]] std::size_t largest_hole() const {
    std::size_t most = 0;
    for (auto const& [offset, size] : holes_) most = (std::max)(most, size);
    return most;
  }

 private:
  static std::size_t rounded(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

  std::map<std::size_t, std::size_t> holes_;  ///< offset and size
};

}  // namespace detail
}  // namespace v0
}  // namespace gptq
