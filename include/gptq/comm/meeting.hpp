/// Where the workers of one process meet: a barrier that shows what each of them offers to all, and that lets nobody
/// wait for one who has failed.
#pragma once

#include <gptq/core/communicator.hpp>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// One meeting serves one run_workers; every worker calls it from its own thread.
class meeting {
 public:
  /// What a worker brings to the barrier.
  struct offer {
    std::string verb;              ///< with its sizes: the same for all
    void const* object = nullptr;  ///< for the others to read until this worker has settled
  };

  /// A worker that others wait for longer than `deadline` counts as failed.
  meeting(int workers, std::chrono::milliseconds deadline)
      : deadline_(deadline), here_(static_cast<std::size_t>(workers), false) {
    for (auto& offers : offers_) offers.resize(here_.size());
  }

  [[nodiscard]] int size() const { return static_cast<int>(here_.size()); }

  /// Waits for all; returns what they bring by rank, valid until this worker arrives once more. Throws worker_error where
  /// one has failed, has ended or does not come, and shape_error in all where they bring different verbs.
  std::vector<offer> const& arrive(int rank, offer mine) {
    std::unique_lock lock(mutex_);
    std::vector<offer> const& all = offers_[round_ % 2];
    if (!meet(lock, rank, std::move(mine))) throw worker_error(*failure_);
    check_verbs(all);
    return all;
  }

  /// A second barrier behind arrive(), for workers that can't fail in between.
  void settle() noexcept {
    std::unique_lock lock(mutex_);
    if (std::uint64_t const now = round_; !last()) wake_.wait(lock, [&] { return round_ != now; });
  }

  /// communicator's agree.
  worker_status agree(int rank, worker_status mine) {
    std::unique_lock lock(mutex_);
    if (mine.state == worker_state::failed) return fail({mine.state, rank, std::move(mine.reason)});
    std::vector<offer> const& all = offers_[round_ % 2];
    if (!meet(lock, rank, {"agree"})) return *failure_;
    check_verbs(all);
    return {worker_state::ok, rank, {}};
  }

  /// A worker has done all it had to do: who waits for it waits in vain.
  void leave(int rank) {
    std::unique_lock lock(mutex_);
    ended_ = rank;
    if (arrived_ > 0) fail_ended();
  }

 private:
  static void check_verbs(std::vector<offer> const& all) {
    for (std::size_t r = 1; r < all.size(); ++r)
      if (all[r].verb != all[0].verb)
        throw shape_error("worker 0 calls " + all[0].verb + " where worker " + std::to_string(r) + " calls " +
                          all[r].verb);
  }

  /// True when all are here, with the lock held; false where failure_ says why not.
  bool meet(std::unique_lock<std::mutex>& lock, int rank, offer mine) {
    if (ended_) fail_ended();
    if (failure_) return false;
    here_[static_cast<std::size_t>(rank)] = true;
    offers_[round_ % 2][static_cast<std::size_t>(rank)] = std::move(mine);
    std::uint64_t const now = round_;
    if (last()) return true;
    wake_.wait_for(lock, deadline_, [&] { return round_ != now || failure_; });
    if (round_ != now) return true;
    if (!failure_) fail_missing(offers_[now % 2][static_cast<std::size_t>(rank)].verb);
    return false;
  }

  /// Counts one in; true, and a new round, for the last of all.
  bool last() {
    if (++arrived_ < size()) return false;
    arrived_ = 0;
    here_.assign(here_.size(), false);
    ++round_;
    wake_.notify_all();
    return true;
  }

  worker_status const& fail(worker_status status) {
    if (!failure_) failure_ = std::move(status);
    wake_.notify_all();
    return *failure_;
  }
  void fail_ended() { fail({worker_state::failed, *ended_, "has ended, and others wait for it"}); }
  void fail_missing(std::string const& verb) {
    std::size_t missing = 0;
    while (here_[missing]) ++missing;
    fail({worker_state::failed, static_cast<int>(missing),
          "did not come to " + verb + " within " + std::to_string(deadline_.count()) + " ms"});
  }

  std::chrono::milliseconds deadline_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::uint64_t round_ = 0;
  int arrived_ = 0;
  std::vector<bool> here_;                    ///< by rank, in this round
  std::array<std::vector<offer>, 2> offers_;  ///< of this round and of the one before, which may still be read
  std::optional<worker_status> failure_;
  std::optional<int> ended_;
};

}  // namespace v0
}  // namespace gptq
