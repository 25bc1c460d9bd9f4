/// Several workers in one process, a thread each, on host memory: for tests, and to try on one machine what several do.
///
///   gptq::run_workers(4, [&](gptq::thread_worker& c) { run(job, backends[c.rank()], c, target, samples); });
#pragma once

#include <gptq/comm/meeting.hpp>
#include <gptq/comm/tree_sum.hpp>
#include <gptq/core/communicator.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Bytes that a worker read from the others' memory, by verb.
struct worker_traffic {
  std::uint64_t sum = 0;
  std::uint64_t gather = 0;
  std::uint64_t share = 0;
};

/// One of the workers of run_workers; models communicator. Serves one thread at a time.
class thread_worker {
 public:
  using space = host_space;

  thread_worker(meeting& m, int rank) : meeting_(&m), rank_(rank) {}

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return meeting_->size(); }
  [[nodiscard]] worker_traffic const& received() const { return received_; }

  /// Each worker adds up its share of the rows, then reads those of the others: between P workers with one node each,
  /// 2·(P − 1)/P of the total's bytes come to each, as in an all-reduce.
  template <class T>
  void sum(std::type_identity_t<std::span<tree_node<T> const>> nodes, matrix_view<T> total) {
    for (tree_node<T> const& n : nodes)
      if (n.sum.rows != total.rows || n.sum.cols != total.cols)
        throw shape_error("sum: a node has another size than the total");
    auto const bounds = deal(total.rows, size());
    together(
        text<T>("sum", total), summand<T>{nodes, total},
        [&](auto const& all) {
          add_rows(all, {bounds[own()], bounds[own() + 1] - bounds[own()]});
        },
        [&](auto const& all) {
          for (std::size_t r = 0; r < all.size(); ++r)
            for (index_t i = bounds[r]; r != own() && i < bounds[r + 1]; ++i)
              received_.sum += copy(all[r]->total.row(i), total.cols, total.row(i));
        });
  }

  template <class T>
  void gather(matrix_view<T> x, std::span<index_t const> bounds) {
    if (bounds.size() != static_cast<std::size_t>(size()) + 1 || bounds.front() != 0 || bounds.back() != x.cols ||
        !std::is_sorted(bounds.begin(), bounds.end()))
      throw shape_error("gather: no tiles of " + std::to_string(x.cols) + " columns for " + std::to_string(size()) +
                        " workers");
    together(text<T>("gather", x), x, [&](auto const& all) {
      for (std::size_t r = 0; r < all.size(); ++r)
        for (index_t i = 0; r != own() && i < x.rows; ++i)
          received_.gather += copy(all[r]->row(i) + bounds[r], bounds[r + 1] - bounds[r], x.row(i) + bounds[r]);
    });
  }

  template <class T>
  void share(matrix_view<T> x, int root) {
    together(text<T>("share", x) + " of worker " + std::to_string(root), x, [&](auto const& all) {
      for (index_t i = 0; rank_ != root && i < x.rows; ++i)
        received_.share += copy(all[static_cast<std::size_t>(root)]->row(i), x.cols, x.row(i));
    });
  }

  [[nodiscard]] worker_status agree(worker_status const& status) { return meeting_->agree(rank_, status); }

 private:
  template <class T>
  struct summand {
    std::span<tree_node<T> const> nodes;
    matrix_view<T> total;
  };

  [[nodiscard]] std::size_t own() const { return static_cast<std::size_t>(rank_); }

  template <class T>
  static std::string text(char const* verb, matrix_view<T> x) {
    return std::string(verb) + " of " + std::to_string(x.rows) + " x " + std::to_string(x.cols) + " elements of " +
           std::to_string(sizeof(T)) + " bytes";
  }

  /// Each step(objects of all) once all workers are through with the one before. Nobody leaves while others may read: an
  /// exception waits for the end.
  template <class Object, class... Steps>
  void together(std::string verb, Object const& mine, Steps&&... steps) {
    auto const& offers = meeting_->arrive(rank_, {std::move(verb), &mine});
    std::exception_ptr failure;
    std::vector<Object const*> all;
    auto const guarded = [&](auto&& step) {
      try {
        if (!failure) step();
      } catch (...) {
        failure = std::current_exception();
      }
    };
    guarded([&] {
      for (auto const& o : offers) all.push_back(static_cast<Object const*>(o.object));
    });
    ((guarded([&] { steps(all); }), meeting_->settle()), ...);
    if (failure) std::rethrow_exception(failure);
  }

  template <class T>
  void add_rows(std::vector<summand<T> const*> const& all, index_range rows) {
    std::vector<tree_node<T>> nodes;
    for (summand<T> const* s : all) nodes.insert(nodes.end(), s->nodes.begin(), s->nodes.end());
    auto const& mine = *all[own()];
    index_t const columns = mine.total.cols;
    auto const foreign = static_cast<std::uint64_t>(nodes.size() - mine.nodes.size());
    tree_sum<T> tree(std::move(nodes), columns);
    for (index_t i = rows.first; i < rows.first + rows.count; ++i) {
      T const* const row = tree.row(i, columns);
      if (row)
        copy(row, columns, mine.total.row(i));
      else
        std::fill_n(mine.total.row(i), columns, T(0));
      received_.sum += foreign * static_cast<std::uint64_t>(columns) * sizeof(T);
    }
  }

  /// Returns how many bytes that were.
  template <class T>
  static std::uint64_t copy(T const* from, index_t count, T* to) {
    if (from != to) std::copy_n(from, count, to);
    return static_cast<std::uint64_t>(count) * sizeof(T);
  }

  meeting* meeting_;
  int rank_;
  worker_traffic received_;
};

/// How workers wait for each other.
struct worker_options {
  std::chrono::milliseconds deadline = std::chrono::hours(1);  ///< for one that neither comes nor fails
};

/// Calls f(thread_worker&) in n threads at once, of which the caller's is worker 0, and returns when all have. Where
/// workers fail, the others are released from the verbs they wait in, and the exception of the failed worker of the
/// lowest rank is thrown again. A thread can't be ended from outside: one that never returns is waited for.
template <class F>
void run_workers(int n, F&& f, worker_options const& options = {}) {
  if (n < 1) throw shape_error("run_workers: " + std::to_string(n) + " workers");
  meeting m(n, options.deadline);
  std::vector<std::exception_ptr> causes(static_cast<std::size_t>(n)), consequences(causes.size());
  auto const work = [&](int rank) {
    auto const r = static_cast<std::size_t>(rank);
    auto const failed = [&](char const* reason) {
      static_cast<void>(m.agree(rank, {worker_state::failed, rank, reason}));
    };
    thread_worker c(m, rank);
    try {
      f(c);
      m.leave(rank);
    } catch (worker_error const& e) {
      consequences[r] = std::current_exception();
      failed(e.what());
    } catch (std::exception const& e) {
      causes[r] = std::current_exception();
      failed(e.what());
    } catch (...) {
      causes[r] = std::current_exception();
      failed("an exception without a text");
    }
  };
  std::vector<std::thread> threads;
  try {
    for (int rank = 1; rank < n; ++rank) threads.emplace_back(work, rank);
    work(0);
  } catch (std::system_error const& e) {  // no more threads
    causes[0] = std::current_exception();
    static_cast<void>(m.agree(0, {worker_state::failed, 0, e.what()}));
  }
  for (std::thread& t : threads) t.join();
  for (auto const* all : {&causes, &consequences})
    for (std::exception_ptr const& e : *all)
      if (e) std::rethrow_exception(e);
}

}  // namespace v0
}  // namespace gptq
