/// The ordered sum over the leaves of a tree, element by element, from whatever nodes there are.
#pragma once

#include <gptq/core/communicator.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Adds up rows of a tree in host memory. Makes its working memory at once, so that adding can't fail.
template <class T>
class tree_sum {
 public:
  /// Rows of at most so many columns. Throws shape_error for nodes that hold a leaf twice.
  tree_sum(std::vector<tree_node<T>> nodes, index_t columns) : nodes_(std::move(nodes)) {
    for (tree_node<T> const& n : nodes_)
      while (n.index >> (std::max)(root_ - n.level, 0) > 0 || root_ < n.level) ++root_;
    for (std::size_t i = 0; i < nodes_.size(); ++i)
      for (std::size_t j = 0; j < i; ++j) check_apart(nodes_[i], nodes_[j]);
    scratch_ = matrix<T>(root_ + 1, columns);
  }

  /// The first `columns` elements of a row of the root, or null where there are no nodes; to be copied before the next
  /// call.
  [[nodiscard]] T const* row(index_t r, index_t columns) noexcept { return add(root_, 0, r, columns); }

 private:
  static void check_apart(tree_node<T> const& a, tree_node<T> const& b) {
    int const level = (std::max)(a.level, b.level);
    if (a.index >> (level - a.level) == b.index >> (level - b.level))
      throw shape_error("sum: two nodes hold leaf " +
                        std::to_string((std::max)(a.index << a.level, b.index << b.level)));
  }

  T const* add(int level, index_t index, index_t r, index_t columns) noexcept {
    for (tree_node<T> const& n : nodes_)
      if (n.level == level && n.index == index) return n.sum.row(r);
    if (level == 0) return nullptr;
    T const* const left = add(level - 1, 2 * index, r, columns);
    T* const sum = scratch_.row(level);
    if (left) std::copy_n(left, columns, sum);  // the other half may use the rows below
    T const* const right = add(level - 1, 2 * index + 1, r, columns);
    if (!left || !right) return left ? sum : right;
    for (index_t c = 0; c < columns; ++c) sum[c] += right[c];
    return sum;
  }

  std::vector<tree_node<T>> nodes_;
  int root_ = 0;       ///< its level
  matrix<T> scratch_;  ///< a row for each level
};

}  // namespace v0
}  // namespace gptq
