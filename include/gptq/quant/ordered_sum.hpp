/// Sums over calibration tokens in an order that is fixed: leaf by leaf (gptq/core/leaves.hpp), and the sums of leaves in
/// a binary tree, node(level, i) = node(level − 1, 2i) + node(level − 1, 2i + 1), where the right one is missing the left
/// one alone. Whoever adds the leaves, one worker or several, comes to the same bits.
#pragma once

#include <gptq/core/communicator.hpp>
#include <gptq/core/error.hpp>
#include <gptq/core/quantize_backend.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The part of a matrix that a sum consists of.
enum class summed_part : unsigned char { all, lower_triangle };

/// The sum over leaves [index · 2^level, (index + 1) · 2^level). A lower triangle is packed as pack_lower does it.
template <quantize_backend B>
struct sum_node {
  int level = 0;
  index_t index = 0;
  matrix_of<B, typename B::scalar> values;
};

/// A sum [rows × cols] in the backend's memory. At one worker it holds beside the matrix that is added to at most one
/// node a level: three packed triangles with eight leaves.
template <quantize_backend B, summed_part Part>
class ordered_sum {
 public:
  using scalar = typename B::scalar;
  using node = sum_node<B>;

  ordered_sum(B& b, index_t rows, index_t cols)
      : b_(&b), rows_(rows), cols_(cols), current_(b.template make<scalar>(rows, cols)) {}

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }

  /// What is added from now on belongs to that leaf, 0 before the first call. To be called before anything is added to
  /// it, with a number above the one before. Where memory is short it throws before anything changes.
  void begin_leaf(index_t leaf) {
    if (leaf == leaf_) return;
    if (leaf < leaf_ || total_)
      throw shape_error("leaf " + std::to_string(leaf) + " of a sum comes after " +
                        (total_ ? "its end" : "leaf " + std::to_string(leaf_)));
    if (filled_) close();
    leaf_ = leaf;
  }

  /// f(sum, fresh) adds to the sum of the current leaf, or if `fresh` writes its first value.
  template <class F>
  void add(F&& f) {
    f(view_of<B, scalar>(current_), !filled_);
    filled_ = true;
  }

  /// The sum of all leaves so far; none may follow. The first call does the work: not in several threads. Mutable, for sums that were taken elsewhere.
  matrix_of<B, scalar>& total() {
    if (!total_) finish();
    total_ = true;
    return current_;
  }

  /// Nodes that hold all that was added, and leaves nothing behind. For workers whose leaves follow each other.
  std::vector<node> take() {
    if (filled_) close();
    return std::exchange(nodes_, {});
  }
  /// Adds a node of another sum, over leaves that this one does not have.
  void insert(node n) {
    if (filled_) close();
    for (auto sibling = find(n.level, n.index ^ 1); sibling != nodes_.end(); sibling = find(n.level, n.index ^ 1)) {
      b_->add(scalar(1), view_of<B, scalar const>(std::as_const(sibling->values)), view_of<B, scalar>(n.values));
      nodes_.erase(sibling);
      up(n);
    }
    if (find(n.level, n.index) != nodes_.end())
      throw shape_error("two sums hold leaf " + std::to_string(n.index << n.level));
    nodes_.push_back(std::move(n));
  }

  /// Becomes the sum over the leaves of all workers, in each of them. No leaf may follow.
  template <communicator C>
  void sum_over(C& c) {
    if (c.size() == 1 || rows_ * cols_ == 0) return;
    std::vector<node> own = take();
    std::vector<tree_node<scalar, typename B::space>> nodes;
    for (node const& n : own) nodes.push_back({n.level, n.index, n.values});
    matrix_of<B, scalar> total = own.empty() ? make_node() : std::move(own.back().values);
    c.template sum<scalar>(nodes, total);
    insert({0, 0, std::move(total)});  // alone, a node is the root at any level
  }

 private:
  static void up(node& n) {
    ++n.level;
    n.index /= 2;
  }
  auto find(int level, index_t index) {
    return std::find_if(nodes_.begin(), nodes_.end(),
                        [&](node const& n) { return n.level == level && n.index == index; });
  }
  /// current += a node.
  void add_to_current(matrix_of<B, scalar> const& values) {
    view_of<B, scalar const> const v = values;
    if constexpr (Part == summed_part::all)
      b_->add(scalar(1), v, view_of<B, scalar>(current_));
    else
      b_->add_packed(v, view_of<B, scalar>(current_));
  }
  matrix_of<B, scalar> make_node() {
    if constexpr (Part == summed_part::all)
      return b_->template make<scalar>(rows_, cols_);
    else
      return b_->template make<scalar>((rows_ + 1) / 2, rows_ + 1);
  }

  /// The current leaf becomes a node, together with those that it completes.
  void close() {
    matrix_of<B, scalar> spare;
    if (find(0, leaf_ ^ 1) == nodes_.end()) spare = make_node();
    node n{0, leaf_, {}};
    for (auto sibling = find(n.level, n.index ^ 1); sibling != nodes_.end(); sibling = find(n.level, n.index ^ 1)) {
      add_to_current(sibling->values);
      spare = std::move(sibling->values);
      nodes_.erase(sibling);
      up(n);
    }
    if constexpr (Part == summed_part::all)
      std::swap(current_, spare);
    else
      b_->pack_lower(view_of<B, scalar const>(std::as_const(current_)), view_of<B, scalar>(spare));
    n.values = std::move(spare);
    nodes_.push_back(std::move(n));
    filled_ = false;
  }

  /// Level by level: two nodes of one parent become one, a node that is alone goes up as it is.
  void finish() {
    node here{0, leaf_, {}};  // stands for current_
    while (!nodes_.empty()) {
      if (!filled_ && nodes_.size() == 1) return from_last();
      int level = nodes_.front().level;
      for (node const& n : nodes_) level = (std::min)(level, n.level);
      if (filled_) level = (std::min)(level, here.level);
      bool const current = filled_ && here.level == level;
      if (current) {
        if (auto const sibling = find(level, here.index ^ 1); sibling != nodes_.end()) {
          add_to_current(sibling->values);
          nodes_.erase(sibling);
        }
        up(here);
      }
      std::vector<node> rising;
      for (auto n = nodes_.begin(); n != nodes_.end();) {
        if (n->level != level) {
          ++n;
          continue;
        }
        rising.push_back(std::move(*n));
        n = nodes_.erase(n);
      }
      for (node& n : rising) {
        up(n);
        auto const sibling = find(n.level, n.index);
        if (sibling == nodes_.end())
          nodes_.push_back(std::move(n));
        else
          b_->add(scalar(1), view_of<B, scalar const>(std::as_const(n.values)), view_of<B, scalar>(sibling->values));
      }
    }
    if (!filled_) b_->fill(view_of<B, scalar>(current_), scalar(0));
  }
  void from_last() {
    if constexpr (Part == summed_part::all) {
      current_ = std::move(nodes_.front().values);
    } else {
      b_->fill(view_of<B, scalar>(current_), scalar(0));
      add_to_current(nodes_.front().values);
    }
    nodes_.clear();
  }

  B* b_;
  index_t rows_;
  index_t cols_;
  matrix_of<B, scalar> current_;
  std::vector<node> nodes_;
  index_t leaf_ = 0;
  bool filled_ = false;  ///< current_ holds something of the current leaf
  bool total_ = false;
};

}  // namespace v0
}  // namespace gptq
