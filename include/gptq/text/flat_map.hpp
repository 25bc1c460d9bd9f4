/// A hash table for keys of 64 bits that only grows: one flat array, made for many lookups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// Open addressing with linear probing, at most two thirds full. The key ~0 is not allowed.
template <class Value>
class flat_map {
 public:
  /// Room for `count` entries, so that inserting them moves none.
  explicit flat_map(std::size_t count = 0) { allocate(count); }

  [[nodiscard]] std::size_t size() const { return size_; }

  /// The value of a key, or null.
  [[nodiscard]] Value const* find(std::uint64_t key) const {
    for (std::size_t i = start(key);; i = (i + 1) & mask_) {
      if (slots_[i].first == key) return &slots_[i].second;
      if (slots_[i].first == free) return nullptr;
    }
  }

  /// Sets the value of a key, known or new.
  void insert_or_assign(std::uint64_t key, Value value) {
    if (3 * (size_ + 1) > 2 * slots_.size()) grow();
    std::size_t i = start(key);
    while (slots_[i].first != key && slots_[i].first != free) i = (i + 1) & mask_;
    if (slots_[i].first == free) ++size_;
    slots_[i] = {key, std::move(value)};
  }

 private:
  static constexpr std::uint64_t free = ~std::uint64_t{0};

  [[nodiscard]] std::size_t start(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> shift_);  // Fibonacci hashing
  }
  void allocate(std::size_t count) {
    shift_ = 60;
    while ((std::size_t{1} << (64 - shift_)) * 2 < count * 3 + 3) --shift_;
    slots_.assign(std::size_t{1} << (64 - shift_), {free, Value{}});
    mask_ = slots_.size() - 1;
    size_ = 0;
  }
  void grow() {
    auto const old = std::exchange(slots_, {});
    allocate(old.size());
    for (auto const& slot : old)
      if (slot.first != free) insert_or_assign(slot.first, slot.second);
  }

  std::vector<std::pair<std::uint64_t, Value>> slots_;
  std::size_t mask_ = 0;
  std::size_t size_ = 0;
  int shift_ = 60;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
