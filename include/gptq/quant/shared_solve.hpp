/// A solve that several workers share: output tiles are dealt to them, and everybody gets all.
#pragma once

#include <gptq/core/communicator.hpp>
#include <gptq/quant/solver.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <numeric>
#include <span>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace detail {

/// Where the outputs of each worker begin and end [workers + 1]: at borders of the backend's tiles, so that every output
/// is solved in the tile that it would be in with one worker.
template <quantize_backend B>
std::vector<index_t> deal_tiles(B& b, index_t outputs, int workers) {
  std::vector<index_t> starts;
  std::mutex one_at_a_time;
  b.for_each_tile(outputs, [&](index_t first, index_t) {
    std::lock_guard const lock(one_at_a_time);
    starts.push_back(first);
  });
  std::sort(starts.begin(), starts.end());
  starts.push_back(outputs);
  std::vector<index_t> bounds = deal(static_cast<index_t>(starts.size()) - 1, workers);
  for (index_t& bound : bounds) bound = starts[static_cast<std::size_t>(bound)];
  return bounds;
}

/// The outputs that this worker solves.
template <quantize_backend B, communicator C>
index_range own_outputs(B& b, C& c, index_t outputs) {
  if (c.size() == 1) return {0, outputs};
  auto const bounds = deal_tiles(b, outputs, c.size());
  auto const r = static_cast<std::size_t>(c.rank());
  return {bounds[r], bounds[r + 1] - bounds[r]};
}

/// The columns of all workers, of which this one has `mine`.
template <class T, quantize_backend B, communicator C>
matrix_of<B, T> gather_columns(B& b, C& c, matrix_of<B, T> const& mine, std::span<index_t const> bounds) {
  auto all = b.template make<T>(mine.rows(), bounds.back());
  view_of<B, T> const view = all;
  b.copy(view_of<B, T const>(mine), view.col_range(bounds[static_cast<std::size_t>(c.rank())], mine.cols()));
  c.gather(view, bounds);
  return all;
}

/// The same for numbers on the host.
template <quantize_backend B, communicator C>
matrix<double> gather_numbers(B& b, C& c, matrix<double> const& mine, std::span<index_t const> bounds) {
  auto own = b.template make<double>(mine.rows(), mine.cols());
  b.upload(mine.view(), view_of<B, double>(own));
  auto const all = gather_columns<double>(b, c, own, bounds);
  matrix<double> host(all.rows(), all.cols());
  b.download(view_of<B, double const>(all), host.view());
  return host;
}

template <quantize_backend B, communicator C>
std::vector<output_loss> gather_losses(B& b, C& c, std::vector<output_loss> const& mine,
                                       std::span<index_t const> bounds) {
  constexpr std::array<double output_loss::*, 8> members = {
      &output_loss::damped, &output_loss::pass, &output_loss::refined,     &output_loss::error,
      &output_loss::energy, &output_loss::rtn,  &output_loss::float_error, &output_loss::float_energy};
  static_assert(members.size() * sizeof(double) == sizeof(output_loss));
  matrix<double> own(static_cast<index_t>(members.size()), static_cast<index_t>(mine.size()));
  for (index_t r = 0; r < own.rows(); ++r)
    for (index_t n = 0; n < own.cols(); ++n)
      own(r, n) = mine[static_cast<std::size_t>(n)].*members[static_cast<std::size_t>(r)];
  matrix<double> const all = gather_numbers(b, c, own, bounds);
  std::vector<output_loss> losses(static_cast<std::size_t>(all.cols()));
  for (index_t r = 0; r < all.rows(); ++r)
    for (index_t n = 0; n < all.cols(); ++n)
      losses[static_cast<std::size_t>(n)].*members[static_cast<std::size_t>(r)] = all(r, n);
  return losses;
}

/// The whole stack, of which this worker solved the outputs from bounds[rank] on.
template <quantize_backend B, communicator C>
quantized_stack<B> gather_stack(B& b, C& c, quantized_stack<B> part, bool measured, std::span<index_t const> bounds) {
  auto& linear = part.linear;
  linear.codes = gather_columns<std::uint8_t>(b, c, linear.codes, bounds);
  linear.zeros = gather_columns<std::uint8_t>(b, c, linear.zeros, bounds);
  linear.scales = gather_columns<float>(b, c, linear.scales, bounds);
  if (measured) part.losses = gather_losses(b, c, part.losses, bounds);

  matrix<double> underflows(1, 1);
  underflows(0, 0) = static_cast<double>(linear.report.scale_underflows);
  matrix<double> const all = gather_numbers(b, c, underflows, deal(c.size(), c.size()));
  linear.report.scale_underflows = static_cast<index_t>(std::accumulate(all.data(), all.data() + all.size(), 0.0));
  linear.report = part.report(0, bounds.back());
  return part;
}

/// What solver<B, W>::solve() gives, each worker doing its share of the outputs. Throws scale_error for an output of this
/// worker's.
template <quantize_backend B, class W, communicator C>
quantized_stack<B> solve_share(B& b, C& c, column_kernels<B> const& kernels, solve_problem<B, W> const& problem,
                               solver_settings const& settings) {
  if constexpr (requires {
                  requires C::size()
                  == 1;
                }) {
    return solver<B, W>(b, kernels, problem, settings).solve();
  } else {
    auto const bounds = deal_tiles(b, problem.weight.rows, c.size());
    auto const r = static_cast<std::size_t>(c.rank());
    index_t const first = bounds[r], count = bounds[r + 1] - first;
    auto mine = problem;
    mine.weight = problem.weight.row_range(first, count);
    if (mine.target.data) mine.target = problem.target.row_range(first, count);
    auto const part = [&] {
      try {
        return solver<B, W>(b, kernels, mine, settings).solve();
      } catch (scale_error const& e) {
        throw scale_error(first + e.output, e.group);
      }
    };
    return gather_stack(b, c, part(), problem.factor->factored(), bounds);
  }
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
