/// The ordered sum over the leaves of a tree, element by element, from whatever nodes there are.
#pragma once

#include <gptq/core/communicator.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The level of the root of a tree over so many leaves.
constexpr int root_level(index_t leaves) {
  int level = 0;
  while ((index_t(1) << level) < leaves) ++level;
  return level;
}

/// Throws shape_error unless the nodes hold each leaf once.
template <class T>
void check_nodes(std::span<tree_node<T> const> nodes, index_t leaves) {
  std::vector<int> held(static_cast<std::size_t>(leaves), 0);
  for (tree_node<T> const& n : nodes) {
    index_t const first = n.index << n.level, end = (n.index + 1) << n.level;
    if (n.level < 0 || n.index < 0 || first >= leaves)
      throw shape_error("sum: node " + std::to_string(n.index) + " of level " + std::to_string(n.level) +
                        " is not of a tree over " + std::to_string(leaves) + " leaves");
    for (index_t i = first; i < (std::min)(end, leaves); ++i) ++held[static_cast<std::size_t>(i)];
  }
  for (std::size_t i = 0; i < held.size(); ++i)
    if (held[i] != 1)
      throw shape_error("sum: leaf " + std::to_string(i) + (held[i] ? " is there twice" : " is missing"));
}

/// Adds up rows of a tree. Makes its working memory at once, so that adding can't fail.
template <class T>
class tree_sum {
 public:
  /// Rows of at most so many columns. The nodes have passed check_nodes.
  tree_sum(std::vector<tree_node<T>> nodes, index_t leaves, index_t columns)
      : nodes_(std::move(nodes)), leaves_(leaves), scratch_(root_level(leaves) + 1, columns) {}

  /// The first `columns` elements of a row of the root; to be copied before the next call.
  [[nodiscard]] T const* row(index_t r, index_t columns) noexcept { return add(root_level(leaves_), 0, r, columns); }

 private:
  T const* add(int level, index_t index, index_t r, index_t columns) noexcept {
    for (tree_node<T> const& n : nodes_)
      if (n.level == level && n.index == index) return n.sum.row(r);
    T const* const left = add(level - 1, 2 * index, r, columns);
    index_t const second = (2 * index + 1) << (level - 1);
    if (second >= leaves_) return left;
    T* const sum = scratch_.row(level);
    std::copy_n(left, columns, sum);  // the second half may use the rows below
    T const* const right = add(level - 1, 2 * index + 1, r, columns);
    for (index_t c = 0; c < columns; ++c) sum[c] += right[c];
    return sum;
  }

  std::vector<tree_node<T>> nodes_;
  index_t leaves_;
  matrix<T> scratch_;  ///< a row for each level
};

/// Columns of row r that are summed.
constexpr index_t summed_columns(summed_part part, index_t r, index_t columns) {
  return part == summed_part::all ? columns : (std::min)(r + 1, columns);
}

/// Where the rows of each worker begin and end [workers + 1], so that all sum about as many elements.
inline std::vector<index_t> deal_rows(summed_part part, index_t rows, int workers) {
  if (part == summed_part::all) return deal(rows, workers);
  std::vector<index_t> bounds;
  for (int r = 0; r <= workers; ++r)
    bounds.push_back(static_cast<index_t>(std::lround(static_cast<double>(rows) * std::sqrt(double(r) / workers))));
  return bounds;
}

}  // namespace v0
}  // namespace gptq
