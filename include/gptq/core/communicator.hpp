/// The concept of a communicator: several workers on one run, and what they ask of each other.
///
/// Every worker runs the same program on its share of the samples and of the outputs. All of them call the same verbs
/// in the same order with the same sizes; only the data differ. A verb returns when this worker may go on: what it
/// wrote is complete, and what it read may be changed again. Views lie in the memory of the worker's backend.
///
///   gptq::run_workers(4, [&](gptq::communicator auto& c) {
///     auto const mine = gptq::share_of(leaves, c.rank(), c.size());  // …
///   });
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/quantize_backend.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Numbers [first, first + count) of something that is dealt to workers.
struct index_range {
  index_t first = 0;
  index_t count = 0;
};

/// Where the share of each worker begins and the last one ends [workers + 1], when n things are dealt to workers in
/// whole units (the last one may be cut short). Shares differ by one unit at most; where workers are many, some have none,
/// but never the first.
inline std::vector<index_t> deal(index_t n, int workers, index_t unit = 1) {
  index_t const units = (n + unit - 1) / unit;
  std::vector<index_t> bounds;
  for (int r = 0; r <= workers; ++r) bounds.push_back((std::min)(n, (units * r + workers - 1) / workers * unit));
  return bounds;
}

/// The share of one worker.
inline index_range share_of(index_t n, int rank, int workers, index_t unit = 1) {
  auto const bounds = deal(n, workers, unit);
  auto const r = static_cast<std::size_t>(rank);
  return {bounds[r], bounds[r + 1] - bounds[r]};
}

/// Part of a sum over leaves 0, 1, …: node (0, i) is leaf i, node (level, i) = node (level − 1, 2i) + node (level − 1,
/// 2i + 1), or the one of them that is there. The root is the node that holds all leaves.
template <class T, class Space = host_space>
struct tree_node {
  int level = 0;
  index_t index = 0;
  matrix_view<T const, Space> sum;
};

/// What a worker tells the others in `agree`.
enum class worker_state : unsigned char { ok, failed };

/// How a worker stands. In rising order of state: the worst is everybody's.
struct worker_status {
  worker_state state = worker_state::ok;
  int worker = 0;      ///< whose status it is
  std::string reason;  ///< what failed, a sentence without the worker's number
};

/// Another worker failed, ended early or did not come to a verb in time; the text names the worker and the reason.
class worker_error : public error {
 public:
  worker_error(int rank, std::string const& reason)
      : error("worker " + std::to_string(rank) + ": " + reason), worker(rank) {}
  explicit worker_error(worker_status const& status) : worker_error(status.worker, status.reason) {}
  int worker;
};

/// The requirements. For a communicator c, views of any trivially copyable type T in its memory:
///
///   c.rank(), c.size()         this worker's number, and how many there are
///   c.sum(nodes, total)        each worker brings the nodes that it has, none of which hold a leaf that another holds.
///                              `total` of every worker becomes the root, bit for bit what one worker with all nodes
///                              gets; 0 where there are none. It may be the memory of one of the own nodes; other nodes
///                              are left as they are. T is float or double
///   c.gather(x, bounds)        output tiles, which are columns of x: worker r has the columns [bounds[r], bounds[r + 1]),
///                              afterwards every worker has all
///   c.share(x, root)           x of worker `root` becomes everybody's
///   c.agree(status)            a barrier; returns the worst status, of several failures the same one for all. A worker that
///                              has failed is not waited for and does not wait
///
/// Failure crosses workers in `agree` alone: whoever waits in a verb for a worker that agreed to have failed is released
/// with worker_error, and so is every worker that comes to a verb after that. A worker that neither comes nor fails is
/// named the same way when the model's deadline is over. After worker_error a communicator is of no use.
template <class C>
concept communicator = requires(C& c, C const& facts, std::span<tree_node<float, typename C::space> const> nodes,
                                view_of<C, float> x, view_of<C, std::uint8_t> codes, std::span<index_t const> bounds,
                                index_t leaves, worker_status const& status) {
  { facts.rank() } -> std::same_as<int>;
  { facts.size() } -> std::same_as<int>;
  c.sum(nodes, x);
  c.gather(codes, bounds);
  c.share(x, 0);
  { c.agree(status) } -> std::same_as<worker_status>;
};

}  // namespace v0
}  // namespace gptq
