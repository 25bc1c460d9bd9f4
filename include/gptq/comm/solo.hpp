/// One worker: every verb has nothing to do.
#pragma once

#include <gptq/core/communicator.hpp>

#include <span>
#include <type_traits>

namespace gptq {
inline namespace v0 {

/// Models communicator in any memory.
template <class Space = host_space>
class solo {
 public:
  using space = Space;

  [[nodiscard]] static constexpr int rank() { return 0; }
  [[nodiscard]] static constexpr int size() { return 1; }

  /// The only worker holds the root already, in `total`. Throws shape_error where it does not.
  template <class T>
  void sum(std::type_identity_t<std::span<tree_node<T, Space> const>> nodes, matrix_view<T, Space> total) {
    if (nodes.size() != 1 || nodes[0].sum.data != total.data)
      throw shape_error("sum: one worker has to bring the root of all leaves");
  }
  template <class T>
  void gather(matrix_view<T, Space>, std::span<index_t const>) {}
  template <class T>
  void share(matrix_view<T, Space>, int) {}
  [[nodiscard]] worker_status agree(worker_status const& status) { return {status.state, 0, status.reason}; }
};

}  // namespace v0
}  // namespace gptq
